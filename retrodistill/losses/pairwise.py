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
        difference = difference.masked_fill(~mask, 0.0)
        # s+ - s- - (t+ - t-) is the difference of (s - t) at the positive and at the other
        errors = (difference.unsqueeze(-1) - difference.unsqueeze(-2)).square()
        pairs = (mask & batch.positive).unsqueeze(-1) & (mask & ~batch.positive).unsqueeze(-2)
        total = errors.masked_fill(~pairs, 0.0).sum((-2, -1))
        count = pairs.sum((-2, -1))
        return total / count.clamp(min=1), count > 0


LOSSES = {"margin_mse": MarginMSE}
