"""How likely a document that nobody labelled is relevant all the same, from who found it, where, and what it scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator
from scipy.special import expit

from retrodistill.candidates import Candidates
from retrodistill.errors import InputError
from retrodistill.mining.pool import Rule
from retrodistill.registry import Part, of

_TOLERANCE = 1e-9
_RIDGE = 1e-6  # a share of the rows: keeps the regression from running off where labels are apart


class Weigher(Rule):
    """Says how much each candidate counts in training, once all are mined.

    Attributes:
        teachers: whose scores it reads; those of the one source that is mined from where left out.
    """

    argument: ClassVar[str | None] = "teachers"
    teachers: tuple[of("teacher"), ...] = ()  # type: ignore[valid-type]

    @field_validator("teachers", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @property
    def judges(self) -> tuple[Part | None, ...]:
        """The teachers."""
        return self.teachers or (None,)

    @property
    def label(self) -> str:
        """With the teachers, joined by "+"."""
        return ":".join([self.kind, *(["+".join(part.label for part in self.teachers)] if self.teachers else [])])

    @property
    def needs_positives(self) -> bool:
        """What is labelled is what it learns from."""
        return True

    @property
    def needs_all(self) -> bool:
        """Of a sample it would take the labelled for more than they are."""
        return True

    @abstractmethod
    def weights(self, candidates: Candidates, scores: np.ndarray) -> np.ndarray:
        """A weight for each row, float32 (rows,), from the judges' scores, (judges, rows), NaN where one gave none."""


class CET(Weigher):
    r"""Weighs an unlabelled document by the probability that it is not relevant: nobody may have looked at it.

    A document is labelled relevant if it is relevant and was selected, `P(label) = r s`, so that one without a label
    is not relevant with probability `w = (1 - r) / (1 - r s)`. `r` is logistic in the teacher's scores, raw and in
    deviations from the query's mean. `s` belongs to a cell: those at ranks 1, 2, 3 to 4, 5 to 8 and so on of the system
    that the labelled `pool` came from, or, if it is not named, of the best source of those that the same sources found.
    Deeper cells are never selected more. Each is estimated by what the other says until both stand: an EM, of which
    what is unlabelled is relevant with probability `1 - w`. Labelled documents keep the weight 1.

    Labels tell `r s`, and their products alone: that of all relevant documents a share lies unlabelled everywhere
    cannot be seen. `first` is what is believed of the first cell, the first rank (by the most sources), and bounds all
    others: 1, the default, holds that nothing relevant was missed there, and weighs down only what other cells miss in
    comparison; labels as sparse as one a query want less. And what ranks say of relevance beyond the teachers' scores
    is taken for selection, so that teachers should know at least what the sources know: name these, too.

    It looks at what sources found and the teacher scored; other rows weigh 1. A sampler would leave it a part of the
    unlabelled rows and all of the labelled, so there must be none: training draws `train.documents` of a list anyway.

    Source: after Cai et al. 2022, "Hard Negatives or False Negatives: Correcting Pooling Bias in Training Neural
    Ranking Models" (coupled estimation of selection and relevance), there by neural models and while the ranker is
    trained; the EM, Bekker et al. 2019, "Beyond the Selected Completely At Random Assumption for Learning from Positive
    and Unlabeled Data"; a propensity known at the first rank, as in Wang et al. 2018, "Position Bias Estimation for
    Unbiased Learning to Rank in Personal Search".

    Attributes:
        pool: whose ranking was looked at when labels were made, such as bm25.
        first: the probability that a relevant document of the first cell is labelled.
        rounds: of the estimation, at most.
    """

    kind: Literal["cet"] = "cet"
    pool: of("teacher") | None = Field(None, description="whose ranking was looked at when labels were made")  # type: ignore[valid-type]
    first: float = Field(1.0, gt=0, le=1, description="probability that a relevant document at rank 1 is labelled")
    rounds: int = Field(200, ge=1, description="of the estimation, at most")

    @property
    def judges(self) -> tuple[Part | None, ...]:
        """The teachers, and the system that was pooled."""
        return (*super().judges, *([self.pool] if self.pool else []))

    def weights(self, candidates: Candidates, scores: np.ndarray) -> np.ndarray:
        """The probability of not being relevant where nobody labelled; 1 elsewhere."""
        known = (candidates.ranks > 0) & ~np.isnan(scores).any(axis=0)
        labels = candidates.labels[known]
        if not (labels > 0).any():
            raise InputError(
                f"{self.label}: none of the {int(known.sum()):,} documents that were found and scored is labelled "
                "relevant; there is nothing to estimate from. Add a source that finds some, or mine without weighing"
            )
        query = np.repeat(np.arange(len(candidates.queries)), np.diff(candidates.offsets))[known]
        told = scores[:, known].astype(np.float64)
        if self.pool:
            cells = Cells.of([self.pool.label], np.zeros(len(query), dtype=np.int64), _ranks(told[-1], query))
            told = told[:-1]
        else:
            sources = candidates.table.column("source").combine_chunks().dictionary_encode()
            names, source = sources.dictionary.to_pylist(), sources.indices.to_numpy()
            cells = Cells.of(names, source[known], candidates.ranks[known])
        found = estimate(labels, _traits(told, query), cells, self.first, self.rounds)
        result = np.ones(len(candidates), dtype=np.float32)
        result[known] = np.where(np.isnan(labels), found.irrelevant, 1)
        return result


