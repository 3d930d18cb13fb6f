"""Exact search of dense vectors that stay on disk: read block by block, whatever their number, in a given memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from retrodistill.compiled import compiled, dot, in_parts, replace_least
from retrodistill.emissions import Emission
from retrodistill.errors import InputError
from retrodistill.indexing.index import BuiltIndex, Index
from retrodistill.indexing.rounded import Rounded, lengths, pays
from retrodistill.memory import Size
from retrodistill.rounding import error_of_sums

# Queries that share one reading of the vectors, and rows read at once where memory allows.
_QUERIES, _ROWS = 8_192, 16_384
# Products that are held at once, 2 MiB: they are looked at and forgotten before they leave a core's cache.
_QUERIES_A_TILE, _ROWS_A_TILE = 256, 2_048


@dataclass(frozen=True)
class _Mapped:
    """Vectors on disk, or in memory where they were given so.

    Attributes:
        vectors: float32 or float16, shape (documents, width).
        memory: bytes that a search may take for vectors.
    """

    vectors: np.ndarray
    memory: int

    queries_at_once: ClassVar[int] = _QUERIES

    @property
    def size(self) -> int:
        return len(self.vectors)

    @property
    def bytes(self) -> int:
        return 0 if isinstance(self.vectors, np.memmap) else self.vectors.nbytes

    def nearest(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        width = self.vectors.shape[1]
        if queries.shape[1] != width:
            raise InputError(f"the index holds vectors of {width} dimensions, the query has {queries.shape[1]}")
        asked = np.ascontiguousarray(queries, dtype=np.float32)
        scores = np.full((len(asked), min(depth, self.size)), -np.inf, dtype=np.float32)
        rows = np.full(scores.shape, -1, dtype=np.int64)
        sieve = Rounded if pays(len(asked), self.size, width, self.memory) else _Exact
        sifted, sound = sieve(asked, scores, rows), True
        at_once = min(_ROWS, max(_ROWS_A_TILE, self.memory // (width * (self.vectors.itemsize + 4))))
        for first, block in _blocks(self.vectors, at_once) if scores.size else ():
            sound &= sifted.sift(block, first)
        if not sound:
            raise InputError("a vector of the query or of the index is NaN; the model has diverged in training")
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def save(self, folder: Path) -> None:
        np.save(folder / "vectors.npy", self.vectors)  # a mapped file would be killed by a full disk, without a word


class Mapped(Index):
    """The inner product with every vector, from disk, by as much memory as is granted.

    Attributes:
        memory: for vectors of a search, beside what the process holds already; queries and results come on top.
    """

    argument: ClassVar[str | None] = "memory"
    accepts: ClassVar[Emission] = "dense"
    kind: Literal["mapped"] = "mapped"
    memory: Size = Field(256 * 10**6, ge=10**6, validate_default=True, description="such as 500MB")

    def build(self, vectors: np.ndarray) -> BuiltIndex:
        """Take vectors as they lie."""
        return _Mapped(vectors, self.memory)

    def load(self, folder: Path) -> BuiltIndex:
        """Map `vectors.npy`.

        Raises:
            InputError: the file is absent or damaged.
        """
        path = folder / "vectors.npy"
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: cannot be read; build the index again: retrodistill index") from error
        if vectors.ndim != 2 or vectors.dtype not in (np.float32, np.float16):
            raise InputError(f"{path}: holds no vectors; build the index again: retrodistill index")
        return _Mapped(vectors, self.memory)


class _Exact:
    """As `Rounded`, by float32 products: their last bits depend on how many are computed at once, a result's do not."""

    def __init__(self, queries: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> None:
        self.queries, self.scores, self.rows = queries, scores, rows
        self._margins = error_of_sums(queries.shape[1]) * lengths(queries)
        self._products = np.empty(_QUERIES_A_TILE * _ROWS_A_TILE, dtype=np.float32)

    def sift(self, vectors: np.ndarray, first: int) -> bool:
        sound = True
        for start in range(0, len(vectors), _ROWS_A_TILE):
            block = vectors[start : start + _ROWS_A_TILE]
            longest = lengths(block).max()
            for query in range(0, len(self.queries), _QUERIES_A_TILE):
                some = slice(query, query + _QUERIES_A_TILE)
                asked = self.queries[some]
                out = self._products[: len(asked) * len(block)].reshape(-1, len(block))
                np.matmul(asked, block.T, out=out)
                sound &= self._kept(some, out, block, longest, first + start)
        return sound

    def _kept(self, some: slice, products: np.ndarray, block: np.ndarray, longest: np.float32, first: int) -> bool:
        keep, margins = compiled(_keep), self._margins[some] * longest
        tables = products, self.queries[some], margins, self.scores[some], self.rows[some]
        return all(in_parts(lambda part: keep(*(table[part] for table in tables), block, first), len(products)))


def _blocks(vectors: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float32 vectors) of each block.

    A mapped file is read, not mapped: pages of a map that were touched count as memory of the process until the system
    wants them back.
    """
    if not (isinstance(vectors, np.memmap) and isinstance(vectors.base, mmap.mmap) and vectors.flags.c_contiguous):
        for start in range(0, len(vectors), rows):
            yield start, np.ascontiguousarray(vectors[start : start + rows], dtype=np.float32)
        return
    raw = np.empty((min(rows, len(vectors)), vectors.shape[1]), dtype=vectors.dtype)
    as_float = raw if vectors.dtype == np.float32 else np.empty(raw.shape, dtype=np.float32)
    with Path(str(vectors.filename)).open("rb", buffering=0) as stream:
        stream.seek(vectors.offset)
        for start in range(0, len(vectors), rows):
            count = min(rows, len(vectors) - start)
            _fill(stream, raw[:count])
            if as_float is not raw:
                as_float[:count] = raw[:count]
            yield start, as_float[:count]


def _fill(stream: Any, block: np.ndarray) -> None:
    left = block.reshape(-1).view(np.uint8)
    while len(left):
        read = stream.readinto(left)
        if not read:
            raise InputError(f"{stream.name}: ends before its last vector; it was cut off, make it again")
        left = left[read:]


def _keep(
    products: np.ndarray, queries: np.ndarray, margins: np.ndarray, scores: np.ndarray, rows: np.ndarray,
    vectors: np.ndarray, first: int,
) -> bool:  # fmt: skip
    """Put the best of a block into each query's heap, whose least score is at its root; False where one is NaN."""
    sound = True
    for query in range(products.shape[0]):
        heap, names, block = scores[query], rows[query], products[query]
        bound = heap[0] - margins[query]
        for at in range(products.shape[1]):
            if block[at] <= bound:
                continue
            score = dot(queries[query], vectors[at])
            if score <= heap[0]:
                continue
            if np.isnan(score):
                sound = False
                continue
            replace_least(heap, names, score, first + at)
            bound = heap[0] - margins[query]
    return sound


INDEXES = {"mapped": Mapped}
