"""An inverted index of learned terms: exact, a term at a time over postings in document order."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from retrodistill.compiled import compiled, in_parts
from retrodistill.emissions import Emission, SparseVectors
from retrodistill.errors import InputError
from retrodistill.indexing.index import BuiltIndex, Index

_DAMAGED = "build the index again: retrodistill index"


@dataclass(frozen=True)
class _Postings:
    """The documents of each term: term t has the postings from `offsets[t]` to `offsets[t + 1]`.

    Attributes:
        offsets: int64 (terms + 1,).
        documents: uint32 (postings,), ascending within a term.
        weights: float32 (postings,).
        lengths: int64 (documents,), how many terms each document has.
    """

    offsets: np.ndarray
    documents: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray

    @property
    def size(self) -> int:
        return len(self.lengths)

    @property
    def bytes(self) -> int:
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def nearest(self, queries: SparseVectors, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """The best documents that share a term; where fewer do, the rest are row -1 with a score of -inf."""
        if queries.dimensions != len(self.offsets) - 1:
            raise InputError(f"the index knows {len(self.offsets) - 1} terms, the query has {queries.dimensions}")
        shape = (len(queries), min(depth, self.size))
        scores, rows = np.full(shape, -np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int64)
        if not scores.size:
            return scores, rows
        search = compiled(_search)

        def work(mine: slice) -> None:
            part = queries[mine]
            asked = (part.offsets, np.ascontiguousarray(part.terms), np.ascontiguousarray(part.weights))
            search(self.offsets, self.documents, self.weights, self.size, *asked, scores[mine], rows[mine])

        in_parts(work, len(queries))
        return scores, rows

    def save(self, folder: Path) -> None:
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)


class Inverted(Index):
    """Exact search of sparse vectors: the weights of a query's terms times those of the documents that have them."""

    accepts: ClassVar[Emission] = "sparse"
    kind: Literal["inverted"] = "inverted"

    def build(self, vectors: SparseVectors) -> BuiltIndex:
        """Sort the entries of all documents by term.

        Raises:
            InputError: a weight is not finite.
        """
        if not np.isfinite(vectors.weights).all():
            raise InputError("a weight of a document is not finite; the model has diverged in training")
        offsets = np.zeros(vectors.dimensions + 1, dtype=np.int64)
        offsets[1:] = np.cumsum(np.bincount(vectors.terms, minlength=vectors.dimensions))
        documents = np.empty(len(vectors.terms), dtype=np.uint32)
        weights = np.empty(len(vectors.terms), dtype=np.float32)
        compiled(_invert)(vectors.offsets, vectors.terms, vectors.weights, offsets[:-1].copy(), documents, weights)
        return _Postings(offsets, documents, weights, np.array(vectors.lengths, dtype=np.int64))

    def load(self, folder: Path) -> BuiltIndex:
        """Read the postings.

        Raises:
            InputError: a file is absent or damaged, or they do not belong together.
        """
        arrays = {field.name: _read(folder / f"{field.name}.npy") for field in fields(_Postings)}
        postings = _Postings(**arrays)
        if not _whole(postings):
            raise InputError(f"{folder}: its files do not fit each other; {_DAMAGED}")
        return postings


def _read(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:  # a damaged size asks for more memory than there is
        raise InputError(f"{path}: cannot be read; {_DAMAGED}") from error


def _whole(postings: _Postings) -> bool:
    """Whether the arrays can be walked without leaving them."""
    offsets, documents, weights, lengths = (getattr(postings, field.name) for field in fields(postings))
    types = [array.dtype for array in (offsets, documents, weights, lengths)]
    if types != [np.int64, np.uint32, np.float32, np.int64] or any(
        array.ndim != 1 for array in vars(postings).values()
    ):
        return False
    return bool(
        len(offsets) > 1
        and offsets[0] == 0
        and (np.diff(offsets) >= 0).all()
        and offsets[-1] == len(documents) == len(weights)
        and documents.max(initial=0) < max(1, len(lengths))
        and np.array_equal(np.bincount(documents, minlength=len(lengths)), lengths)
    )


def _invert(
    offsets: np.ndarray,
    terms: np.ndarray,
    weights: np.ndarray,
    places: np.ndarray,
    out_documents: np.ndarray,
    out_weights: np.ndarray,
) -> None:
    """Put each entry at its term's next place; compiled."""
    for document in range(len(offsets) - 1):
        for entry in range(offsets[document], offsets[document + 1]):
            place = places[terms[entry]]
            out_documents[place], out_weights[place] = document, weights[entry]
            places[terms[entry]] = place + 1


def _search(
    offsets: np.ndarray,
    documents: np.ndarray,
    weights: np.ndarray,
    size: int,
    query_offsets: np.ndarray,
    query_terms: np.ndarray,
    query_weights: np.ndarray,
    scores: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Add up every posting of a query's terms, then keep the best in a heap; compiled."""
    summed = np.zeros(size, dtype=np.float32)
    depth = scores.shape[1]
    for query in range(len(query_offsets) - 1):
        for entry in range(query_offsets[query], query_offsets[query + 1]):
            term, weight = query_terms[entry], query_weights[entry]
            for posting in range(offsets[term], offsets[term + 1]):
                summed[documents[posting]] += weight * weights[posting]
        best = [(np.float32(0), 0) for _ in range(0)]
        floor = np.float32(0)
        for document in range(size):
            score = summed[document]
            summed[document] = 0
            if score > floor:
                if len(best) < depth:
                    heapq.heappush(best, (score, document))
                else:
                    heapq.heapreplace(best, (score, document))
                if len(best) == depth:
                    floor = best[0][0]
        for place in range(len(best) - 1, -1, -1):
            scores[query, place], rows[query, place] = heapq.heappop(best)


INDEXES = {"inverted": Inverted}
