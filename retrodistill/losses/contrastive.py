"""Losses that set a document against many at once, those of other queries among them."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import softplus

from retrodistill.losses.batch import Loss, ScoreBatch, masked_mean
from retrodistill.losses.orders import differences, pairs


class InfoNCE(Loss):
    r"""`-log exp(s(q, d+) / T) / sum_d exp(s(q, d) / T)`: each positive against all negatives of the batch.

    With several positives, each stands alone against the negatives, never against another positive, and the query's
    loss is their mean. `in_batch_negatives: false` keeps to the query's own candidates. Needs labels, no teacher as it
    stands.

    `false_negative_margin: m` drops negatives that a teacher scores at `t(q, d+) - m` or above, `d+` the query's
    positive that it likes least: they are likely relevant, only nobody labelled them. The margin is in the teacher's
    units, so that scores below zero are no trap. `symmetric` adds the same from each positive to the queries of the
    batch that it is a negative of, and takes the mean of both directions.

    A negative's `exp(s(q, d) / T)` is multiplied with its weight, in either direction; one of weight 0 is none. A
    positive's term counts by its weight.

    Source: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding"; for retrieval,
    Karpukhin et al. 2020, "Dense Passage Retrieval"; dropped negatives, Qu et al. 2021, "RocketQA"; symmetric, Radford
    et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".
    """

    weighs: ClassVar[bool] = True
    kind: Literal["infonce"] = "infonce"
    temperature: float = Field(0.05, gt=0)
    in_batch_negatives: bool = Field(True, description="other queries' documents are negatives too")
    false_negative_margin: float | None = Field(None, description="how far below the positive is too near")
    symmetric: bool = Field(False, description="documents find their queries too")

    @model_validator(mode="after")
    def _sees_other_queries(self) -> Self:
        if self.symmetric and not self.in_batch_negatives:
            raise ValueError("symmetric needs the other queries of the batch; leave in_batch_negatives at true")
        return self

    @property
    def needs_teacher(self) -> bool:
        """To tell negatives from what only lacks a label."""
        return self.false_negative_margin is not None

    @property
    def needs_labels(self) -> bool:
        """Always."""
        return True

    @property
    def in_batch(self) -> bool:
        """As asked for."""
        return self.in_batch_negatives

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's positives."""
        scores = batch.student.float() / self.temperature
        positive = batch.positive & batch.own & batch.valid
        negative = self._negatives(batch, positive)
        against = scores if batch.weights is None else scores + batch.weights.log()
        ahead = _against(scores, against, positive, negative, -1)
        losses, counted = masked_mean(ahead, positive, batch.weights), positive.any(-1)
        if self.symmetric:
            found = positive & negative.any(0)
            back = masked_mean(_against(scores, against, found, negative, 0), found, batch.weights)
            losses = torch.where(found.any(-1), (losses + back) / 2, losses)
        return losses, counted & negative.any(-1)

    def _negatives(self, batch: ScoreBatch, positive: Tensor) -> Tensor:
        negative = batch.valid & ~batch.positive
        if not self.in_batch_negatives:
            negative = negative & batch.own
        if self.false_negative_margin is not None:
            teacher = batch.teacher.float()
            least = teacher.masked_fill(~(positive & batch.judged), torch.inf).amin(-1, keepdim=True)
            negative = negative & ~(batch.judged & (teacher >= least - self.false_negative_margin))
        return negative


def _against(scores: Tensor, against: Tensor, positive: Tensor, negative: Tensor, axis: int) -> Tensor:
    """`log(e^p + sum e^n) - p` of each positive, the negatives summed along an axis; 0 where there is no positive.

    Negatives' scores are those in `against`, with the logarithms of their weights.
    """
    negatives = torch.logsumexp(against.masked_fill(~negative, torch.finfo(torch.float32).min), dim=axis, keepdim=True)
    return softplus((negatives - scores).masked_fill(~positive, 0.0)).masked_fill(~positive, 0.0)


class CPRD(Loss):
    r"""`-log exp(s_i / T) / (exp(s_i / T) + sum_j exp(s_j / T))`: a hard negative i against all that is easier.

    Hard negatives are a query's judged candidates that are not labelled relevant, or the `hard` best of them by the
    teacher. Each stands against its fellows that the teacher scores lower and against the other queries' documents; the
    query's loss is their mean. The teacher's order among hard negatives is all that is learnt, in the shape of
    `infonce`, beside which it belongs: positives have no part in it. Ties stand out of each other's way.

    Source: Chen et al. 2024, "How to Make Cross Encoder a Good Teacher for Efficient Image-Text Retrieval?"
    (contrastive partial ranking distillation).
    """

    kind: Literal["cprd"] = "cprd"
    temperature: float = Field(0.05, gt=0)
    hard: int | None = Field(None, ge=1, description="how many are hard; none: all of a query's own")
    in_batch_negatives: bool = Field(True, description="other queries' documents are easy ones")

    @property
    def in_batch(self) -> bool:
        """As asked for."""
        return self.in_batch_negatives

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's hard negatives that have something easier beside them."""
        lowest = torch.finfo(torch.float32).min
        lists = batch.lists()
        mask = lists.taught & ~lists.positive
        scores = (lists.student.float() / self.temperature).masked_fill(~mask, 0.0)
        higher = pairs(mask) & (differences(lists.teacher.masked_fill(~mask, 0.0)) > 0)
        easier = torch.logsumexp(scores.unsqueeze(-2).masked_fill(~higher, lowest), dim=-1)
        found = higher.any(-1)
        if self.in_batch_negatives:
            others = batch.valid & ~batch.own & ~batch.positive
            theirs = (batch.student.float() / self.temperature).masked_fill(~others, lowest)
            easier = torch.logaddexp(easier, torch.logsumexp(theirs, dim=-1, keepdim=True))
            found = found | others.any(-1, keepdim=True)
        hard = mask & found
        if self.hard is not None:
            hard = hard & (higher.sum(-2) < self.hard)
        losses = softplus((easier - scores).masked_fill(~hard, 0.0))
        return masked_mean(losses, hard), hard.any(-1)


LOSSES = {"infonce": InfoNCE, "cprd": CPRD}
