"""Finds pairs among ten million and more in memory: hash tables in plain numpy, exact on all 256 bits.

A segment is a table of buckets in compressed rows: its rows sorted by bucket, with the place where each bucket starts.
Segments grow like a log-structured merge tree (O'Neil et al., 1996): new parts make a small segment, and two
neighbours are merged when the older is less than twice the newer, so that a row is moved O(log n) times in all.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# Rows looked up at once: what they need stays in the processor's cache.
_BLOCK = 1 << 17
_HIGH, _LOW = np.uint64(0xFFFFFFFF_00000000), np.uint64(0xFFFFFFFF)
# Four booleans that are all true, read as one number: several times faster than `all(axis=1)`.
_ALL_FOUR = np.uint32(0x01010101)
# Odd and without structure. The keys are hashes already; this only keeps the four halves from cancelling out.
_FACTORS = [np.uint64(f) for f in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)]


class PairIndex:
    """Scores by pair, from named parts; of two rows for a pair, the one from the part with the smaller name counts."""

    def __init__(self) -> None:
        self._segments: list[_Segment] = []

    def __len__(self) -> int:
        return sum(len(segment.scores) for segment in self._segments)

    @property
    def sources(self) -> list[str]:
        """Names of the parts that are in the index, sorted."""
        return [name for segment in self._segments for name in segment.names]

    def drop_from(self, name: str) -> list[str]:
        """Forget the segments that reach beyond `name`, so that a part of that name can go before them.

        Returns:
            The names of the parts to add again.
        """
        dropped: list[str] = []
        while self._segments and self._segments[-1].names[-1] > name:
            dropped += self._segments.pop().names
        return dropped

    def add(self, parts: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> None:
        """Add parts, sorted by name, all of them after those already there.

        Args:
            parts: name, uint64 keys of shape (n, 4) and float32 scores of shape (n,).
        """
        loaded = list(parts)
        if not loaded:
            return
        names = tuple(name for name, _, _ in loaded)
        keys = np.concatenate([keys for _, keys, _ in loaded])
        scores = np.concatenate([scores for _, _, scores in loaded])
        del loaded  # hundreds of megabytes that the sorting below has need of
        self._segments.append(_Segment(names, keys, scores))
        while len(self._segments) > 1 and len(self._segments[-2].scores) < 2 * len(self._segments[-1].scores):
            newer, older = self._segments.pop(), self._segments.pop()
            keys = np.concatenate([older.keys, newer.keys])
            scores = np.concatenate([older.scores, newer.scores])
            self._segments.append(_Segment(older.names + newer.names, keys, scores))

    def find(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Look pairs up.

        Args:
            queries: uint64, shape (n, 2).
            documents: uint64, shape (n, 2).

        Returns:
            float32, shape (n,); NaN where no part has the pair.
        """
        found = np.full(len(queries), np.nan, dtype=np.float32)
        for start in range(0, len(queries), _BLOCK):
            block = slice(start, start + _BLOCK)
            wanted = np.concatenate([queries[block], documents[block]], axis=1)
            mixed = _mixed(wanted)
            for segment in self._segments:
                segment.find(wanted, mixed, found[block])
        return found


class _Segment:
    """Rows of some parts, sorted by bucket, rows of one pair in the order in which they came."""

    def __init__(self, names: tuple[str, ...], keys: np.ndarray, scores: np.ndarray) -> None:
        count = len(scores)
        bits = min(32, max(1, (count - 1).bit_length()))
        # Upper half: the hash; lower half: the row. Sorting the one number sorts by hash and keeps the rows' order.
        ranks = _mixed(keys)
        ranks &= _HIGH
        ranks |= np.arange(count, dtype=np.uint64)
        ranks.sort()
        order = (ranks & _LOW).astype(np.intp)
        self._shift = np.uint64(64 - bits)
        sizes = np.bincount((ranks >> self._shift).astype(np.intp), minlength=1 << bits)
        self._starts = np.zeros((1 << bits) + 1, dtype=np.uint32)
        np.cumsum(sizes, out=self._starts[1:])
        self.names = names
        self.keys = keys.take(order, axis=0)
        self.scores = scores.take(order)

    def find(self, wanted: np.ndarray, mixed: np.ndarray, found: np.ndarray) -> None:
        """Fill in the scores of those wanted keys (n, 4), mixed (n,), that are here and not found (n,) already."""
        rows = np.flatnonzero(np.isnan(found))
        bucket = (mixed.take(rows) >> self._shift).astype(np.intp)
        at, end = self._starts.take(bucket).astype(np.intp), self._starts.take(bucket + 1)
        while rows.size:
            inside = at < end
            rows, at, end = rows[inside], at[inside], end[inside]
            equal = self.keys.take(at, axis=0) == wanted.take(rows, axis=0)
            hit = equal.view(np.uint32).ravel() == _ALL_FOUR
            found[rows[hit]] = self.scores.take(at[hit])
            miss = ~hit
            rows, at, end = rows[miss], at[miss] + 1, end[miss]


def _mixed(keys: np.ndarray) -> np.ndarray:
    """One well-mixed uint64 a row of four, shape (n,)."""
    mixed = keys[:, 0] * _FACTORS[0]
    for column in range(1, 4):
        mixed += keys[:, column] * _FACTORS[column]
    mixed ^= mixed >> np.uint64(32)
    mixed *= _FACTORS[0]
    return mixed
