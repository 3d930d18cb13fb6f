"""What a rule knows when it says what a teacher is asked next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from retrodistill.registry import Part
from retrodistill.spending.expectation import Expectation


@dataclass(frozen=True)
class Units:
    """What can be bought, U of it: documents, pairs of documents, or beginnings of a query's list.

    Attributes:
        rows: the candidates that each shows, one unit behind the other: int64.
        offsets: int64 (U + 1,), where each unit's begin.
        prices: judgements that each takes, int64 (U,).
    """

    rows: np.ndarray
    offsets: np.ndarray
    prices: np.ndarray

    def __len__(self) -> int:
        return len(self.prices)

    @classmethod
    def documents(cls, count: int) -> Units:
        """Every candidate on its own."""
        return cls(np.arange(count), np.arange(count + 1), np.ones(count, dtype=np.int64))

    @property
    def pairs(self) -> np.ndarray | None:
        """int64 (U, 2), where each unit shows two candidates; else None."""
        return self.rows.reshape(-1, 2) if len(self) and (np.diff(self.offsets) == 2).all() else None

    def total(self, each: np.ndarray) -> np.ndarray:
        """The sum of what the candidates of a unit are worth, a judgement: float64 (U,)."""
        return np.add.reduceat(each[self.rows], self.offsets[:-1]) / self.prices if len(self) else np.empty(0)

    def least(self, each: np.ndarray) -> np.ndarray:
        """What the least of a unit's candidates is worth, float64 (U,)."""
        return np.minimum.reduceat(each[self.rows], self.offsets[:-1]) if len(self) else np.empty(0)


@dataclass(frozen=True)
class Known:
    """Candidates, N of them, and what is known of them so far.

    Attributes:
        ranks: by the sources, from 1; 0 for a labelled document that none found: int (N,).
        offsets: int64 (queries + 1,), where each query's rows start.
        judged: the teacher's scores, float64 (N,), NaN where it was not asked.
        hints: what others make of them, each on one scale within a query, float64 (hints, N), NaN where one says
            nothing. The first is the order of the sources.
        errors: standard errors of what was judged, float64 (N,); none where left out.
        asked: what can be bought; single documents where left out.
    """

    ranks: np.ndarray
    offsets: np.ndarray
    judged: np.ndarray
    hints: np.ndarray
    errors: np.ndarray | None = None
    asked: Units | None = None

    def queries(self) -> Iterator[slice]:
        """The rows of each query that has any."""
        for start, stop in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            if stop > start:
                yield slice(start, stop)

    @cached_property
    def units(self) -> Units:
        """What can be bought."""
        return self.asked or Units.documents(len(self.judged))

    @cached_property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """What the teacher is expected to say of each candidate, and the standard deviation of its error: float64 (N,).

        By regression of the teacher's scores on the hints (`Expectation`). What was judged stands as
        it is; where that has an error of its own, as a strength read from few comparisons does, it is averaged with
        what is expected, each by its precision. Before enough was judged, the mean of the hints stands for it, as wrong
        as these differ among themselves.
        """
        known, hints = ~np.isnan(self.judged), self._hints
        if self._expectation is None:
            spread = float(hints.std(axis=0).mean()) if len(hints) > 1 and hints.size else 1.0
            return hints.mean(axis=0), np.full(len(known), max(spread, 1e-6))
        guess, wrong = self._expectation.level + self._expectation.fitted, self._expectation.wrong
        error = np.zeros(len(known)) if self.errors is None else np.where(known, self.errors, 0.0)
        trust = np.where(known, wrong**2 / (wrong**2 + error**2), 0.0)
        stands = trust * np.where(known, self.judged, 0.0) + (1 - trust) * guess
        return stands, np.where(known, error * np.sqrt(trust), wrong)

    @cached_property
    def merged(self) -> np.ndarray:
        """A ranking of what was judged among what was not, float64 (N,); within a query it can be compared."""
        stands, _ = self.expected
        return stands if self._expectation is None else self._expectation.merged(stands, ~np.isnan(self.judged))

    @cached_property
    def _hints(self) -> np.ndarray:
        return np.where(np.isnan(self.hints), 0.0, self.hints)

    @cached_property
    def _expectation(self) -> Expectation | None:
        """None before enough was judged."""
        if (~np.isnan(self.judged)).sum() < 2 * (len(self.hints) + 1):
            return None
        return Expectation.of(self.judged, self._hints, self.offsets)


class Rule(Part):
    """Says which judgements are bought next."""

    @abstractmethod
    def worth(self, known: Known, generator: np.random.Generator) -> np.ndarray:
        """How much each of `known.units` is worth asking about, float64 (U,); the greatest are asked first.

        A rule that thinks of single documents hands their worth to `known.units.total`, and so chooses among pairs and
        windows too; `known.units.pairs` is there for one that thinks of two.

        Args:
            known: what is known so far; what was judged is never asked again, whatever its worth.
            generator: seeded, and of this slice of the budget.
        """


class Random(Rule):
    """Any candidate, pair or window: the baseline of all rules."""

    kind: Literal["random"] = "random"

    def worth(self, known: Known, generator: np.random.Generator) -> np.ndarray:
        """Chance."""
        return generator.random(len(known.units))


class Coverage(Rule):
    """Every query alike, the best-ranked first: each query's first candidate, then each one's second.

    Of pairs and windows, those first that reach the least far down. What is bought of documents where no rule is named:
    the better the teacher is than the first stage, the more it is worth to have the top of every list judged.
    """

    kind: Literal["coverage"] = "coverage"

    def worth(self, known: Known, generator: np.random.Generator) -> np.ndarray:
        """Less for each candidate of the query that is judged or ranked before it; chance between queries."""
        worth = np.empty(len(known.judged))
        ranks = np.where(known.ranks > 0, known.ranks, np.iinfo(np.int64).max)
        for rows in known.queries():
            judged = ~np.isnan(known.judged[rows])
            order = np.lexsort((ranks[rows], ~judged))  # what was judged has had its turn
            worth[rows][order] = -np.arange(rows.stop - rows.start, dtype=np.float64)
        return known.units.least(worth) + generator.random(len(known.units)) / 2


SPENDING = {"random": Random, "coverage": Coverage}
