"""What models make of texts: one vector a text, one sparse vector a text, or one vector a token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

# `text` is what BM25 reads, `pairs` what a cross-encoder gives: no vector at all, a score for two texts read together.
Emission = Literal["dense", "sparse", "multi", "text", "pairs"]

# Vectors of two sides whose products are held at once: 4 MiB, which a core's cache nearly holds.
_THESE_AT_ONCE, _OTHERS_AT_ONCE = 256, 4_096


@dataclass(frozen=True)
class SparseVectors:
    """A few weighted terms a text, in compressed rows: text i has the terms from `offsets[i]` to `offsets[i + 1]`.

    Attributes:
        lengths: int64 (texts,), terms of each text.
        terms: int32 (all terms,), ascending within a text.
        weights: float32 (all terms,), above 0.
        dimensions: size of the vocabulary.
    """

    lengths: np.ndarray
    terms: np.ndarray
    weights: np.ndarray
    dimensions: int

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, texts: slice | np.ndarray) -> SparseVectors:
        """The vectors of a run of texts, or of texts in any order."""
        rows = _rows_of(texts, self.offsets)
        return SparseVectors(self.lengths[texts], self.terms[rows], self.weights[rows], self.dimensions)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each text's terms begin, and the end: int64 (texts + 1,)."""
        return _offsets(self.lengths)

    def pair_scores(self, documents: SparseVectors, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Inner products of texts `left` (n,) of these with `right` (n,) of others, float32 (n,)."""
        result = np.empty(len(left), dtype=np.float32)
        weights = np.zeros(self.dimensions, dtype=np.float32)
        for query in np.unique(left):
            mine = slice(self.offsets[query], self.offsets[query + 1])
            weights[self.terms[mine]] = self.weights[mine]
            pairs = np.flatnonzero(left == query)
            found = documents[right[pairs]]
            summed = np.concatenate([[0.0], np.cumsum(weights[found.terms] * found.weights, dtype=np.float64)])
            result[pairs] = np.diff(summed[found.offsets])
            weights[self.terms[mine]] = 0
        return result


@dataclass(frozen=True)
class MultiVectors:
    """A vector for each token that counts: text i has the vectors from `offsets[i]` to `offsets[i + 1]`.

    Attributes:
        lengths: int64 (texts,), vectors of each text.
        vectors: float32 or float16 (all vectors, dimensions).
    """

    lengths: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, texts: slice | np.ndarray) -> MultiVectors:
        """The vectors of a run of texts, or of texts in any order."""
        return MultiVectors(self.lengths[texts], self.vectors[_rows_of(texts, self.offsets)])

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each text's vectors begin, and the end: int64 (texts + 1,)."""
        return _offsets(self.lengths)

    def scores(self, documents: MultiVectors) -> np.ndarray:
        """MaxSim of each of these texts with each of others, float32 (these, others); 0 for a text without vectors.

        Both go through in blocks, so that the products of all vectors are never held at once.

        Source: Khattab and Zaharia 2020, "ColBERT".
        """
        result = np.zeros((len(self), len(documents)), dtype=np.float32)
        for others in _runs(documents.offsets, _OTHERS_AT_ONCE):
            block = documents[others]
            vectors = np.asarray(block.vectors, dtype=np.float32).T
            full = np.flatnonzero(block.lengths)  # reduceat gives an empty run the value behind it
            for some in _runs(self.offsets, _THESE_AT_ONCE) if len(full) else ():
                these = self[some]
                there = np.flatnonzero(these.lengths)
                if len(there):
                    similar = np.asarray(these.vectors, dtype=np.float32) @ vectors
                    best = np.maximum.reduceat(similar, block.offsets[full], axis=1)
                    summed = np.add.reduceat(best, these.offsets[there], axis=0)
                    result[np.ix_(some.start + there, others.start + full)] = summed
        return result

    def pair_scores(self, documents: MultiVectors, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """MaxSim of texts `left` (n,) of these with `right` (n,) of others, float32 (n,)."""
        result = np.empty(len(left), dtype=np.float32)
        for query in np.unique(left):
            pairs = np.flatnonzero(left == query)
            chosen = right[pairs]
            for some in _runs(_offsets(documents.lengths[chosen]), _OTHERS_AT_ONCE):
                result[pairs[some]] = self[query : query + 1].scores(documents[chosen[some]])[0]
        return result


Vectors = np.ndarray | SparseVectors | MultiVectors


def pair_scores(queries: Any, documents: Any, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scores of texts `left` (n,) against texts `right` (n,), as their kind of vector is compared: float32 (n,)."""
    if not isinstance(queries, np.ndarray):
        return queries.pair_scores(documents, left, right)
    result = np.empty(len(left), dtype=np.float32)
    for start in range(0, len(left), 65_536):
        pairs = slice(start, start + 65_536)
        result[pairs] = np.einsum("nd,nd->n", queries[left[pairs]], documents[right[pairs]])
    return result


def columns_of(vectors: Vectors) -> dict[str, np.ndarray]:
    """Arrays that hold vectors and can be joined end to end: what is written to disk."""
    if isinstance(vectors, SparseVectors):
        return {"lengths": vectors.lengths, "terms": vectors.terms, "weights": vectors.weights}
    if isinstance(vectors, MultiVectors):
        return {"lengths": vectors.lengths, "vectors": vectors.vectors}
    return {"vectors": vectors}


def vectors_of(columns: Mapping[str, np.ndarray], dimensions: int) -> Vectors:
    """The vectors that `columns_of` took apart.

    Args:
        columns: the arrays.
        dimensions: size of the vocabulary, which sparse vectors do not tell.
    """
    if "terms" in columns:
        return SparseVectors(**columns, dimensions=dimensions)
    if "lengths" in columns:
        return MultiVectors(**columns)
    return columns["vectors"]


def join(parts: Sequence[Vectors]) -> Vectors:
    """Vectors of consecutive texts as one."""
    first = parts[0]
    columns = [columns_of(part) for part in parts]
    joined = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    return vectors_of(joined, first.dimensions if isinstance(first, SparseVectors) else 0)


def in_order(vectors: Vectors, rows: np.ndarray) -> Vectors:
    """Vectors that were made in the order `rows` (n,), put back: text `rows[i]` of the result is text i of these."""
    return vectors[np.argsort(rows, kind="stable")]


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _runs(offsets: np.ndarray, budget: int) -> Iterator[slice]:
    """Consecutive texts of at most `budget` entries together, at least one."""
    start, count = 0, len(offsets) - 1
    while start < count:
        stop = int(np.searchsorted(offsets, offsets[start] + budget, side="right")) - 1
        stop = min(count, max(start + 1, stop))
        yield slice(start, stop)
        start = stop


def _rows_of(texts: slice | np.ndarray, offsets: np.ndarray) -> slice | np.ndarray:
    """Where the entries of some texts lie: one slice for a run of texts."""
    if isinstance(texts, slice):
        start, stop, step = texts.indices(len(offsets) - 1)
        if step == 1:
            return slice(int(offsets[start]), int(offsets[max(start, stop)]))
        texts = np.arange(start, stop, step)
    starts, lengths = offsets[:-1][texts], np.diff(offsets)[texts]
    # each entry's place: its text's start, plus how far it is into the text
    return np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
