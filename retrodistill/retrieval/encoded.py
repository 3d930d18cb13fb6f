"""Retrievers that stand on an encoder and an index: sources of candidates, systems to evaluate and teachers at once."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from retrodistill import vectors
from retrodistill.emissions import Emission, Vectors, pair_scores
from retrodistill.encoders import Encoder, Precision
from retrodistill.files import digest_of
from retrodistill.indexing.index import BuiltIndex, Index, search
from retrodistill.retrieval.retriever import Retriever
from retrodistill.runs import Run, id_order

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class EncoderRetriever(Retriever):
    """Search by what a sentence-transformers model makes of texts.

    A subclass names its encoder and the index that finds exactly.
    """

    argument: ClassVar[str | None] = "model"
    encoder_class: ClassVar[type[Encoder]]
    model: str
    max_length: int | None = Field(None, ge=2)
    precision: Precision = "fp32"
    query_prompt: str | None = None
    document_prompt: str | None = None

    @property
    def emits(self) -> Emission:
        """The encoder's."""
        return self.encoder_class.emits

    @property
    @abstractmethod
    def exact_index(self) -> Index:
        """The index that is searched where nobody names another."""

    def check(self) -> None:
        """Find the model."""
        self.encoder()

    def open(self, collection: Collection) -> EncoderSearcher:
        """Check the model's files; encode when first asked."""
        return EncoderSearcher(self.encoder(), self.exact_index, collection)

    def encoder(self, device: str | None = None) -> Encoder:
        """The model, loaded when first used."""
        options = self.model_dump(exclude={"kind", "model"})
        return self.encoder_class(self.model, **options, device=device)


class EncoderSearcher:
    """An encoder on one collection; its vectors are kept on disk, for mining, teaching and evaluating alike."""

    pairs_a_part = 65_536

    def __init__(self, encoder: Encoder, index: Index, collection: Collection) -> None:
        self.encoder = encoder
        self.exact_index = index
        self.collection = collection
        self._details: dict[str, Any] = {}
        self._built: BuiltIndex | None = None
        self._order: np.ndarray | None = None
        self._asked: tuple[dict[str, int], Vectors] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """The encoder's: a pair's score does not depend on the collection around it."""
        return self.encoder.identity

    @property
    def details(self) -> dict[str, Any]:
        """Model, size and, as far as they were measured, encoding and search speed."""
        rate = vectors.known_rate(self.encoder, self.collection.corpus.digest, "document")
        return {
            "system": _SYSTEMS[self.encoder.emits],
            "model": self.encoder.name,
            "precision": self.encoder.precision,
            "device": self.encoder.device,
            "parameters": self.encoder.parameters,
            **({"encode_documents_per_second": rate} if rate else {}),
            **self._details,
        }

    @cached_property
    def document_vectors(self) -> Vectors:
        """The corpus, in the kind of vectors that the encoder emits."""
        corpus = self.collection.corpus
        encoded = vectors.encoded(self.encoder, corpus.sequence, corpus.digest, "document", "encode documents")
        return encoded.vectors

    @property
    def index(self) -> BuiltIndex:
        """The corpus in the exact index, or in the one that `use` set."""
        if self._built is None:
            self._built = self.exact_index.build(self.document_vectors)
            self._details["index_bytes"] = self._built.bytes
        return self._built

    def use(self, built: BuiltIndex) -> None:
        """Search another index than the exact one."""
        self._built = built
        self._details["index_bytes"] = built.bytes

    def query_vectors(self, query_ids: Sequence[str]) -> Vectors:
        """Queries, in the kind of vectors that the encoder emits; of those asked for last none is encoded again."""
        known = self._known(query_ids)
        if known is not None:
            return known
        texts = [self.query_text(query) for query in query_ids]
        encoded = vectors.encoded(self.encoder, texts, digest_of(texts), "query", "encode queries")
        self._details["encode_queries_per_second"] = encoded.per_second
        self._asked = {query: row for row, query in enumerate(query_ids)}, encoded.vectors
        return encoded.vectors

    def _known(self, query_ids: Sequence[str]) -> Vectors | None:
        places, asked = self._asked or ({}, None)
        if asked is None or not all(query in places for query in query_ids):
            return None
        return asked[np.fromiter(map(places.__getitem__, query_ids), dtype=np.int64, count=len(query_ids))]

    def query_text(self, query_id: str) -> str:
        """What is encoded for a query, before its prompt."""
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id: str) -> str:
        """What is encoded for a document, before its prompt."""
        return self.collection.corpus.text(doc_id)

    def search(self, query_ids: Sequence[str], depth: int) -> Run:
        """The nearest documents of each query."""
        queries, index = self.query_vectors(query_ids), self.index
        began = time.perf_counter()
        if self._order is None:
            self._order = id_order(self.collection.corpus.ids)
        found = search(index, self.collection.corpus.ids, queries, depth, self._order)
        self._details["search_queries_per_second"] = len(query_ids) / (time.perf_counter() - began)
        return dict(zip(query_ids, found, strict=True))

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """The score of each pair, float32, shape (pairs,)."""
        queries = list(dict.fromkeys(query_ids))
        place = {query: row for row, query in enumerate(queries)}
        query_vectors = self._known(queries)
        if query_vectors is None:
            query_vectors = self.encoder.encode([self.query_text(query) for query in queries], "query")
        left = np.fromiter(map(place.__getitem__, query_ids), dtype=np.int64, count=len(query_ids))
        right = np.fromiter(map(self.collection.corpus.row, doc_ids), dtype=np.int64, count=len(doc_ids))
        return pair_scores(query_vectors, self.document_vectors, left, right)


_SYSTEMS = {"dense": "bi-encoder", "sparse": "learned sparse", "multi": "late interaction"}
