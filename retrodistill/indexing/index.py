"""What every index of vectors offers, and the folder it is kept in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrodistill.errors import InputError
from retrodistill.registry import Part
from retrodistill.runs import id_order, top_rows

Emission = Literal["dense", "sparse", "multi", "text"]


class BuiltIndex(Protocol):
    """An index that holds vectors."""

    @property
    def size(self) -> int:
        """How many documents it holds."""

    @property
    def bytes(self) -> int:
        """What it takes in memory."""

    def nearest(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (float32) and rows (int64) of the best documents, each of shape (queries, min(depth, size))."""

    def save(self, folder: Path) -> None:
        """Write the index's own files into a folder."""


class Index(Part):
    """A way to find the nearest vectors.

    A subclass says what it `accepts`, builds from vectors, and loads what it saved.
    """

    accepts: ClassVar[Emission]

    @abstractmethod
    def build(self, vectors: np.ndarray) -> BuiltIndex:
        """Index vectors, shape (documents, dimensions), compared by inner product."""

    @abstractmethod
    def load(self, folder: Path) -> BuiltIndex:
        """Open what `BuiltIndex.save` wrote."""


def search(built: BuiltIndex, ids: Sequence[str], queries: np.ndarray, depth: int) -> list[dict[str, float]]:
    """The best documents of each query by id, ties broken as trec_eval does.

    A few more than `depth` are asked for, so that equal documents at the cut fall by their id, not by chance.
    """
    order = id_order(ids)
    found: list[dict[str, float]] = []
    for start in range(0, len(queries), 1_024):
        scores, rows = built.nearest(queries[start : start + 1_024], min(depth + 16, built.size))
        for row_scores, row_ids in zip(scores, rows, strict=True):
            best = top_rows(row_scores, depth, order[row_ids])
            found.append({ids[row_ids[i]]: float(row_scores[i]) for i in best})
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
