"""Retrievers as teachers: what scores pairs to search can score pairs to teach."""

from __future__ import annotations

from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.given import GivenVectors
from retrodistill.retrieval.multi import ColBERT
from retrodistill.retrieval.retriever import Retriever
from retrodistill.retrieval.sparse import Splade

TEACHERS: dict[str, type[Retriever]] = {
    "bm25": BM25,
    "dense": Dense,
    "splade": Splade,
    "colbert": ColBERT,
    "vectors": GivenVectors,
}
