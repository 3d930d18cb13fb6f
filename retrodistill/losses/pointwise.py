"""Losses on single scores: the student says of each document what the teacher says of it."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from retrodistill.losses.batch import Loss, ScoreBatch, masked_mean
from retrodistill.losses.targets import Targeted, Tempered


class MSE(Loss):
    r"""`(scale s(q,d) - t(q,d))^2`, the mean over a query's judged candidates.

    The only loss that asks for the teacher's very numbers, so they must be on a scale that the student can reach: put a
    normaliser on the teacher, or a `scale` on a cosine student. In return scores are comparable between queries. A
    document's error counts by its weight.

    Source: Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?".
    """

    weighs: ClassVar[bool] = True
    heeds: ClassVar[bool] = True
    kind: Literal["mse"] = "mse"
    scale: float = Field(1.0, gt=0, description="what the student's scores are multiplied with")

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's candidates."""
        mask = batch.taught
        error = self.scale * batch.student.float() - batch.teacher.float().masked_fill(~mask, 0.0)
        return masked_mean(error.masked_fill(~mask, 0.0).square(), mask, batch.taught_weights), mask.any(-1)


class BCE(Tempered, Targeted):
    r"""`-p log sigmoid(s/T_s) - (1 - p) log sigmoid(-s/T_s)`, with `p = sigmoid(t/T_t)`: is this document relevant?

    The mean over a query's candidates. With `target: labels`, p is 1 for what is labelled relevant and 0 for the rest
    of the list. Scores get an absolute meaning, 0 being the border of relevance, which suits students that re-rank; a
    cosine cannot say "surely not" without a low `student_temperature`. A document's term counts by its weight.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", with two classes; as a re-ranking loss,
    Nogueira and Cho 2019, "Passage Re-ranking with BERT".
    """

    weighs: ClassVar[bool] = True
    heeds: ClassVar[bool] = True
    kind: Literal["bce"] = "bce"

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's candidates."""
        target, mask = self.wanted(batch)
        relevant = torch.sigmoid(self.cooled_target(target)) if self.target == "teacher" else (target > 0).float()
        student = self.cooled(batch.student).masked_fill(~mask, 0.0)
        losses = binary_cross_entropy_with_logits(student, relevant, reduction="none")
        return masked_mean(losses, mask, self.counting(batch)), mask.any(-1)


LOSSES = {"mse": MSE, "bce": BCE}
