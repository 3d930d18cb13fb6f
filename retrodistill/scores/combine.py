"""Makes one teacher of several: the store keeps each one's raw logits, and ensembles are made when they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill.errors import InputError
from retrodistill.registry import Part

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Mean(Part):
    """Average teachers whose scores are on different scales, each brought to one scale within every query.

    - `zscore`: less the mean, over the standard deviation (of the population, ddof 0). All scores equal: 0.
    - `minmax`: 0 for the lowest, 1 for the highest. All scores equal: 0.
    - `rank`: 0 for the lowest, 1 for the highest, in even steps; equal scores share the mean of their steps.
      All scores equal: 0.5.
    - `none`: the raw scores.

    A teacher's scale comes from the scores that it has: where it lacks some of a query's documents, its mean, extremes
    and ranks are over the others. A document's average is over the teachers that have a score for it, by their weights.
    """

    argument: ClassVar[str | None] = "normalise"
    kind: Literal["mean"] = "mean"
    normalise: Literal["none", "zscore", "minmax", "rank"] = "zscore"
    weights: tuple[Weight, ...] | None = None

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not any(weights):
            raise ValueError(f"got {list(weights)}, expected at least one weight above 0")
        return weights

    def __call__(self, scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Combine.

        Args:
            scores: shape (teachers T, rows N), NaN where a teacher has no score.
            offsets: int64, shape (queries + 1,): where each query's rows start, and N.

        Returns:
            float32, shape (N,); NaN where no teacher with a weight above 0 has a score.

        Raises:
            InputError: there are not as many weights as teachers.
        """
        if scores.ndim != 2 or offsets[0] != 0 or offsets[-1] != scores.shape[1]:
            raise ValueError(f"got scores {scores.shape} and offsets from {offsets[0]} to {offsets[-1]}")
        if self.weights is not None and len(self.weights) != len(scores):
            raise InputError(
                f"weights: got {len(self.weights)} weights for {len(scores)} teachers, expected one for each"
            )
        groups = _Groups(offsets)
        weights = np.ones(len(scores)) if self.weights is None else np.array(self.weights)
        total, weight = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
        for factor, row in zip(weights, scores, strict=True):
            judged = ~np.isnan(row)
            values = _NORMALISERS[self.normalise](row.astype(np.float64), judged, groups)
            total += np.where(judged, factor * values, 0)
            weight += factor * judged
        return np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 0).astype(np.float32)


def default_combination(teachers: int) -> Mean:
    """What stands where the user asks for nothing: a single teacher's raw logits, or the mean of several z-scores."""
    return Mean(normalise="none" if teachers == 1 else "zscore")


class _Groups:
    """The rows of each query, those of queries without rows left out."""

    def __init__(self, offsets: np.ndarray) -> None:
        lengths = np.diff(offsets)
        self.lengths = lengths[lengths > 0]
        self.starts = offsets[:-1][lengths > 0]

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A value a query, shape (queries,), to a value a row, shape (N,)."""
        return np.repeat(values, self.lengths)

    def over(self, operation: np.ufunc, values: np.ndarray) -> np.ndarray:
        """The sum (or another reduction) over a row's query, shape (N,)."""
        return self.spread(operation.reduceat(values, self.starts))


def _none(values: np.ndarray, judged: np.ndarray, groups: _Groups) -> np.ndarray:
    return values


def _shifted(values: np.ndarray, judged: np.ndarray, groups: _Groups) -> np.ndarray:
    """Values less the lowest of their query, 0 where not judged; equal values come out as exact zeros."""
    lowest = groups.over(np.minimum, np.where(judged, values, np.inf))
    return np.where(judged, values - lowest, 0)


def _zscore(values: np.ndarray, judged: np.ndarray, groups: _Groups) -> np.ndarray:
    shifted = _shifted(values, judged, groups)
    count = np.maximum(groups.over(np.add, judged.astype(np.float64)), 1)
    centred = np.where(judged, shifted - groups.over(np.add, shifted) / count, 0)
    deviation = np.sqrt(groups.over(np.add, centred**2) / count)
    return np.divide(centred, deviation, out=np.zeros_like(values), where=deviation > 0)


def _minmax(values: np.ndarray, judged: np.ndarray, groups: _Groups) -> np.ndarray:
    shifted = _shifted(values, judged, groups)
    highest = groups.over(np.maximum, shifted)
    return np.divide(shifted, highest, out=np.zeros_like(values), where=highest > 0)


def _rank(values: np.ndarray, judged: np.ndarray, groups: _Groups) -> np.ndarray:
    query = groups.spread(np.arange(len(groups.starts)))
    order = np.lexsort((values, query))  # NaN goes last within a query, and queries keep their places
    ordered = values[order]
    # Runs of equal scores within a query.
    first = (np.diff(query, prepend=-1) != 0) | (np.diff(ordered, prepend=np.nan) != 0)
    starts = np.flatnonzero(first)
    lengths = np.diff(np.append(starts, len(values)))
    places = np.empty_like(values)
    places[order] = np.repeat(starts + (lengths - 1) / 2, lengths)
    last = groups.over(np.add, judged.astype(np.float64)) - 1
    return np.divide(places - groups.spread(groups.starts), last, out=np.full_like(values, 0.5), where=last > 0)


_NORMALISERS: dict[str, Callable[[np.ndarray, np.ndarray, _Groups], np.ndarray]] = {
    "none": _none,
    "zscore": _zscore,
    "minmax": _minmax,
    "rank": _rank,
}

COMBINATIONS = {"mean": Mean}
