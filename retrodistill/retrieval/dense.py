"""A bi-encoder with its index, as a source of candidates, a system to evaluate and a teacher."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from retrodistill import models, vectors
from retrodistill.encoders import DenseEncoder, Precision
from retrodistill.files import digest_of
from retrodistill.indexing.dense import Flat
from retrodistill.indexing.index import BuiltIndex, search
from retrodistill.retrieval.retriever import Retriever
from retrodistill.runs import Run

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class Dense(Retriever):
    """Exact search by the vectors of a SentenceTransformer."""

    argument: ClassVar[str | None] = "model"
    kind: Literal["dense"] = "dense"
    model: str
    max_length: int | None = Field(None, ge=2)
    precision: Precision = "fp32"
    query_prompt: str | None = None
    document_prompt: str | None = None

    def check(self) -> None:
        """Find the model."""
        models.expect_type(self.model, "SentenceTransformer")

    def open(self, collection: Collection) -> DenseSearcher:
        """Check the model's files; encode when first asked."""
        return DenseSearcher(self.encoder(), collection)

    def encoder(self, device: str | None = None) -> DenseEncoder:
        """The model, loaded when first used."""
        options = self.model_dump(exclude={"kind", "model"})
        return DenseEncoder(self.model, **options, device=device)


class DenseSearcher:
    """A bi-encoder on one collection; its vectors are kept on disk, for mining, teaching and evaluating alike."""

    pairs_a_part = 65_536

    def __init__(self, encoder: DenseEncoder, collection: Collection) -> None:
        self.encoder = encoder
        self.collection = collection
        self._details: dict[str, Any] = {}
        self._built: BuiltIndex | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """The encoder's: a pair's score does not depend on the collection around it."""
        return self.encoder.identity

    @property
    def details(self) -> dict[str, Any]:
        """Model, size and, as far as they were measured, encoding and search speed."""
        rate = vectors.known_rate(self.encoder, self.collection.corpus.digest, "document")
        return {
            "system": "bi-encoder",
            "model": self.encoder.name,
            "precision": self.encoder.precision,
            "device": self.encoder.device,
            "parameters": self.encoder.parameters,
            **({"encode_documents_per_second": rate} if rate else {}),
            **self._details,
        }

    @cached_property
    def document_vectors(self) -> np.ndarray:
        """The corpus, float32, shape (documents, dimensions)."""
        corpus = self.collection.corpus
        encoded = vectors.encoded(self.encoder, corpus.texts(), corpus.digest, "document", "encode documents")
        return encoded.vectors

    @property
    def index(self) -> BuiltIndex:
        """The corpus in a flat index."""
        if self._built is None:
            self._built = Flat().build(self.document_vectors)
            self._details["index_bytes"] = self._built.bytes
        return self._built

    def use(self, built: BuiltIndex) -> None:
        """Search another index than the flat one."""
        self._built = built
        self._details["index_bytes"] = built.bytes

    def query_vectors(self, query_ids: Sequence[str]) -> np.ndarray:
        """Queries, float32, shape (queries, dimensions)."""
        texts = [self.query_text(query) for query in query_ids]
        encoded = vectors.encoded(self.encoder, texts, digest_of(texts), "query", "encode queries")
        self._details["encode_queries_per_second"] = encoded.per_second
        return np.asarray(encoded.vectors)

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
        found = search(index, self.collection.corpus.ids, queries, depth)
        self._details["search_queries_per_second"] = len(query_ids) / (time.perf_counter() - began)
        return dict(zip(query_ids, found, strict=True))

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """The inner product of each pair, float32, shape (pairs,)."""
        queries = list(dict.fromkeys(query_ids))
        place = {query: row for row, query in enumerate(queries)}
        query_vectors = self.encoder.encode([self.query_text(query) for query in queries], "query")
        documents = self.document_vectors
        left = np.fromiter(map(place.__getitem__, query_ids), dtype=np.int64, count=len(query_ids))
        right = np.fromiter(map(self.collection.corpus.row, doc_ids), dtype=np.int64, count=len(doc_ids))
        result = np.empty(len(left), dtype=np.float32)
        for start in range(0, len(left), 65_536):
            pairs = slice(start, start + 65_536)
            result[pairs] = np.einsum("nd,nd->n", query_vectors[left[pairs]], documents[right[pairs]])
        return result


RETRIEVERS = {"dense": Dense}
