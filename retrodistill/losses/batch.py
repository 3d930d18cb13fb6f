"""What a loss sees: score matrices of queries and documents, and masks that say what each entry is worth."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from retrodistill.errors import InputError
from retrodistill.losses.schedules import Weight, weight_at
from retrodistill.registry import Part


@dataclass(frozen=True)
class ScoreBatch:
    """Scores of Q queries against all D documents of a batch.

    A document that several queries share stands once. Every tensor has the shape (Q, D) but `preferences`.

    Weights say how much an entry counts beside the others of its query, never how much the query does. A loss that
    `weighs` makes weighted means of its terms by them, a pair's being the product of its two, or multiplies the
    exponential of a negative.

    Attributes:
        student: the student's scores, with gradients.
        teacher: the teacher's scores, as combined and calibrated; anything where `judged` is false.
        judged: a teacher's score exists.
        positive: labelled relevant.
        grades: how relevant by the labels, float; 0 where not relevant or not labelled.
        own: mined for this query; false for the other queries' documents (in-batch negatives).
        valid: neither padding nor a document that must not count as a negative of this query.
        preferences: (Q, D, D), entry [q, i, j] a teacher's probability that document i is better than j, NaN where it
            was not asked; None where no teacher compares documents.
        weights: float32, above 0 where `valid`; None where all count alike, which is the same as ones.
        certainty: float32, above 0: how much the teacher's score counts beside the others of its query, to a loss that
            `heeds` it; None where all count alike.
        whole: the teacher's scores of all documents, float32 (Q, D), where a loss asks for them; they are on a scale of
            their own.
    """

    student: Tensor
    teacher: Tensor
    judged: Tensor
    positive: Tensor
    grades: Tensor
    own: Tensor
    valid: Tensor
    preferences: Tensor | None = None
    weights: Tensor | None = None
    certainty: Tensor | None = None
    whole: Tensor | None = None

    @property
    def taught(self) -> Tensor:
        """Entries a teacher's score can be learnt from: mined for the query, valid and judged, bool (Q, D)."""
        return self.own & self.valid & self.judged

    @property
    def taught_weights(self) -> Tensor | None:
        """How much a document counts where the teacher's score is learnt from: the product of weight and certainty."""
        if self.certainty is None or self.weights is None:
            return self.weights if self.certainty is None else self.certainty
        return self.weights * self.certainty

    def lists(self) -> ScoreBatch:
        """Each query's own documents side by side, so that a matrix of their pairs is small.

        Returns:
            A batch of shape (Q, K), K the most own and valid documents that a query has, at least 1. Columns keep
            their order; a shorter list is padded with entries that no mask holds. Gradients flow back to this batch.
        """
        kept = self.own & self.valid
        width = max(1, int(kept.sum(-1).max()))
        columns = torch.argsort(kept.to(torch.uint8), dim=-1, descending=True, stable=True)[:, :width]
        kept = kept.gather(-1, columns)
        preferences = self.preferences
        if preferences is not None:
            preferences = preferences.gather(1, columns.unsqueeze(-1).expand(-1, -1, preferences.shape[-1]))
            preferences = preferences.gather(2, columns.unsqueeze(1).expand(-1, width, -1))
        return ScoreBatch(
            student=self.student.gather(-1, columns),
            teacher=self.teacher.gather(-1, columns),
            judged=self.judged.gather(-1, columns) & kept,
            positive=self.positive.gather(-1, columns) & kept,
            grades=self.grades.gather(-1, columns).masked_fill(~kept, 0.0),
            own=kept,
            valid=kept,
            preferences=preferences,
            weights=None if self.weights is None else self.weights.gather(-1, columns),
            certainty=None if self.certainty is None else self.certainty.gather(-1, columns),
            whole=None if self.whole is None else self.whole.gather(-1, columns),
        )


class Loss(Part):
    """An objective over a score matrix. It never asks which student it trains.

    Attributes:
        weight: what its value is multiplied with in the sum, a number or a schedule over the training.
        weighs: it counts documents by `ScoreBatch.weights`; otherwise all count alike, whatever is mined.
        heeds: it counts the teacher's scores by `ScoreBatch.certainty`; otherwise all count alike, however sure.
    """

    weighs: ClassVar[bool] = False
    heeds: ClassVar[bool] = False

    weight: Weight = Field(1.0, description="a number, or a schedule such as {start: 0, end: 1, over: 0.3}")

    @property
    def needs_teacher(self) -> bool:
        """It learns from `teacher` or `preferences`."""
        return True

    @property
    def needs_labels(self) -> bool:
        """It learns from `positive` or `grades`."""
        return False

    @property
    def in_batch(self) -> bool:
        """Other queries' documents matter, so that a batch cannot be cut into parts without changing the loss."""
        return False

    @property
    def asks_teachers(self) -> bool:
        """It learns from `whole`, for which teachers are asked at every step."""
        return False

    def weight_at(self, progress: float) -> float:
        """The weight where a share `progress` of the training, from 0 to 1, is done."""
        return weight_at(self.weight, progress)

    @abstractmethod
    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The loss of each query and whether the query has one.

        Returns:
            float32 values and bool mask, both of shape (Q,). Values where the mask is false are ignored, and must be
            finite in value and in gradient. The mask is a matter of labels, teacher and masks, never of the student.
        """

    def by_query(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """What `terms` gives, which must be what it says: another shape would be stretched to it in silence.

        Raises:
            InputError: it is something else.
        """
        found, queries = self.terms(batch), len(batch.own)
        said = [_said(part) for part in (found if isinstance(found, tuple) else (found,))]
        if said != [f"floating ({queries},)", f"bool ({queries},)"]:
            where = f"{type(self).__module__}:{type(self).__qualname__}"
            raise InputError(
                f"loss {self.kind} ({where}): terms gave {' and '.join(said)} for {queries} queries, expected floating "
                f"({queries},) and bool ({queries},): the loss of each query and whether it has one; the mean over "
                "queries is taken for it"
            )
        return found

    def __call__(self, batch: ScoreBatch) -> Tensor:
        """The mean over the queries that have a loss; 0, with a zero gradient, where none has one."""
        values, counted = self.by_query(batch)
        return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)


def _said(part: object) -> str:
    """A tensor's kind and shape; anything else by its class."""
    if not isinstance(part, Tensor):
        return type(part).__name__
    kind = "floating" if part.is_floating_point() else str(part.dtype).removeprefix("torch.")
    return f"{kind} ({', '.join(map(str, part.shape))}{',' * (part.dim() == 1)})"


def masked_log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax over the last axis of the entries in `mask`, in float32; 0 elsewhere, where nothing flows back."""
    scores = scores.float().masked_fill(~mask, torch.finfo(torch.float32).min)
    return torch.log_softmax(scores, dim=-1).masked_fill(~mask, 0.0)


def masked_mean(values: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the last axis of the entries in `mask`, by weights if there are any; 0 where there are none."""
    if weights is None:
        return values.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    weights = weights.masked_fill(~mask, 0.0)
    total = weights.sum(-1)
    return (weights * values.masked_fill(~mask, 0.0)).sum(-1) / torch.where(total > 0, total, 1.0)


def pair_weights(weights: Tensor | None) -> Tensor | None:
    """The product of the weights of two documents, (Q, D) to (Q, D, D)."""
    return None if weights is None else weights.unsqueeze(-1) * weights.unsqueeze(-2)


def pair_mean(values: Tensor, pairs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the last two axes of the entries in `pairs`, by weights if there are any; 0 where there are none."""
    return masked_mean(values.flatten(-2), pairs.flatten(-2), None if weights is None else weights.flatten(-2))
