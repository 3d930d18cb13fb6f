"""Teachers chosen query by query, by a policy that is rewarded for the rankings it makes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from pydantic import Field

from retrodistill.errors import InputError
from retrodistill.scores.combine import Groups, averaged
from retrodistill.scores.learnt import Combined, Learnt, Lists
from retrodistill.scores.traits import traits

_MOST_TEACHERS = 8  # 255 sets of them are all tried on every query


class Reinforced(Learnt):
    r"""The average of teachers that a policy chooses for each query, learnt from the rankings that choices make.

    The policy draws a set S of teachers with probability `pi(S) ~ exp(sum of z_k over k in S)`: every teacher is taken
    or left on its own, only never all left. `z_k` is linear in what teacher k's list of the query looks like, without
    labels: how sure it is, how far its first is ahead of its second, spread and height of its raw scores, how it goes
    with the other teachers, how much it judged. The reward of a set is nDCG at `cut` of the mean of its teachers over
    the query's candidates, by the labels. All sets are tried on all labelled queries, so that the expected reward and
    its gradient, which REINFORCE draws samples of, are exact; they are climbed less `penalty` times the squared
    coefficients. That begins at, and shrinks to, the plain mean.

    A query is then combined as the policy would on the average: each set's mean by the probability of the set. With
    `select`, by the likeliest set alone.

    Of a train query's own labels nothing goes into its scores: there are `folds`, and each is combined by a policy that
    learnt from the others. Queries that are not of the train split are combined by one that learnt from all of it.

    Source: after Yuan et al. 2021, "Reinforced Multi-Teacher Selection for Knowledge Distillation". There the student's
    loss rewards the policy while both are trained; here the teachers' ranking does, before, so that the scores can be
    kept.
    """

    kind: Literal["reinforced"] = "reinforced"
    cut: int = Field(10, ge=1, description="nDCG of so many is the reward")
    penalty: float = Field(0.1, gt=0, allow_inf_nan=False, description="on the squares of the policy's coefficients")
    select: bool = Field(False, description="the likeliest set of teachers alone, not all by their probability")

    def learn(self, lists: Lists) -> Combined:
        """A policy of labelled queries."""
        if len(lists.scores) > _MOST_TEACHERS:
            raise InputError(
                f"combine: {self.kind} tries every set of teachers; got {len(lists.scores)} teachers, expected at most "
                f"{_MOST_TEACHERS}"
            )
        values, judged, groups = self.scaled(lists.scores, lists.offsets)
        gains = np.maximum(np.nan_to_num(lists.grades.astype(np.float64)), 0)
        sets = subsets(len(values))
        rewards = np.stack(
            [ndcg(averaged(values, judged, chosen[:, None]), gains, groups, self.cut) for chosen in sets]
        )
        policy = Policy.of(traits(lists.scores, groups), rewards.T, self.penalty)
        return Chosen(self, policy)


@dataclass(frozen=True)
class Chosen:
    """Any queries' scores as a policy would combine them."""

    rule: Reinforced
    policy: Policy

    def __call__(self, scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Combine (T, N) raw scores of the teachers that the policy knows: float32 (N,)."""
        values, judged, groups = self.rule.scaled(scores, offsets)
        weights = self.policy.weights(traits(scores, groups), self.rule.select)
        rows = np.repeat(weights, groups.lengths, axis=0).T
        return averaged(values, judged, rows).astype(np.float32)


@dataclass(frozen=True)
class Policy:
    """How likely each set of teachers is for a query, by the traits of their lists.

    Attributes:
        mean: of each trait on the queries learnt from, (T, traits).
        deviation: the same.
        coefficients: of each teacher, a constant first, (T, 1 + traits).
    """

    mean: np.ndarray
    deviation: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def of(cls, found: np.ndarray, rewards: np.ndarray, penalty: float) -> Policy:
        """The policy whose expected reward, less its penalty, no small change makes higher.

        Rewards count in standard deviations of what the choice of a set makes of a query's, so that the penalty means
        the same for any reward.

        Args:
            found: traits, (queries Q, T, traits).
            rewards: of each set in the order of `subsets`, (Q, sets).
            penalty: on the squares of the coefficients.
        """
        from scipy.optimize import minimize

        known = ~np.isnan(found)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, found, 0).sum(axis=0) / count
        deviation = np.sqrt((np.where(known, found - mean, 0) ** 2).sum(axis=0) / count)
        signs = _signs(found, mean, deviation)
        advantages = rewards - rewards.mean(axis=1, keepdims=True)
        scale = np.sqrt((advantages**2).mean())
        if scale > 0:
            advantages = advantages / scale
        sets = subsets(found.shape[1])

        def lost(flat: np.ndarray) -> tuple[float, np.ndarray]:
            coefficients = flat.reshape(signs.shape[1:])
            chances = _chances(np.einsum("qtf,tf->qt", signs, coefficients), sets)
            expected = np.einsum("qs,qs->q", chances, advantages)
            # the gradient of log pi, as REINFORCE has it, by its reward less the expected one, over all sets
            pull = np.einsum("qs,st->qt", chances * (advantages - expected[:, None]), sets)
            gradient = np.einsum("qt,qtf->tf", pull, signs) / len(signs)
            value = -expected.mean() + penalty / 2 * float(flat @ flat)
            return value, penalty * flat - gradient.ravel()

        best = minimize(lost, np.zeros(signs[0].size), jac=True, method="L-BFGS-B")
        return cls(mean, deviation, best.x.reshape(signs.shape[1:]))

    def weights(self, found: np.ndarray, select: bool) -> np.ndarray:
        """What each teacher counts in each query, from its traits: (Q, T), 1 in sum."""
        sets = subsets(found.shape[1])
        signs = _signs(found, self.mean, self.deviation)
        chances = _chances(np.einsum("qtf,tf->qt", signs, self.coefficients), sets)
        if select:
            # of sets as likely, the largest: the plain mean where nothing was learnt
            order = np.argsort(-sets.sum(axis=1), kind="stable")
            likeliest = order[np.argmax(chances[:, order], axis=1)]
            chances = np.eye(len(sets))[likeliest]
        return np.einsum("qs,st->qt", chances, sets / sets.sum(axis=1, keepdims=True))


def subsets(teachers: int) -> np.ndarray:
    """Every set of teachers but the empty one, 1 for those in it: float64 (sets, T)."""
    return np.array(list(product((0.0, 1.0), repeat=teachers)))[1:].reshape(-1, teachers)


def _chances(logits: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """The probability of each set, (Q, sets), where each teacher is taken by its logit, (Q, T), and one at least is."""
    summed = np.einsum("qt,st->qs", logits, sets)
    shares = np.exp(summed - summed.max(axis=1, keepdims=True, initial=-np.inf))
    return shares / shares.sum(axis=1, keepdims=True)


def _signs(found: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """A constant and the traits in standard deviations, those far off brought in: (Q, T, 1 + traits)."""
    unit = np.divide(found - mean, deviation, out=np.zeros_like(found), where=(deviation > 0) & ~np.isnan(found))
    return np.concatenate([np.ones((*found.shape[:2], 1)), np.clip(unit, -3, 3)], axis=-1)


def ndcg(values: np.ndarray, gains: np.ndarray, groups: Groups, cut: int) -> np.ndarray:
    """The nDCG of each query's rows by their values, (queries,); 0 where nothing is relevant.

    Equal values are worth their mean over all orders, and NaN stands below all (McSherry and Najork 2008, "Computing
    Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores").
    """
    place = np.arange(len(values)) - groups.spread(groups.starts)
    discounts = np.where(place < cut, 1 / np.log2(place + 2), 0)
    query = groups.spread(np.arange(len(groups.starts)))
    order = np.lexsort((-values, query))
    sorted_values = np.nan_to_num(values[order], nan=-np.inf)
    runs = np.flatnonzero((np.diff(query, prepend=-1) != 0) | (sorted_values != np.append(np.nan, sorted_values[:-1])))
    lengths = np.diff(np.append(runs, len(values)))
    tied = np.repeat(np.add.reduceat(gains[order], runs) / lengths, lengths)
    ideal = groups.each(np.add, gains[np.lexsort((-gains, query))] * discounts)
    found = groups.each(np.add, tied * discounts)
    return np.divide(found, ideal, out=np.zeros_like(found), where=ideal > 0)


COMBINATIONS = {"reinforced": Reinforced}