@dataclass(frozen=True)
class Cells:
    """Rows that are selected alike.

    Attributes:
        cell: of each row, int64 (rows,).
        chains: the cells of those found by the same sources, from the first rank down; the first cell of the first
            chain is that whose selection is believed to be known.
    """

    cell: np.ndarray
    chains: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, names: Sequence[str], source: np.ndarray, ranks: np.ndarray) -> Cells:
        """From those who found rows, names joined by "+", the place there of each row's, and its best rank, from 1."""
        depth = np.ceil(np.log2(ranks)).astype(np.int64)  # 1; 2; 3 and 4; 5 to 8
        groups = ["+".join(sorted(name.split("+"))) for name in names]
        # those that the most found first; among as many the name decides
        order = sorted({groups[place] for place in np.unique(source)}, key=lambda group: (-group.count("+"), group))
        number = np.array([order.index(group) if group in order else -1 for group in groups], dtype=np.int64)
        unique, cell = np.unique(number[source] * 64 + depth, return_inverse=True)
        return cls(cell, tuple(np.flatnonzero(unique // 64 == group) for group in range(len(order))))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """A row's values by cell, (cells,)."""
        return np.bincount(self.cell, values, minlength=int(self.cell.max(initial=-1)) + 1)


@dataclass(frozen=True)
class Estimate:
    """What is made of the labels.

    Attributes:
        relevant: the probability that a row is relevant, whether or not it is labelled, (rows,).
        selected: the probability that a relevant row of a cell is labelled, (cells,).
        irrelevant: the probability that an unlabelled row is not relevant, (rows,).
        likelihoods: the mean log-likelihood of the labels before each round.
    """

    relevant: np.ndarray
    selected: np.ndarray
    irrelevant: np.ndarray
    likelihoods: list[float]


def estimate(labels: np.ndarray, traits: np.ndarray, cells: Cells, first: float, rounds: int) -> Estimate:
    """Estimate relevance and selection together.

    Args:
        labels: grades, (rows,), NaN where nobody labelled; one of 0 or less is known not to be relevant.
        traits: what relevance is logistic in, a constant among them, (rows, traits).
        cells: which rows are selected alike.
        first: the selection of the first cell, and the most that any has.
        rounds: at most; fewer where the likelihood stands.
    """
    work = _Estimation(labels > 0, np.isnan(labels), traits, cells, first)
    now = work.begin()
    likelihoods = [work.likelihood(now)]
    for _ in range(rounds):
        once = work.step(now)
        twice = work.step(once)
        # two steps tell where the rest of them lead (Varadhan and Roland 2008, "SQUAREM")
        change, bend = once - now, twice - once - (once - now)
        length = np.linalg.norm(change) / max(float(np.linalg.norm(bend)), 1e-300)
        ahead = work.step(work.within(now + 2 * length * change + length**2 * bend)) if length > 1 else twice
        now = max(twice, ahead, key=work.likelihood)
        likelihoods.append(work.likelihood(now))
        if likelihoods[-1] - likelihoods[-2] < _TOLERANCE:
            break
    chance, selected = work.chance(now), now[traits.shape[1] :]
    return Estimate(chance, selected, 1 - _missed(chance, selected[cells.cell]), likelihoods)


def _missed(chance: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """The probability that an unlabelled row is relevant: 0 where nothing is ever missed, though all be relevant."""
    unlabelled = 1 - chance * selected
    return np.divide(chance * (1 - selected), unlabelled, out=np.zeros_like(chance), where=unlabelled > 0)


@dataclass(frozen=True)
class _Estimation:
    """What is known, and a step of EM on what is not: a vector of relevance's coefficients and the cells' selection."""

    relevant: np.ndarray
    unknown: np.ndarray
    traits: np.ndarray
    cells: Cells
    first: float

    def begin(self) -> np.ndarray:
        """Half of what is believed of the first cell: if nothing were missed, nothing would ever be believed to be."""
        selected = np.full(len(self.cells.sums(np.ones(len(self.relevant)))), self.first / 2)
        return self.within(np.concatenate([np.zeros(self.traits.shape[1]), selected]))

    def chance(self, now: np.ndarray) -> np.ndarray:
        """Of each row to be relevant."""
        return expit(self.traits @ now[: self.traits.shape[1]])

    def likelihood(self, now: np.ndarray) -> float:
        """The mean logarithm of what was seen."""
        chance = self.chance(now)
        missed = chance * now[self.traits.shape[1] :][self.cells.cell]
        seen = np.where(self.relevant, missed, np.where(self.unknown, 1 - missed, 1 - chance))
        return float(np.log(np.maximum(seen, 1e-300)).mean())

    def step(self, now: np.ndarray) -> np.ndarray:
        """What is believed of each row, and what that makes likeliest."""
        chance, traits = self.chance(now), self.traits.shape[1]
        missed = _missed(chance, now[traits:][self.cells.cell])
        belief = np.where(self.relevant, 1.0, np.where(self.unknown, missed, 0.0))
        return np.concatenate([_logistic(self.traits, belief, now[:traits]), self._selected(belief)])

    def within(self, now: np.ndarray) -> np.ndarray:
        """The nearest that can be: no cell above the first, none at 0."""
        bounded = now.copy()
        selected = bounded[self.traits.shape[1] :]
        np.clip(selected, 1e-9, self.first, out=selected)
        selected[self.cells.chains[0][0]] = self.first
        return bounded

    def _selected(self, belief: np.ndarray) -> np.ndarray:
        """The share of a cell's relevant rows that is labelled, never rising along a chain, at most `first`."""
        from scipy.optimize import isotonic_regression

        labelled, there = self.cells.sums(self.relevant.astype(np.float64)), self.cells.sums(belief)
        shares = np.divide(labelled, there, out=np.zeros_like(there), where=there > 0)
        believed, *others = self.cells.chains
        for chain in (believed[1:], *others):
            if len(chain):
                weights = np.maximum(there[chain], 1e-12)
                shares[chain] = isotonic_regression(shares[chain], weights=weights, increasing=False).x
        shares = np.minimum(shares, self.first)
        shares[believed[0]] = self.first
        return shares


def _logistic(traits: np.ndarray, target: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients of a logistic regression on probabilities, by Newton's steps from where the last round was."""
    ridge = _RIDGE * len(traits) * np.eye(traits.shape[1])
    coefficients = start
    for _ in range(25):
        chance = expit(traits @ coefficients)
        slope = traits.T @ (target - chance) - ridge @ coefficients
        curve = (traits * (chance * (1 - chance))[:, None]).T @ traits + ridge
        step = np.linalg.solve(curve, slope)
        coefficients = coefficients + step / max(1.0, float(np.abs(step).max()) / 5)
        if np.abs(step).max() < 1e-9:
            break
    return coefficients


def _ranks(scores: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The rank of each row among its query's, from 1, equal scores at the first of theirs: int64 (rows,)."""
    order = np.lexsort((-scores, query))
    place = np.arange(len(order)) - np.searchsorted(query[order], query[order])
    again = np.append(False, (np.diff(scores[order]) == 0) & (np.diff(query[order]) == 0))
    result = np.empty(len(order), dtype=np.int64)
    result[order] = np.maximum.accumulate(np.where(again, 0, np.arange(len(order)))) - np.arange(len(order)) + place + 1
    return result


def _traits(scores: np.ndarray, query: np.ndarray) -> np.ndarray:
    """A constant, and each judge's scores in deviations over all queries and within each: (rows, 1 + 2 judges)."""
    return np.stack([np.ones(len(query)), *(column for row in scores for column in _units(row, query))], axis=1)


def _units(scores: np.ndarray, query: np.ndarray) -> Iterator[np.ndarray]:
    for group in (np.zeros_like(query), query):
        count = np.maximum(np.bincount(group), 1)
        centred = scores - (np.bincount(group, scores) / count)[group]
        deviation = np.sqrt(np.bincount(group, centred**2) / count)[group]
        yield np.divide(centred, deviation, out=np.zeros_like(scores), where=deviation > 0)


WEIGHERS = {"cet": CET}
