"""What losses are drawn to: the teacher's scores or the labels' grades, and temperatures for either side."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from retrodistill.losses.batch import Loss, ScoreBatch


class Tempered(Loss):
    """A loss that compares distributions of student and target, each as sharp as its temperature makes it."""

    temperature: float = Field(1.0, gt=0, description="of both sides, where they are not given apart")
    student_temperature: float | None = Field(None, gt=0)
    teacher_temperature: float | None = Field(None, gt=0, description="of the target, be it teacher or labels")

    def cooled(self, student: Tensor) -> Tensor:
        """The student's scores over their temperature, float32."""
        return student.float() / (self.student_temperature or self.temperature)

    def cooled_target(self, target: Tensor) -> Tensor:
        """A target over its temperature, float32."""
        return target.float() / (self.teacher_temperature or self.temperature)


class Targeted(Loss):
    """A loss that takes its target from the teacher or from the labels."""

    target: Literal["teacher", "labels"] = Field("teacher", description="whose scores or grades are the target")

    @property
    def needs_teacher(self) -> bool:
        """Where the target is the teacher's."""
        return self.target == "teacher"

    @property
    def needs_labels(self) -> bool:
        """Where the target is the labels'."""
        return self.target == "labels"

    def counting(self, batch: ScoreBatch) -> Tensor | None:
        """How much each document counts, (Q, D): by the teacher's certainty too, where the target is the teacher's."""
        return batch.taught_weights if self.target == "teacher" else batch.weights

    def wanted(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The target and where there is one.

        Labels speak for all own documents of a query that has a relevant one among them, and for none of a query that
        has not: of its documents nothing is known.

        Returns:
            float32 (Q, D), 0 where there is none, and bool (Q, D).
        """
        if self.target == "teacher":
            mask, target = batch.taught, batch.teacher
        else:
            own = batch.own & batch.valid
            mask, target = own & (own & batch.positive).any(-1, keepdim=True), batch.grades
        return target.float().masked_fill(~mask, 0.0), mask
