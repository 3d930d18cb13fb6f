"""What a rule knows when it says which candidates are judged next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from retrodistill.registry import Part


@dataclass(frozen=True)
class Known:
    """Candidates, N of them, and what is known of them so far.

    Attributes:
        ranks: by the sources, from 1; 0 for a labelled document that none found: int (N,).
        offsets: int64 (queries + 1,), where each query's rows start.
        judged: the teacher's scores, float64 (N,), NaN where it was not asked.
        hints: what others make of them, each on one scale within a query, float64 (hints, N), NaN where one says
            nothing. The first is the order of the sources.
    """

    ranks: np.ndarray
    offsets: np.ndarray
    judged: np.ndarray
    hints: np.ndarray

    def queries(self) -> Iterator[slice]:
        """The rows of each query that has any."""
        for start, stop in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            if stop > start:
                yield slice(start, stop)

    @cached_property
    def expected(self) -> tuple[np.ndarray, float]:
        """What the teacher is expected to say, float64 (N,), and by how much that is wrong, a standard deviation.

        Ridge regression of the teacher's scores on the hints, over all rows that it judged; what was judged stands as
        it is. Before enough was, the mean of the hints stands for it, as wrong as these differ among themselves.
        """
        known = ~np.isnan(self.judged)
        hints = np.where(np.isnan(self.hints), 0.0, self.hints)
        if known.sum() < 2 * (len(hints) + 1):
            guess = hints.mean(axis=0)
            spread = float(hints.std(axis=0).mean()) if len(hints) > 1 and hints.size else 1.0
            return guess, max(spread, 1e-6)
        features = np.vstack([hints, np.ones(hints.shape[1])]).T
        inner = features[known].T @ features[known] + np.eye(features.shape[1]) * 1e-3 * known.sum()
        weights = np.linalg.solve(inner, features[known].T @ self.judged[known])
        guess = features @ weights
        wrong = float((self.judged[known] - guess[known]).std())
        return np.where(known, self.judged, guess), max(wrong, 1e-6)


class Rule(Part):
    """Says which judgements are bought next."""

    @abstractmethod
    def worth(self, known: Known, generator: np.random.Generator) -> np.ndarray:
        """How much each candidate is worth asking about, float64 (N,); the greatest are asked first.

        Args:
            known: what is known so far; what was judged is never asked again, whatever its worth.
            generator: seeded, and of this slice of the budget.
        """


class Random(Rule):
    """Any candidate: the baseline of all rules."""

    kind: Literal["random"] = "random"

    def worth(self, known: Known, generator: np.random.Generator) -> np.ndarray:
        """Chance."""
        return generator.random(len(known.judged))


class Coverage(Rule):
    """Every query alike, the best-ranked first: each query's first candidate, then each one's second."""

    kind: Literal["coverage"] = "coverage"

    def worth(self, known: Known, generator: np.random.Generator) -> np.ndarray:
        """Less for each candidate of the query that is judged or ranked before it; chance between queries."""
        worth = np.empty(len(known.judged))
        ranks = np.where(known.ranks > 0, known.ranks, np.iinfo(np.int64).max)
        for rows in known.queries():
            judged = ~np.isnan(known.judged[rows])
            order = np.lexsort((ranks[rows], ~judged))  # what was judged has had its turn
            worth[rows][order] = -np.arange(rows.stop - rows.start, dtype=np.float64)
        return worth + generator.random(len(worth)) / 2


SPENDING = {"random": Random, "coverage": Coverage}
