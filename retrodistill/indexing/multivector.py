"""Indexes of several vectors a document, compared by MaxSim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from retrodistill.emissions import Emission, MultiVectors
from retrodistill.errors import InputError
from retrodistill.indexing.index import Index

_SCORES_AT_ONCE = 2**25  # of queries with all documents: 128 MiB


@dataclass(frozen=True)
class Exhaustive:
    """Vectors, every one of which is looked at."""

    documents: MultiVectors

    queries_at_once: ClassVar[int] = 32

    @property
    def size(self) -> int:
        """How many documents there are."""
        return len(self.documents)

    @property
    def bytes(self) -> int:
        """Of vectors and lengths."""
        return int(self.documents.vectors.nbytes + self.documents.lengths.nbytes)

    def nearest(self, queries: MultiVectors, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """MaxSim with every document, as many queries at once as their scores take 128 MiB."""
        check_width(queries, self.documents)
        depth = min(depth, self.size)
        scores, rows = np.empty((len(queries), depth), np.float32), np.empty((len(queries), depth), np.int64)
        step = max(1, _SCORES_AT_ONCE // max(1, self.size))
        for start in range(0, len(queries), step):
            found = queries[start : start + step].scores(self.documents)
            scores[start : start + step], rows[start : start + step] = best_of(found, depth)
        return scores, rows

    def save(self, folder: Path) -> None:
        """Write `lengths.npy` and `vectors.npy`."""
        np.save(folder / "lengths.npy", self.documents.lengths, allow_pickle=False)
        np.save(folder / "vectors.npy", self.documents.vectors, allow_pickle=False)


class MultiVector(Index):
    """Exact search: MaxSim with every document, over vectors that may stay on disk.

    `float16` halves the index; a score moves by at most 0.0005 for each query vector of unit length.
    """

    accepts: ClassVar[Emission] = "multi"
    kind: Literal["multivector"] = "multivector"
    precision: Literal["float32", "float16"] = "float32"

    def build(self, vectors: MultiVectors) -> Exhaustive:
        """Hold vectors in the asked precision; those of that precision are not copied."""
        return Exhaustive(MultiVectors(vectors.lengths, vectors.vectors.astype(self.precision, copy=False)))

    def load(self, folder: Path) -> Exhaustive:
        """Map `vectors.npy` into memory.

        Raises:
            InputError: a file is absent or damaged, or the two do not fit.
        """
        lengths, vectors = load_array(folder / "lengths.npy", 1, "i"), load_array(folder / "vectors.npy", 2, "f")
        if (lengths < 0).any() or lengths.sum() != len(vectors):
            raise InputError(
                f"{folder}: lengths.npy and vectors.npy do not fit each other; build the index again: "
                "retrodistill index"
            )
        return Exhaustive(MultiVectors(np.asarray(lengths), vectors))


def load_array(path: Path, dimensions: int, kind: str) -> np.ndarray:
    """A memory-mapped array of so many dimensions and of a kind of numbers: `i` integers, `f` floats.

    Raises:
        InputError: the file is absent, damaged, or holds another array.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim != dimensions or array.dtype.kind != kind:
            raise ValueError(f"an array of shape {array.shape} and type {array.dtype}")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); build the index again: retrodistill index") from error
    return array


def check_width(queries: MultiVectors, documents: MultiVectors) -> None:
    """Refuse queries of another model's width."""
    asked, held = queries.vectors.shape[1], documents.vectors.shape[1]
    if asked != held:
        raise InputError(f"the index holds vectors of {held} dimensions, the query has {asked}")


def best_of(scores: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `depth` of each row, best first: scores and columns (int64)."""
    if np.isnan(scores).any():
        raise InputError("a vector of the query or of the index is NaN; the model has diverged in training")
    if depth < scores.shape[1]:
        columns = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    else:
        columns = np.broadcast_to(np.arange(depth), scores.shape)
    values = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(columns, order, axis=1)


INDEXES = {"multivector": MultiVector}
