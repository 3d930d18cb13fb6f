"""Losses over a query's whole list: the student's distribution over documents is drawn to the teacher's."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from retrodistill.losses.batch import Loss, ScoreBatch, masked_log_softmax


class KL(Loss):
    r"""`KL(softmax(t / T_t) || softmax(s / T_s))` over a query's judged candidates, in nats.

    With cosine students, whose scores span little, a low `student_temperature` such as 0.05 lets the distribution be
    as sharp as the teacher's. A list of fewer than two judged documents teaches nothing and is not counted.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; as a ranking loss over candidates, e.g.
    Ren et al. 2021, "RocketQAv2". No factor T squared is applied: the two temperatures are apart.
    """

    kind: Literal["kl"] = "kl"
    temperature: float = Field(1.0, gt=0, description="of both, where they are not given apart")
    student_temperature: float | None = Field(None, gt=0)
    teacher_temperature: float | None = Field(None, gt=0)

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """One divergence a query."""
        mask = batch.taught
        teacher = batch.teacher.float().masked_fill(~mask, 0.0) / (self.teacher_temperature or self.temperature)
        student = batch.student.float() / (self.student_temperature or self.temperature)
        wanted, given = masked_log_softmax(teacher, mask), masked_log_softmax(student, mask)
        divergence = (wanted.exp() * (wanted - given)).masked_fill(~mask, 0.0).sum(-1)
        return divergence, mask.sum(-1) >= 2


class InfoNCE(Loss):
    r"""`-log exp(s(q, d+) / T) / sum_d exp(s(q, d) / T)`: each positive against all negatives of the batch.

    With several positives, each stands alone against the negatives, never against another positive, and the query's
    loss is their mean. `in_batch_negatives: false` keeps to the query's own candidates. Needs labels, no teacher.

    Source: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding"; for retrieval,
    Karpukhin et al. 2020, "Dense Passage Retrieval".
    """

    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    kind: Literal["infonce"] = "infonce"
    temperature: float = Field(0.05, gt=0)
    in_batch_negatives: bool = True

    @property
    def in_batch(self) -> bool:
        """As asked for."""
        return self.in_batch_negatives

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's positives."""
        scores = batch.student.float() / self.temperature
        positive = batch.positive & batch.own & batch.valid
        negative = batch.valid & ~batch.positive
        if not self.in_batch_negatives:
            negative = negative & batch.own
        # log(e^p + sum e^n) - p for each positive p, from one logsumexp of the negatives
        negatives = torch.logsumexp(scores.masked_fill(~negative, torch.finfo(torch.float32).min), dim=-1, keepdim=True)
        losses = softplus((negatives - scores).masked_fill(~positive, 0.0)).masked_fill(~positive, 0.0)
        counted = positive.any(-1) & negative.any(-1)
        return losses.sum(-1) / positive.sum(-1).clamp(min=1), counted


LOSSES = {"kl": KL, "infonce": InfoNCE}
