"""Teaches what is worth teaching: queries that the teachers are sure about, and the student is not yet."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill.errors import InputError
from retrodistill.registry import Part, of
from retrodistill.scores.combine import Groups, Mean, Normaliser, averaged, sureness

_ROUNDING = 1e-9  # lists as sure as each other stay or go together


class Informative(Mean):
    """The average of teachers, for the queries that they are sure about and that a student is not.

    Sureness is that of `confident`: one less the relative entropy of `softmax(scores / temperature)` over a query's
    documents, the mean over its teachers. The share `unsure` of the queries, those that the teachers are least sure
    about, and the share `known`, those that the student is surest about, get no score, so that nothing is learnt from
    the teachers there. With `normalise: none` it is the models' own certainty that counts, which wants `temperatures`,
    and `student_temperature`; with another scale the shape of their scores, the student's brought to the same.

    The student is any teacher, such as the retriever before training or the student of an earlier round; it judges the
    train candidates as teachers do, through the store, and is no part of the average. Where a teacher is measured,
    every query has its score.

    Source: after Li et al. 2024, "Learning with Less: Knowledge Distillation from Large Language Models via Unlabeled
    Data" (LLKD), which chooses anew at every step, by the student as it is then; here the choice is made once, when
    scores are read.

    Attributes:
        student: whose doubts count.
        unsure: the share of queries that goes for the teachers' doubts.
        known: the share of queries that goes for the student's sureness.
        temperature: of the teachers' softmax.
        student_temperature: of the student's.
    """

    argument: ClassVar[str | None] = "student"
    kind: Literal["informative"] = "informative"  # type: ignore[assignment]
    student: of("teacher")  # type: ignore[valid-type]
    unsure: float = Field(0.25, ge=0, lt=1, description="share of the queries left out, the teachers' least sure")
    known: float = Field(0.25, ge=0, lt=1, description="share of the queries left out, the student's surest")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the teachers' softmax")
    student_temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the student's softmax")

    @field_validator("normalise")
    @classmethod
    def _has_a_shape(cls, normalise: Normaliser) -> Normaliser:
        if normalise in ("rank", "reciprocal_rank"):
            raise ValueError(
                f"got {normalise}, expected zscore, minmax, teacher_zscore or none: ranks are as even in every list "
                "and say nothing of how sure anybody is"
            )
        return normalise

    @property
    def looks_at(self) -> tuple[Part, ...]:
        """The student."""
        return (self.student,)

    def check(self) -> None:
        """Refuse a student that is not there."""
        self.student.check()

    def chosen(self, scores: np.ndarray, student: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Combine, and leave out what is not worth teaching.

        Args:
            scores: the teachers', (T, N), NaN where one has none.
            student: the student's, (N,), NaN where it has none; a query that it has not seen is none that it knows.
            offsets: where each query's rows start, and N.

        Returns:
            float32, (N,); NaN where nothing is to be learnt.

        Raises:
            InputError: the student has judged nothing.
        """
        if len(student) and np.isnan(student).all():
            raise InputError(
                f"combine: {self.kind} looks at {self.student.label}, which has judged none of the {len(student):,} "
                f"candidates; have it score them first (retrodistill score --teacher {self.student.label})"
            )
        values, judged, groups = self.scaled(scores, offsets)
        result = self.combined(values, judged, groups).astype(np.float32)
        seen, has_seen, _ = Mean(normalise=self.normalise).scaled(student[None], offsets)
        sure = _sureness(values / self.temperature, judged, groups)
        knows = _sureness(seen / self.student_temperature, has_seen, groups)
        if not np.isnan(sure).all():
            least, most = np.nanquantile(sure, self.unsure), np.nanquantile(knows, 1 - self.known)
            kept = (sure >= least - _ROUNDING) & ~(knows > most + _ROUNDING)
            result[~groups.spread(kept)] = np.nan
        return result


def _sureness(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    """How sure those who judged a query are, their mean: (queries,), NaN where none did."""
    each = [sureness(row, known, groups)[groups.starts] for row, known in zip(values, judged, strict=True)]
    has = [groups.each(np.logical_or, known) for known in judged]
    return averaged(np.stack(each), np.stack(has), np.ones((len(values), 1)))


COMBINATIONS = {"informative": Informative}
