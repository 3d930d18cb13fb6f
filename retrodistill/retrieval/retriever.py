"""What answers queries: mined from, taught by and evaluated through the same door."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from retrodistill.emissions import Emission
from retrodistill.registry import Part
from retrodistill.runs import Run

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class Searcher(Protocol):
    """A retriever opened on a collection."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides a score: the same identity, the same scores."""

    @property
    def details(self) -> dict[str, Any]:
        """Speed and size as far as they are known by now, for the report."""

    def search(self, query_ids: Sequence[str], depth: int) -> Run:
        """The best documents of each query, best first."""


class Retriever(Part):
    """Something that finds documents for queries; with `score`, also a teacher."""

    @property
    def emits(self) -> Emission | None:
        """The kind of vectors its searcher has (`document_vectors`, `query_vectors`, `use`); None where it has none."""
        return None

    @property
    def reads_labels(self) -> bool:
        """Whether what it finds depends on labels, so that it can find nothing for queries that are measured."""
        return False

    @abstractmethod
    def open(self, collection: Collection) -> Searcher:
        """Get ready to search a collection; heavy work waits until it is needed."""


def grouped(query_ids: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Each query once, in order of first appearance, with the rows where it stands (int64)."""
    rows: dict[str, list[int]] = {}
    for row, query in enumerate(query_ids):
        rows.setdefault(query, []).append(row)
    return [(query, np.asarray(found, dtype=np.int64)) for query, found in rows.items()]
