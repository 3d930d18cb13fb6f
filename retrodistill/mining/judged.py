"""Samplers by scores: near the positive, at a level of difficulty, where a student errs, evenly over margins."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from retrodistill.mining.pool import Against, Pool
from retrodistill.mining.samplers import Sampler, draw, draw_evenly
from retrodistill.registry import Part, of


class _Judged(Sampler):
    """A sampler that reads one judge's scores. A document that the judge gave none is not chosen.

    Attributes:
        teacher: whose scores; those of the one source that is mined from where left out.
    """

    teacher: of("teacher") | None = None  # type: ignore[valid-type]

    @property
    def judges(self) -> tuple[Part | None, ...]:
        """The teacher."""
        return (self.teacher,)


class SimANS(_Judged):
    """`n` ambiguous documents, scored about as the positive: p ~ exp(-a (s(q, d-) - s(q, d+) - b)^2).

    Far below the positive is too easy, far above it is likely relevant and not labelled. A query whose positives have
    no score draws none.

    Source: Zhou et al. 2022, "SimANS: Simple Ambiguous Negatives Sampling for Dense Text Retrieval".

    Attributes:
        a: how sharply documents fall off on either side; on the scale of the scores, squared.
        b: where the peak lies, relative to the positive; negative is below it.
        against: which of several positives is meant.
    """

    kind: Literal["simans"] = "simans"
    a: float = Field(1.0, ge=0, allow_inf_nan=False)
    b: float = Field(0.0, allow_inf_nan=False)
    against: Against = "mean"

    @property
    def needs_positives(self) -> bool:
        """It stands around them."""
        return True

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Documents by chance, without repetition."""
        away = pool.scores(self.teacher).astype(np.float64) - pool.positive(self.teacher, self.against) - self.b
        return draw(-self.a * away**2, self.n, generator)


class Quantile(_Judged):
    """`n` documents drawn evenly from those between two quantiles of the query's scores: a level of difficulty.

    Attributes:
        low: quantile, 0 is the document that the teacher likes least.
        high: quantile, 1 is the one it likes most.
    """

    kind: Literal["quantile"] = "quantile"
    low: float = Field(0.5, ge=0, le=1)
    high: float = Field(0.9, ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> Quantile:
        if self.low >= self.high:
            raise ValueError(f"low: {self.low} is not below high: {self.high}; nothing is between them")
        return self

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Documents by chance, without repetition."""
        scores = pool.scores(self.teacher)
        if np.isnan(scores).all():
            return np.empty(0, dtype=np.int64)
        low, high = np.nanquantile(scores, [self.low, self.high])
        between = np.flatnonzero((scores >= low) & (scores <= high))
        return np.sort(generator.choice(between, size=min(self.n, len(between)), replace=False))


class Disagreement(_Judged):
    """The `n` documents that the student places furthest above where the teacher does: what confuses it.

    Places are counted among the query's documents, so the two need not score on one scale.

    Source: after the confusing negatives of Lin et al. 2023, "PROD: Progressive Distillation for Dense Retrieval".

    Attributes:
        teacher: who knows better.
        student: whose errors are looked for; the one source that is mined from where left out.
    """

    kind: Literal["disagreement"] = "disagreement"
    teacher: of("teacher")  # type: ignore[valid-type]
    student: of("teacher") | None = None  # type: ignore[valid-type]

    @property
    def judges(self) -> tuple[Part | None, ...]:
        """Both."""
        return (self.student, self.teacher)

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Documents by how much higher they stand, where at all; the student's better ones first among equals."""
        students, teachers = pool.scores(self.student), pool.scores(self.teacher)
        known = np.flatnonzero(~np.isnan(students) & ~np.isnan(teachers))
        place = _places(students[known])
        higher = _places(teachers[known]) - place
        order = np.lexsort((place, -higher))
        return np.sort(known[order[higher[order] > 0][: self.n]])


def _places(scores: np.ndarray) -> np.ndarray:
    """The place of each score, 0 for the greatest; equal ones in their order: int64."""
    places = np.empty(len(scores), dtype=np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return places


class Balanced(_Judged):
    """`n` documents drawn evenly from `bins` of equal width of the teacher's margin: easy and hard alike.

    Margins to one positive differ from scores by a constant, so the bins are the same without a label.

    Source: Hofstaetter et al. 2021, "Efficiently Teaching an Effective Dense Retriever with Balanced Topic Aware
    Sampling". There a bin is drawn by chance; here they take turns, which is even in every list.
    """

    argument: ClassVar[str | None] = "n"
    kind: Literal["balanced"] = "balanced"
    bins: int = Field(10, ge=2)

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Documents by chance, without repetition."""
        scores = pool.scores(self.teacher).astype(np.float64)
        known = ~np.isnan(scores)
        groups = np.full(len(scores), -1, dtype=np.int64)
        if known.any():
            low, high = scores[known].min(), scores[known].max()
            place = (scores[known] - low) / (high - low if high > low else 1.0)
            groups[known] = np.minimum((place * self.bins).astype(np.int64), self.bins - 1)
        return draw_evenly(groups, self.n, generator)


SAMPLERS = {"simans": SimANS, "quantile": Quantile, "disagreement": Disagreement, "balanced": Balanced}
