"""Filters by scores: what a teacher finds as good as a positive is likely relevant and not labelled.

A document that the judge gave no score stays and is counted; so do the documents of a query none of whose positives has
one.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from retrodistill.mining.filters import Filter
from retrodistill.mining.pool import Against, Pool
from retrodistill.registry import Part, of


class _Scored(Filter):
    """A filter that reads one judge's scores.

    Attributes:
        teacher: whose scores; those of the one source that is mined from where left out.
        sigmoid: put scores through the logistic function first, as a cross-encoder's logits become probabilities.
    """

    teacher: of("teacher") | None = None  # type: ignore[valid-type]
    sigmoid: bool = False

    @property
    def judges(self) -> tuple[Part | None, ...]:
        """The teacher."""
        return (self.teacher,)

    @property
    def label(self) -> str:
        """The kind, and by whom."""
        return f"{super().label} by {self.teacher.label}" if self.teacher else super().label

    def scores(self, pool: Pool) -> np.ndarray:
        """The documents' scores, float64, shape (documents,), NaN where there is none."""
        return self._scaled(pool.scores(self.teacher).astype(np.float64))

    def _scaled(self, scores: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-scores)) if self.sigmoid else scores


class _BelowPositive(_Scored):
    """A filter that keeps what is scored below a limit that the positives set.

    Attributes:
        against: which of several positives; `min` is the safest.
    """

    against: Against = "min"

    @property
    def needs_positives(self) -> bool:
        """It is held against them."""
        return True

    @abstractmethod
    def limit(self, positive: float) -> float:
        """Where documents begin to be dropped."""

    def keep(self, pool: Pool) -> np.ndarray:
        """Compare."""
        positive = float(self._scaled(np.array(pool.positive(self.teacher, self.against))))
        return ~(self.scores(pool) >= self.limit(positive))  # NaN on either side is no reason to drop


class Margin(_BelowPositive):
    """Drops documents that the teacher puts at or above the positive, or less than a margin below it.

    Attributes:
        absolute: on the scale of the scores.
        relative: as a share of the positive's magnitude; the limit lies below a negative positive too.
    """

    argument: ClassVar[str | None] = "absolute"
    kind: Literal["margin"] = "margin"
    absolute: float | None = Field(None, allow_inf_nan=False)
    relative: float | None = Field(None, ge=0, allow_inf_nan=False)

    def limit(self, positive: float) -> float:
        """The stricter of the two; the positive itself where neither is given."""
        limits = [positive - (self.absolute or 0.0)] if self.absolute is not None or self.relative is None else []
        if self.relative is not None:
            limits.append(positive - abs(positive) * self.relative)
        return min(limits)


class PercPos(_BelowPositive):
    """Drops documents with `percent` of the positive's score or more: TopK-PercPos.

    A percentage means something where 0 does, as of cosines or probabilities: raw logits want `sigmoid: true`. Of a
    negative positive the limit lies below it, as far as it would of a positive one.

    Source: Moreira et al. 2024, "NV-Retriever: Improving text embedding models with effective hard-negative mining".
    """

    argument: ClassVar[str | None] = "percent"
    kind: Literal["perc_pos"] = "perc_pos"
    percent: float = Field(95.0, gt=0, le=100)

    def limit(self, positive: float) -> float:
        """The share, sign-safe."""
        return positive - abs(positive) * (1 - self.percent / 100)


class ScoreWindow(_Scored):
    """Drops documents scored above `max`, likely relevant (TopK-Abs), or below `min`, too easy to teach anything."""

    kind: Literal["scores"] = "scores"
    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _in_order(self) -> ScoreWindow:
        if self.min is None and self.max is None:
            raise ValueError("neither min nor max is given, so nothing would be dropped; give one")
        if self.min is not None and self.max is not None and self.max < self.min:
            raise ValueError(f"max: {self.max} is below min: {self.min}; no score is left")
        return self

    def keep(self, pool: Pool) -> np.ndarray:
        """Compare; both ends stay."""
        scores = self.scores(pool)
        above = scores > (np.inf if self.max is None else self.max)
        below = scores < (-np.inf if self.min is None else self.min)
        return ~(above | below)


FILTERS = {"margin": Margin, "perc_pos": PercPos, "scores": ScoreWindow}
