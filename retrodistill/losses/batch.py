"""What a loss sees: score matrices of queries and documents, and masks that say what each entry is worth."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from retrodistill.registry import Part


@dataclass(frozen=True)
class ScoreBatch:
    """Scores of Q queries against all D documents of a batch.

    A document that several queries share stands once. Every tensor has the shape (Q, D).

    Attributes:
        student: the student's scores, with gradients.
        teacher: the teacher's scores, as combined and calibrated; anything where `judged` is false.
        judged: a teacher's score exists.
        positive: labelled relevant.
        own: mined for this query; false for the other queries' documents (in-batch negatives).
        valid: neither padding nor a document that must not count as a negative of this query.
    """

    student: Tensor
    teacher: Tensor
    judged: Tensor
    positive: Tensor
    own: Tensor
    valid: Tensor

    @property
    def taught(self) -> Tensor:
        """Entries a teacher's score can be learnt from: mined for the query, valid and judged, bool (Q, D)."""
        return self.own & self.valid & self.judged


class Loss(Part):
    """An objective over a score matrix. It never asks which student it trains.

    Attributes:
        needs_teacher: it learns from `teacher`.
        needs_labels: it learns from `positive`.
        weight: what its value is multiplied with in the sum.
    """

    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    weight: float = Field(1.0, ge=0)

    def weight_at(self, progress: float) -> float:
        """The weight when a share `progress` of the training, 0 to 1, is done."""
        return self.weight

    @property
    def in_batch(self) -> bool:
        """Other queries' documents matter, so that a batch cannot be cut into parts without changing the loss."""
        return False

    @abstractmethod
    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The loss of each query and whether the query has one.

        Returns:
            float32 values and bool mask, both of shape (Q,). Values where the mask is false are ignored, and must be
            finite in value and in gradient.
        """

    def __call__(self, batch: ScoreBatch) -> Tensor:
        """The mean over the queries that have a loss; 0, with a zero gradient, where none has one."""
        values, counted = self.terms(batch)
        return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)


def masked_log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax over the last axis of the entries in `mask`, in float32; 0 elsewhere, where nothing flows back."""
    scores = scores.float().masked_fill(~mask, torch.finfo(torch.float32).min)
    return torch.log_softmax(scores, dim=-1).masked_fill(~mask, 0.0)
