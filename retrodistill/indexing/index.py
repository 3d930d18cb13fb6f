"""What every index of vectors offers, and the folder it is kept in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrodistill import console
from retrodistill.emissions import Emission, Vectors
from retrodistill.errors import InputError
from retrodistill.registry import Part
from retrodistill.runs import id_order, top_rows


class BuiltIndex(Protocol):
    """An index that holds vectors."""

    @property
    def size(self) -> int:
        """How many documents it holds."""

    @property
    def bytes(self) -> int:
        """What it takes in memory."""

    def nearest(self, queries: Any, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (float32) and rows (int64) of the best documents, each of shape (queries, min(depth, size)).

        An index that finds fewer, as of sparse vectors, fills up with row -1 and score -inf.
        """

    def save(self, folder: Path) -> None:
        """Write the index's own files into a folder."""


class Index(Part):
    """A way to find the nearest vectors.

    A subclass says what it `accepts`, builds from vectors, and loads what it saved.
    """

    accepts: ClassVar[Emission]

    @abstractmethod
    def build(self, vectors: Any) -> BuiltIndex:
        """Index vectors of the kind that it accepts, as `Encoder.encode` gives them."""

    @abstractmethod
    def load(self, folder: Path) -> BuiltIndex:
        """Open what `BuiltIndex.save` wrote."""


def search(
    built: BuiltIndex, ids: Sequence[str], queries: Vectors, depth: int, order: np.ndarray | None = None
) -> list[dict[str, float]]:
    """The best documents of each query by id, ties broken as trec_eval does.

    More than `depth` are asked for, as many as it takes to see the end of the documents that are equal at the cut:
    they fall by their id, not by chance. `order` is the `id_order` of the ids, where it is known.

    An index that reads all vectors for every block of queries says how many it takes as `queries_at_once`.
    """
    order = id_order(ids) if order is None else order
    found: list[dict[str, float]] = []
    at_once = getattr(built, "queries_at_once", 256)
    blocks = range(0, len(queries), at_once)
    for start in console.track(blocks, len(blocks), "search", "blocks of queries"):
        block = queries[start : start + at_once]
        asked = min(depth + 16, built.size)
        scores, rows = built.nearest(block, asked)
        for query in range(len(block)):
            near, at, seen = scores[query], rows[query], asked
            while depth < seen < built.size and at[-1] >= 0 and near[depth - 1] == near[-1]:
                seen = min(4 * seen, built.size)
                (near,), (at,) = built.nearest(block[query : query + 1], seen)
            there = int(np.count_nonzero(at >= 0))
            near, at = near[:there], at[:there]
            top = top_rows(near, depth, order[at])
            found.append(dict(zip(map(ids.__getitem__, at[top].tolist()), near[top].tolist(), strict=True)))
    return found


def save_ids(folder: Path, ids: Sequence[str]) -> None:
    """Write the document ids beside an index, one a row."""
    pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), folder / "ids.parquet")


def load_ids(folder: Path) -> list[str]:
    """Read what `save_ids` wrote.

    Raises:
        InputError: the file is absent or damaged.
    """
    path = folder / "ids.parquet"
    try:
        table: Any = pq.read_table(path, columns=["id"])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({error}); build the index again: retrodistill index") from error
    return table.column("id").to_pylist()
