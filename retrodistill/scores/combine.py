"""Makes one teacher of several: the store keeps each one's raw logits, and ensembles are made when they are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from retrodistill.errors import InputError
from retrodistill.registry import Part
from retrodistill.scores.certainty import disagreement, error

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


# Queries whose scores are float64 at once.
_QUERIES_AT_ONCE = 8_192

Normaliser = Literal["none", "zscore", "minmax", "rank", "reciprocal_rank", "teacher_zscore"]


class Combination(Part):
    """Makes one score of several teachers', each brought to a scale that they share.

    - `zscore`: less the mean, over the standard deviation (of the population, ddof 0). All scores equal: 0.
    - `minmax`: 0 for the lowest, 1 for the highest. All scores equal: 0.
    - `rank`: 0 for the lowest, 1 for the highest, in even steps; equal scores share the mean of their steps.
      All scores equal: 0.5.
    - `reciprocal_rank`: 1 / (60 + r), r the rank from 1; equal scores share the mean rank (Cormack, Clarke and
      Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods").
    - `teacher_zscore`: as `zscore`, by the mean and deviation of the teacher over all queries, so that a query whose
      documents it likes less keeps lower scores.
    - `none`: the raw scores.

    A teacher's scale comes from the scores that it has: where it lacks some of a query's documents, its mean, extremes
    and ranks are over the others. What is made of a document's scores is over the teachers that have one for it.

    With `weigh: disagreement` what the teachers disagree about counts less, to the losses that heed it: a document's
    score by `1 / (1 + d^2)`, d the standard deviation over the teachers that judged it, on the common scale. With
    `weigh: error` d is the standard error of a score that was made of comparisons.

    Attributes:
        temperatures: what each teacher's raw scores are divided by first, as it was calibrated.
        weigh: by what a document's score counts in training, beside the others of its query.
    """

    argument: ClassVar[str | None] = "normalise"
    normalise: Normaliser = "zscore"
    weigh: Literal["disagreement", "error"] | None = Field(
        None, description="what is learnt less from: what teachers disagree about, or have compared too little"
    )
    temperatures: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None

    @model_validator(mode="after")
    def _has_errors(self) -> Self:
        if self.weigh == "error" and self.normalise in ("rank", "reciprocal_rank"):
            raise ValueError(f"weigh: error, and {self.normalise} has no place for one; normalise by zscore or another")
        return self

    @property
    def looks_at(self) -> tuple[Part, ...]:
        """Teachers whose scores it reads beside those that it makes one of; they judge train candidates too."""
        return ()

    def unfiltered(self) -> Combination:
        """The same without a rule that leaves rows out: to be measured, whatever a teacher judged is ranked."""
        return self

    def __call__(self, scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Combine.

        Args:
            scores: shape (teachers T, rows N), NaN where a teacher has no score.
            offsets: int64, shape (queries + 1,): where each query's rows start, and N.

        Returns:
            float32, shape (N,); NaN where there is nothing to go by.

        Raises:
            InputError: there are not as many weights or temperatures as teachers.
        """
        return self._in_parts(self._combine, scores, offsets)

    def certainty(self, scores: np.ndarray, offsets: np.ndarray, errors: np.ndarray | None = None) -> np.ndarray | None:
        """How much the score of each row counts, as `weigh` asks.

        A row of which that is not known, as only one teacher judged it, or none with an error, counts as the others do
        on the average.

        Args:
            scores: as they are combined.
            offsets: the same.
            errors: standard errors of the scores, (T, N), NaN where there is none; what `weigh: error` looks at.

        Returns:
            float32, shape (N,), above 0 and up to 1; None where all count alike.

        Raises:
            InputError: it is known of no row.
        """
        if self.weigh is None:
            return None
        asked = np.concatenate([scores, np.full_like(scores, np.nan) if errors is None else errors])
        weights = self._in_parts(self._sureness, asked, offsets)
        known = ~np.isnan(weights)
        if not known.any():
            missing = {
                "disagreement": "of two teachers, which could disagree; have them score the same candidates",
                "error": "with a standard error, as teachers have that compare and are read by bradley_terry; name one",
            }
            raise InputError(
                f"combine: weigh: {self.weigh}, and no candidate has a score {missing[self.weigh]}, or leave it out"
            )
        weights[~known] = weights[known].mean(dtype=np.float64)
        return weights

    def _sureness(self, both: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """`1 / (1 + d^2)` of scores and their errors, one below the other; NaN where it is not known."""
        scores, errors = np.split(both, 2)
        values, judged, groups = self.scaled(scores, offsets)
        spread = (
            disagreement(values, judged)
            if self.weigh == "disagreement"
            else (error(scores, errors, values, judged, groups))
        )
        return (1 / (1 + spread**2)).astype(np.float32)

    def _in_parts(
        self, make: Callable[[np.ndarray, np.ndarray], np.ndarray], scores: np.ndarray, offsets: np.ndarray
    ) -> np.ndarray:
        """A value a row, (N,), some queries at a time where a query's are made of its own scores alone."""
        _check_shapes(scores, offsets)
        if not self._by_query:
            return make(scores, offsets)
        found = np.empty(scores.shape[1], dtype=np.float32)
        for start in range(0, max(1, len(offsets) - 1), _QUERIES_AT_ONCE):
            part = offsets[start : start + _QUERIES_AT_ONCE + 1]
            rows = slice(part[0], part[-1])
            found[rows] = make(scores[:, rows], part - part[0])
        return found

    @property
    def _by_query(self) -> bool:
        """Whether a query's scores are made of its own alone, so that queries can be taken some at a time.

        Of a class that is not of this file nobody knows.
        """
        return self.normalise != "teacher_zscore" and type(self) in (Mean, Confident, Median)

    def _combine(self, scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        values, judged, groups = self.scaled(scores, offsets)
        return self.combined(values, judged, groups).astype(np.float32)

    def scaled(self, scores: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, Groups]:
        """Every teacher's scores on the common scale, float64, which of them count, and the rows of each query."""
        _check_shapes(scores, offsets)
        self._one_a_teacher("temperatures", self.temperatures, len(scores))
        groups, values = Groups(offsets), scores.astype(np.float64)
        if self.temperatures is not None:
            values = values / np.array(self.temperatures)[:, None]
        judged = ~np.isnan(values)
        scaled = [_NORMALISERS[self.normalise](row, known, groups) for row, known in zip(values, judged, strict=True)]
        return np.reshape(scaled, scores.shape), judged, groups

    @abstractmethod
    def combined(self, values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
        """One value a row of many teachers' on one scale, (T, N), of which those `judged` count: (N,)."""

    @staticmethod
    def _one_a_teacher(name: str, given: tuple[float, ...] | None, teachers: int) -> None:
        if given is not None and len(given) != teachers:
            raise InputError(f"{name}: got {len(given)} {name} for {teachers} teachers, expected one for each")


def _check_shapes(scores: np.ndarray, offsets: np.ndarray) -> None:
    if scores.ndim != 2 or offsets[0] != 0 or offsets[-1] != scores.shape[1]:
        raise ValueError(f"got scores {scores.shape} and offsets from {offsets[0]} to {offsets[-1]}")


class Mean(Combination):
    """The average of teachers, by their weights, each brought to one scale within every query."""

    kind: Literal["mean"] = "mean"
    weights: tuple[Weight, ...] | None = None

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not any(weights):
            raise ValueError(f"got {list(weights)}, expected at least one weight above 0")
        return weights

    def combined(self, values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
        """The weighted mean over the teachers that judged."""
        self._one_a_teacher("weights", self.weights, len(values))
        given = np.ones(len(values)) if self.weights is None else np.array(self.weights)
        return averaged(values, judged, given[:, None] * self.trust(values, judged, groups))

    def trust(self, values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
        """What a weight is multiplied by, row by row: (T, N) or of a shape that goes with it."""
        return np.ones((1, 1))


class Confident(Mean):
    """The average of teachers, in each query by how sure each of them is.

    Sureness is one less the entropy of `softmax(scores / temperature)` over the documents that the teacher judged,
    relative to that of not knowing: 1 for all on one document, 0 for all alike. Rows that all who judged them are
    wholly unsure about are left out, or with `keep_unsure` get what the plain mean gives, which is what their scores
    come to as all sureness goes to 0 alike. Where the teachers are measured, they stay: what is not learnt from was
    found and is ranked all the same. With `normalise: none` it is the teachers' own certainty that counts, which wants
    `temperatures`; with another scale the shape of their scores.

    Source: the confidence of Li et al. 2024, "Learning with Less: Knowledge Distillation from Large Language Models via
    Unlabeled Data" (LLKD), as a weight.
    """

    argument: ClassVar[str | None] = "temperature"
    kind: Literal["confident"] = "confident"  # type: ignore[assignment]
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    keep_unsure: bool = Field(False, description="rows that nobody is sure about get the plain mean")

    def unfiltered(self) -> Combination:
        """With the plain mean where nobody is sure."""
        return self.model_copy(update={"keep_unsure": True})

    def combined(self, values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
        """The mean by weights and sureness; where all of these are 0, by weights, or NaN."""
        result = super().combined(values, judged, groups)
        if not self.keep_unsure:
            return result
        plain = Mean(weights=self.weights).combined(values, judged, groups)
        return np.where(np.isnan(result), plain, result)

    def trust(self, values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
        """Sureness, from 0 to 1, a teacher and row."""
        sure = [sureness(row / self.temperature, known, groups) for row, known in zip(values, judged, strict=True)]
        return np.reshape(sure, values.shape)


class Median(Combination):
    """The median of teachers: one that is far off moves nothing."""

    kind: Literal["median"] = "median"

    def combined(self, values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
        """The median over the teachers that judged."""
        result = np.full(values.shape[1], np.nan)
        some = judged.any(axis=0)
        if some.any():
            result[some] = np.nanmedian(np.where(judged, values, np.nan)[:, some], axis=0)
        return result


class Agreed(Mean):
    """The average of teachers where they agree: what they disagree about most is not learnt from.

    Disagreement about a document is the standard deviation of its scores over the teachers that judged it; rows above
    the `quantile` of all rows that two teachers judged are left out. Where the teachers are measured, all rows stay:
    what is not learnt from was found and is ranked all the same.
    """

    argument: ClassVar[str | None] = "quantile"
    kind: Literal["agreed"] = "agreed"  # type: ignore[assignment]
    quantile: float = Field(0.9, gt=0, le=1, description="the share of rows that is kept")

    def unfiltered(self) -> Combination:
        """The weighted mean of every row."""
        return self.model_copy(update={"quantile": 1.0})

    def combined(self, values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
        """The weighted mean, NaN where the disagreement is above the quantile."""
        result = super().combined(values, judged, groups)
        deviations = disagreement(values, judged)
        if not np.isnan(deviations).all():
            result[deviations > np.nanquantile(deviations, self.quantile)] = np.nan
        return result


def default_combination(teachers: int) -> Mean:
    """What stands where the user asks for nothing: a single teacher's raw logits, or the mean of several z-scores."""
    return Mean(normalise="none" if teachers == 1 else "zscore")


class Groups:
    """The rows of each query, those of queries without rows left out."""

    def __init__(self, offsets: np.ndarray) -> None:
        lengths = np.diff(offsets)
        self.lengths = lengths[lengths > 0]
        self.starts = offsets[:-1][lengths > 0]

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A value a query, shape (queries,), to a value a row, shape (N,)."""
        return np.repeat(values, self.lengths)

    def each(self, operation: np.ufunc, values: np.ndarray) -> np.ndarray:
        """The sum (or another reduction) over each query's rows, shape (queries,)."""
        return operation.reduceat(values, self.starts)

    def over(self, operation: np.ufunc, values: np.ndarray) -> np.ndarray:
        """The same over a row's query, shape (N,)."""
        return self.spread(self.each(operation, values))


def averaged(values: np.ndarray, judged: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over the teachers that judged, (T, N) to (N,), by weights that go with (T, N); NaN where all are 0."""
    weights = np.where(judged, weights, 0)
    weight, total = weights.sum(axis=0), (weights * np.where(judged, values, 0)).sum(axis=0)
    return np.divide(total, weight, out=np.full(values.shape[1], np.nan), where=weight > 0)


def sureness(logits: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    """One less the entropy of a teacher's softmax over what it judged, relative to that of not knowing: (N,)."""
    logits = np.where(judged, logits, -np.inf)
    highest = groups.over(np.maximum, logits)
    exponents = np.where(judged, logits - np.where(judged, highest, 0), 0)
    shares = np.where(judged, np.exp(exponents), 0)
    total, count = groups.over(np.add, shares), groups.over(np.add, judged.astype(np.float64))
    mean = groups.over(np.add, shares * exponents) / np.maximum(total, 1)
    entropy = np.log(np.maximum(total, 1)) - mean
    return np.clip(1 - entropy / np.log(np.maximum(count, 2)), 0, 1)


def _none(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    return values


def _shifted(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    """Values less the lowest of their query, 0 where not judged; equal values come out as exact zeros."""
    lowest = groups.over(np.minimum, np.where(judged, values, np.inf))
    return np.where(judged, values - lowest, 0)


def zscore(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    """In standard deviations from the mean of what a teacher judged of the row's query; 0 where all are equal."""
    shifted = _shifted(values, judged, groups)
    count = np.maximum(groups.over(np.add, judged.astype(np.float64)), 1)
    centred = np.where(judged, shifted - groups.over(np.add, shifted) / count, 0)
    deviation = np.sqrt(groups.over(np.add, centred**2) / count)
    return np.divide(centred, deviation, out=np.zeros_like(values), where=deviation > 0)


def _minmax(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    shifted = _shifted(values, judged, groups)
    highest = groups.over(np.maximum, shifted)
    return np.divide(shifted, highest, out=np.zeros_like(values), where=highest > 0)


def _rank(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
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


def _reciprocal_rank(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    count = groups.over(np.add, judged.astype(np.float64))
    share = _rank(values, judged, groups)
    # shares run from 0, the last, to 1, the first; a lone document has .5 and rank 1
    return 1 / (60 + np.where(judged & (count > 1), count - share * (count - 1), 1))


def _teacher_zscore(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    if not judged.any():
        return np.zeros_like(values)
    centred = np.where(judged, values - values[judged].mean(), 0)
    deviation = np.sqrt((centred**2).sum() / judged.sum())
    return centred / deviation if deviation > 0 else centred


_NORMALISERS: dict[str, Callable[[np.ndarray, np.ndarray, Groups], np.ndarray]] = {
    "none": _none,
    "zscore": zscore,
    "minmax": _minmax,
    "rank": _rank,
    "reciprocal_rank": _reciprocal_rank,
    "teacher_zscore": _teacher_zscore,
}

COMBINATIONS = {"mean": Mean, "confident": Confident, "median": Median, "agreed": Agreed}
