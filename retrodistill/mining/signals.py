"""Finds out what rules need to know: scores of judges through the store, never twice, and vectors of collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill import console
from retrodistill.candidates import QRELS, Candidate, Candidates
from retrodistill.errors import InputError
from retrodistill.mining.pool import Pool, Rule, Space, key_of, misfit
from retrodistill.retrieval.retriever import Retriever
from retrodistill.teachers import judging

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.mining.pooling import Weigher
    from retrodistill.registry import Part
    from retrodistill.runs import Run
    from retrodistill.scores.store import ScoreStore

_SAMPLE_A_CLUSTER = 256  # vectors that k-means looks at


class Signals:
    """What rules may ask for on one collection.

    Args:
        collection: where to look.
        queries: all that will be asked about.
        searchers: the opened sources, by label.
        store: where teachers' scores are kept.
        seed: of the clusters.
    """

    def __init__(
        self,
        collection: Collection,
        queries: Sequence[str],
        searchers: Mapping[str, Any],
        store: ScoreStore | None,
        seed: int,
    ) -> None:
        self.collection = collection
        self.queries = queries
        self.searchers = searchers
        self.store = store
        self.seed = seed
        self._spaces: dict[str, Space] = {}

    def check(self, rules: Sequence[Rule], sources: Sequence[Part], labels: bool) -> None:
        """Refuse before any search what no search can give.

        Raises:
            InputError: a rule needs labels, a store or a single source, and there is none.
        """
        unfit = misfit(rules, sources, labels)
        if unfit is not None:
            raise InputError(unfit)
        for rule in rules:
            if self.store is None and any(judge is not None for judge in rule.judges):
                raise InputError(f"{rule.label} reads a teacher's scores, which go through a score store; name one")

    def of(self, rule: Rule, pools: Sequence[Pool], runs: Mapping[str, Run]) -> list[Pool]:
        """The same pools, with all that the rule asks to know of them."""
        by_query: dict[str, dict[str, Mapping[str, float]]] = {pool.query: {} for pool in pools}
        for judge in dict.fromkeys(rule.judges):
            scores = self._own(rule, pools, runs) if judge is None else self._judged(judge, rule, pools)
            for query, known in scores.items():
                by_query[query][key_of(judge)] = known
        spaces = {key_of(space): self._space(space) for space in rule.spaces}
        return [replace(pool, scores_by=by_query[pool.query], spaces=spaces) for pool in pools]

    def weighed(self, rule: Weigher, candidates: Candidates) -> Candidates:
        """The same candidates with the weights that a rule gives them."""
        store, scores = cast("ScoreStore", self.store), []
        for judge in rule.judges:
            if judge is None:
                scores.append(candidates.scores)
                continue
            for done in judging.judge(candidates, self.collection, [judge], store):
                console.say(f"{rule.label}: {done}")
            scores.extend(judging.read(candidates, self.collection, [judge], store))
        return candidates.weighed(rule.weights(candidates, np.stack(scores)))

    def _own(self, rule: Rule, pools: Sequence[Pool], runs: Mapping[str, Run]) -> dict[str, Mapping[str, float]]:
        """The scores of the one source; those of positives that it did not find are computed, where it can."""
        ((label, run),) = runs.items()
        known: dict[str, Mapping[str, float]] = {pool.query: run[pool.query] for pool in pools}
        score = getattr(self.searchers[label], "score", None)
        if rule.needs_positives and score is not None:
            pairs = [
                (pool.query, doc)
                for pool in pools
                for doc in pool.positives
                if doc not in known[pool.query] and doc in self.collection.corpus
            ]
            if pairs:
                scores = score([query for query, _ in pairs], [doc for _, doc in pairs])
                more: dict[str, dict[str, float]] = {}
                for (query, doc), value in zip(pairs, scores.tolist(), strict=True):
                    more.setdefault(query, {})[doc] = value
                known |= {query: {**known[query], **scored} for query, scored in more.items()}
        return known

    def _judged(self, judge: Part, rule: Rule, pools: Sequence[Pool]) -> Mapping[str, Mapping[str, float]]:
        """A teacher's scores of what is left of the pools, and of their positives."""
        asked = Candidates.of({pool.query: self._list(pool, rule) for pool in pools if len(pool)})
        if not len(asked):
            return {pool.query: {} for pool in pools}
        for done in judging.judge(asked, self.collection, [judge], cast("ScoreStore", self.store)):
            console.say(f"{rule.label}: {done}")
        (scores,) = judging.read(asked, self.collection, [judge], cast("ScoreStore", self.store))
        known: dict[str, dict[str, float]] = {pool.query: {} for pool in pools}
        for query, doc, value in zip(asked.query_ids, asked.doc_ids, scores.tolist(), strict=True):
            known[query][doc] = value
        return known

    def _list(self, pool: Pool, rule: Rule) -> list[Candidate]:
        """What is judged of a pool, positives where the sources have them: a judge of lists learns no label."""
        rows = pool.rows
        if rule.needs_positives:
            last = max((row.rank for row in rows), default=0) + 1
            for doc in pool.positives:
                if doc in self.collection.corpus:
                    found = [places[doc] for places in pool.places.values() if doc in places]
                    rows.append(Candidate(doc, QRELS, min(found, default=last), float("nan"), None))
        return sorted(rows, key=lambda row: row.rank)

    def _space(self, part: Part) -> Space:
        key = key_of(part)
        if key not in self._spaces:
            self._spaces[key] = _Vectors(cast(Retriever, part), self.collection, self.queries, self.seed)
        return self._spaces[key]


class _Vectors:
    """The vectors of a collection by one retriever, mapped from disk where they are kept there."""

    def __init__(self, retriever: Retriever, collection: Collection, queries: Sequence[str], seed: int) -> None:
        self.searcher: Any = retriever.open(collection)
        self.corpus = collection.corpus
        self.queries = queries
        self.seed = seed
        self._centroids: dict[int, np.ndarray] = {}

    @cached_property
    def _asked(self) -> tuple[dict[str, int], np.ndarray]:
        return {query: row for row, query in enumerate(self.queries)}, self.searcher.query_vectors(self.queries)

    def query(self, query: str) -> np.ndarray:
        places, vectors = self._asked
        return np.asarray(vectors[places[query]], dtype=np.float32)

    def documents(self, documents: Sequence[str]) -> np.ndarray:
        rows = np.fromiter(map(self.corpus.row, documents), dtype=np.int64, count=len(documents))
        return np.asarray(self.searcher.document_vectors[rows], dtype=np.float32)

    def clusters(self, documents: Sequence[str], count: int) -> np.ndarray:
        if count not in self._centroids:
            self._centroids[count] = self._k_means(count)
        centroids = self._centroids[count]
        # the nearest centroid c of a vector v: |v|^2 does not matter in |v - c|^2
        near = self.documents(documents) @ centroids.T - 0.5 * np.square(centroids).sum(axis=1)
        return near.argmax(axis=1).astype(np.int64)

    def _k_means(self, count: int) -> np.ndarray:
        import faiss

        vectors = self.searcher.document_vectors
        generator = np.random.default_rng(self.seed)
        size = min(len(vectors), _SAMPLE_A_CLUSTER * count)
        sample = np.asarray(vectors[np.sort(generator.choice(len(vectors), size, replace=False))], dtype=np.float32)
        means = faiss.Kmeans(
            sample.shape[1], min(count, size), niter=10, seed=self.seed, gpu=False, min_points_per_centroid=1
        )
        means.train(sample)
        return np.asarray(means.centroids)
