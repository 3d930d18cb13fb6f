"""BM25 as a source of candidates, a baseline and a teacher."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from retrodistill import console
from retrodistill.indexing.bm25 import BM25Index, BuiltBM25
from retrodistill.retrieval.retriever import Retriever, grouped
from retrodistill.runs import Run, id_order, top_rows

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class BM25(BM25Index, Retriever):
    """Lexical search: stemmed words, BM25 weights."""

    kind: Literal["bm25"] = "bm25"

    def open(self, collection: Collection) -> BM25Searcher:
        """Index the collection's words when first asked."""
        return BM25Searcher(self, collection)


class BM25Searcher:
    """BM25 on one collection; its scores depend on the whole corpus through the IDF."""

    pairs_a_part = 65_536

    def __init__(self, options: BM25, collection: Collection) -> None:
        self.options = options
        self.collection = collection
        self._seconds: dict[str, float] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """The options and the corpus: another corpus gives another IDF."""
        return {**self.options.model_dump(), "corpus": self.collection.corpus.digest}

    @property
    def details(self) -> dict[str, Any]:
        """Options, and queries searched a second once there was a search."""
        return {"system": "BM25", "options": self.options.model_dump(exclude={"kind"}), **self._seconds}

    @cached_property
    def index(self) -> BuiltBM25:
        """The collection's words, indexed."""
        return self.options.build(self.collection.corpus.texts())

    def query_text(self, query_id: str) -> str:
        """What is scored for a query."""
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id: str) -> str:
        """What is scored for a document."""
        return self.collection.corpus.text(doc_id)

    def search(self, query_ids: Sequence[str], depth: int) -> Run:
        """The best documents that share a word with the query; fewer than `depth` where fewer do."""
        ids, order = self.collection.corpus.ids, id_order(self.collection.corpus.ids)
        _ = self.index
        began, run = time.perf_counter(), Run()
        for query in console.track(query_ids, len(query_ids), "search bm25", "queries"):
            scores = self.index.scores(self.query_text(query))
            matching = np.flatnonzero(scores > 0)
            best = matching[top_rows(scores[matching], depth, order[matching])]
            run[query] = {ids[row]: float(scores[row]) for row in best}
        self._seconds["search_queries_per_second"] = len(query_ids) / (time.perf_counter() - began)
        return run

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """BM25 of each pair, float32, shape (pairs,); 0 where no word is shared."""
        result = np.empty(len(query_ids), dtype=np.float32)
        rows = np.fromiter(map(self.collection.corpus.row, doc_ids), dtype=np.int64, count=len(doc_ids))
        for query, pairs in grouped(query_ids):
            result[pairs] = self.index.scores(self.query_text(query))[rows[pairs]]
        return result


RETRIEVERS = {"bm25": BM25}
