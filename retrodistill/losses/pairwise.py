"""Losses over pairs of a query's documents: the student keeps the teacher's distances between them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from retrodistill.losses.batch import Loss, ScoreBatch


class MarginMSE(Loss):
    r"""`((s(q,d+) - s(q,d-)) - (t(q,d+) - t(q,d-)))^2`, the mean over a query's (positive, other) pairs.

    `scale` multiplies the student's scores, so that a cosine student, whose margins cannot exceed 2, can meet a
    teacher's margins of 10. Both documents of a pair must be judged.

    Source: Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation".
    """

    needs_labels: ClassVar[bool] = True
    kind: Literal["margin_mse"] = "margin_mse"
    scale: float = Field(1.0, gt=0)

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's pairs."""
        mask = batch.taught
        difference = self.scale * batch.student.float() - batch.teacher.float()
        # s+ - s- - (t+ - t-) is the difference of (s - t) at the positive and at the other; its mean square over all
        # pairs follows from each side's mean and variance, without a matrix of pairs, which grows with D squared
        positive, other = mask & batch.positive, mask & ~batch.positive
        mean_positive, variance_positive = _moments(difference, positive)
        mean_other, variance_other = _moments(difference, other)
        errors = variance_positive + variance_other + (mean_positive - mean_other).square()
        return errors, positive.any(-1) & other.any(-1)


def _moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the entries in `mask` along the last axis; 0 where there are none."""
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    mean = values.masked_fill(~mask, 0.0).sum(-1, keepdim=True) / count
    variance = (values - mean).masked_fill(~mask, 0.0).square().sum(-1, keepdim=True) / count
    return mean.squeeze(-1), variance.squeeze(-1)


LOSSES = {"margin_mse": MarginMSE}
