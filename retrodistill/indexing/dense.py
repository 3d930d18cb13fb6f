"""Indexes of dense vectors, by FAISS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from retrodistill.emissions import Emission
from retrodistill.errors import InputError
from retrodistill.indexing.index import BuiltIndex, Index


@dataclass(frozen=True)
class _Faiss:
    index: Any

    @property
    def size(self) -> int:
        return int(self.index.ntotal)

    @property
    def bytes(self) -> int:
        return self.size * int(self.index.d) * 4

    def nearest(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        if queries.shape[1] != self.index.d:
            raise InputError(f"the index holds vectors of {self.index.d} dimensions, the query has {queries.shape[1]}")
        # beyond its size FAISS fills up with id -1, so the depth never goes there
        scores, rows = self.index.search(np.ascontiguousarray(queries, dtype=np.float32), min(depth, self.size))
        if (rows < 0).any():  # what FAISS fills up with where products are NaN
            raise InputError("a vector of the query or of the index is NaN; the model has diverged in training")
        return scores, rows

    def save(self, folder: Path) -> None:
        import faiss

        faiss.write_index(self.index, str(folder / "index.faiss"))


class Flat(Index):
    """Exact search: the inner product with every vector."""

    accepts: ClassVar[Emission] = "dense"
    kind: Literal["flat"] = "flat"

    def build(self, vectors: np.ndarray) -> BuiltIndex:
        """Copy vectors into a FAISS flat index, block by block, so that a memory-mapped matrix never is held twice."""
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
        for start in range(0, len(vectors), 65_536):
            index.add(np.ascontiguousarray(vectors[start : start + 65_536], dtype=np.float32))
        return _Faiss(index)

    def load(self, folder: Path) -> BuiltIndex:
        """Read `index.faiss`.

        Raises:
            InputError: the file is absent or damaged.
        """
        import faiss

        try:
            return _Faiss(faiss.read_index(str(folder / "index.faiss")))
        except (RuntimeError, MemoryError) as error:  # a damaged size asks for more memory than there is
            raise InputError(
                f"{folder / 'index.faiss'}: cannot be read; build the index again: retrodistill index"
            ) from error


INDEXES = {"flat": Flat}
