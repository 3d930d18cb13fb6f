"""Losses over pairs of a query's documents: which is better, by how much, how surely."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.special import entr

from retrodistill.losses.batch import Loss, ScoreBatch, masked_mean, pair_mean, pair_weights
from retrodistill.losses.ndcg import relative_gains, swaps
from retrodistill.losses.orders import differences, pairs, ranks
from retrodistill.losses.targets import Targeted, Tempered


class MarginMSE(Loss):
    r"""`((s(q,d+) - s(q,d-)) - (t(q,d+) - t(q,d-)))^2`, the mean over a query's (positive, other) pairs.

    `scale` multiplies the student's scores, so that a cosine student, whose margins cannot exceed 2, can meet a
    teacher's margins of 10. Both documents of a pair must be judged. With `pairs: all`, every two documents of a query
    are a pair, and no labels are needed. A pair counts by the product of its documents' weights.

    Source: Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation".
    """

    weighs: ClassVar[bool] = True
    heeds: ClassVar[bool] = True
    kind: Literal["margin_mse"] = "margin_mse"
    scale: float = Field(1.0, gt=0, description="what the student's scores are multiplied with")
    pairs: Literal["positive", "all"] = Field("positive", description="each positive against the rest, or all pairs")

    @property
    def needs_labels(self) -> bool:
        """To know which documents the others are held against."""
        return self.pairs == "positive"

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's pairs."""
        mask, weights = batch.taught, batch.taught_weights
        error = self.scale * batch.student.float() - batch.teacher.float()
        # s+ - s- - (t+ - t-) is the difference of (s - t) at the positive and at the other; its mean square over all
        # pairs follows from each side's mean and variance, without a matrix of pairs, which grows with D squared
        if self.pairs == "all":
            _, variance = _moments(error, mask, weights)
            counts = mask.float() if weights is None else weights.masked_fill(~mask, 0.0)
            total, several = counts.sum(-1), mask.sum(-1) >= 2
            # of the weight of all pairs, what is left without those of a document with itself
            apart = total - counts.square().sum(-1) / torch.where(several, total, 1.0)
            return 2 * variance * total / torch.where(several, apart, 1.0), several
        positive, other = mask & batch.positive, mask & ~batch.positive
        mean_positive, variance_positive = _moments(error, positive, weights)
        mean_other, variance_other = _moments(error, other, weights)
        errors = variance_positive + variance_other + (mean_positive - mean_other).square()
        return errors, positive.any(-1) & other.any(-1)


def _moments(values: Tensor, mask: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of the entries in `mask` along the last axis, by weight; 0 where there are none."""
    mean = masked_mean(values, mask, weights)
    return mean, masked_mean((values - mean.unsqueeze(-1)).masked_fill(~mask, 0.0).square(), mask, weights)


class RankNet(Targeted):
    r"""`log(1 + exp(-(s_i - s_j) / T))` over the pairs of which the target puts document i above j; their mean.

    Only the target's order counts, never its scale: made for listwise LLMs, whose scores mean nothing. Pairs that tie
    are left out. `weights` makes the mean a weighted one: `difference` by `t_i - t_j`, so that near ties say little, or
    `ndcg` by what swapping the two would do to nDCG in the student's present order (LambdaRank), so that the top of the
    list says most; teacher's scores are scaled to gains between 0 and 1 for it. A pair counts by the product of its
    documents' own weights besides.

    Source: Burges et al. 2005, "Learning to Rank using Gradient Descent"; Burges 2010, "From RankNet to LambdaRank to
    LambdaMART"; for distilling LLMs, Sun et al. 2023, "Is ChatGPT Good at Search?".
    """

    weighs: ClassVar[bool] = True
    heeds: ClassVar[bool] = True
    kind: Literal["ranknet"] = "ranknet"
    temperature: float = Field(1.0, gt=0, description="of the student")
    weights: Literal["none", "difference", "ndcg"] = "none"

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's pairs."""
        lists = batch.lists()
        target, mask = self.wanted(lists)
        student = (lists.student.float() / self.temperature).masked_fill(~mask, 0.0)
        apart = differences(target)
        better = pairs(mask) & (apart > 0)
        losses, counted = softplus(-differences(student)), better.any((-1, -2))
        own = pair_weights(self.counting(lists))
        if self.weights == "none":
            return pair_mean(losses, better, own), counted
        if self.weights == "difference":
            weights = apart
        else:
            gains = relative_gains(target, mask, scaled=self.target == "teacher")
            weights = swaps(gains, ranks(student, target, mask))
        weights = (weights if own is None else weights * own).masked_fill(~better, 0.0)
        total = weights.sum((-1, -2))
        return (weights * losses).sum((-1, -2)) / torch.where(counted, total, 1.0), counted


class Preference(Tempered):
    r"""`KL(P_ij || sigmoid((s_i - s_j) / T_s))`, P the teacher's probability that document i is better than j.

    The mean over a query's ordered pairs that the teacher compared; where both orders were asked and disagree, the
    student is drawn to their middle. Where no teacher compares documents, `P_ij = sigmoid((t_i - t_j) / T_t)` from a
    pointwise teacher, over all pairs of judged candidates. `teacher_temperature` is for these alone. A pair counts by
    the product of its documents' weights.

    Source: Huang and Chen 2024, "PairDistill: Pairwise Relevance Distillation for Dense Retrieval", which adds it to a
    pointwise `kl`.
    """

    weighs: ClassVar[bool] = True
    heeds: ClassVar[bool] = True
    kind: Literal["preference"] = "preference"

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's pairs."""
        lists = batch.lists()
        own = lists.weights
        if lists.preferences is None:
            own = lists.taught_weights
            compared = pairs(lists.taught)
            teacher = self.cooled_target(lists.teacher).masked_fill(~lists.taught, 0.0)
            wanted = torch.sigmoid(differences(teacher))
        else:
            compared = pairs(lists.own) & ~lists.preferences.isnan()
            wanted = lists.preferences.float().masked_fill(~compared, 0.5)
        student = differences(self.cooled(lists.student).masked_fill(~lists.own, 0.0))
        crossed = binary_cross_entropy_with_logits(student, wanted, reduction="none")
        losses = crossed - entr(wanted) - entr(1 - wanted)
        return pair_mean(losses, compared, pair_weights(own)), compared.any((-1, -2))


LOSSES = {"margin_mse": MarginMSE, "ranknet": RankNet, "preference": Preference}
