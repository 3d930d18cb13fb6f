"""What comparisons say of candidates, as training reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Preferences:
    """Probabilities that one candidate of a query is better than another, those that were asked alone.

    Attributes:
        offsets: int64 (queries + 1,), where each query's comparisons start.
        first: int64 (comparisons,), a row of the candidates.
        second: int64 (comparisons,), another row of the same query.
        chance: float32 (comparisons,), that the first is better.
    """

    offsets: np.ndarray
    first: np.ndarray
    second: np.ndarray
    chance: np.ndarray

    @classmethod
    def of(cls, matrices: Iterable[np.ndarray], starts: Sequence[int]) -> Preferences:
        """From a matrix a query, (n, n), NaN where two were not compared, and the row where each query starts."""
        found = []
        for matrix, start in zip(matrices, starts, strict=True):
            i, j = np.nonzero(~np.isnan(matrix))
            found.append((i + start, j + start, matrix[i, j]))
        counts = [len(first) for first, _, _ in found]
        first, second, chance = (np.concatenate([*(rows[part] for rows in found), np.empty(0)]) for part in range(3))
        return cls(
            np.cumsum([0, *counts], dtype=np.int64),
            first.astype(np.int64),
            second.astype(np.int64),
            chance.astype(np.float32),
        )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it."""
        hashed = hashlib.sha256()
        for array in (self.offsets, self.first, self.second, self.chance):
            hashed.update(array.tobytes())
        return hashed.hexdigest()

    def matrix(self, query: int, rows: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
        """A query's comparisons in the columns of a batch.

        Args:
            query: its place among the candidates' queries.
            rows: candidates of the query that are in the batch, int64 (k,).
            places: the column of each, int64 (k,).
            size: columns of the batch.

        Returns:
            float32 (size, size), NaN where two were not compared.
        """
        result = np.full((size, size), np.nan, dtype=np.float32)
        mine = slice(self.offsets[query], self.offsets[query + 1])
        order = np.argsort(rows)
        ends = []
        for ours in (self.first[mine], self.second[mine]):
            at = np.clip(np.searchsorted(rows[order], ours), 0, max(0, len(rows) - 1))
            ends.append((order[at], rows[order[at]] == ours) if len(rows) else (at, np.zeros(len(ours), dtype=bool)))
        (left, here), (right, there) = ends
        both = here & there
        result[places[left[both]], places[right[both]]] = self.chance[mine][both]
        return result
