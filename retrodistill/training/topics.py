"""Groups queries by topic, so that those of a batch stand against each other's documents."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

_WIDTH = 128
_ROUNDS = 12


def topics(documents: np.ndarray, offsets: np.ndarray, queries_a_topic: int, seed: int) -> np.ndarray:
    """Cluster queries by the candidates that they share.

    A query is the sum of its candidates' random signs, each weighted by how few queries have it, as lists that overlap
    have sums that point alike; these are clustered by spherical k-means. No model is needed to know what is alike.

    Args:
        documents: int64 (candidates,), the document of each.
        offsets: int64 (queries + 1,), where each query's candidates start.
        queries_a_topic: about how many queries are to share a topic.
        seed: of the signs and of the first centroids.

    Returns:
        int64 (queries,): the number of each query's topic.

    Source: topic-aware sampling, Hofstätter et al. 2021, "Efficiently Teaching an Effective Dense Retriever with
    Balanced Topic Aware Sampling", there by vectors of a trained model.
    """
    queries = len(offsets) - 1
    count = min(queries, max(1, round(queries / queries_a_topic)))
    if count == 1:
        return np.zeros(queries, dtype=np.int64)
    vectors = _sketches(documents, offsets, np.random.default_rng(seed))
    centres = vectors[np.random.default_rng([seed, 1]).choice(queries, size=count, replace=False)]
    found = np.zeros(queries, dtype=np.int64)
    for _ in range(_ROUNDS):
        found = np.concatenate([(part @ centres.T).argmax(axis=1) for part in _parts(vectors)])
        sums = np.zeros_like(centres)
        np.add.at(sums, found, vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        # a centre that nobody is near stays where it was
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centres)
    return found


def _sketches(documents: np.ndarray, offsets: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A vector of unit length for each query: float32 (queries, width)."""
    unique, rows, counts = np.unique(documents, return_inverse=True, return_counts=True)
    signs = generator.integers(0, 2, size=(len(unique), _WIDTH), dtype=np.int8) * 2 - 1
    weights = np.log1p((len(offsets) - 1) / counts).astype(np.float32)
    vectors = np.empty((len(offsets) - 1, _WIDTH), dtype=np.float32)
    for query, (start, stop) in enumerate(pairwise(offsets)):
        mine = rows[start:stop]
        vectors[query] = weights[mine] @ signs[mine]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _parts(vectors: np.ndarray, rows: int = 65_536) -> list[np.ndarray]:
    return [vectors[start : start + rows] for start in range(0, len(vectors), rows)]
