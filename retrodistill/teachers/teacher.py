"""What puts a number on a (query, document) pair."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from retrodistill.registry import Part

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class Judge(Protocol):
    """A teacher opened on a collection."""

    pairs_a_part: int
    """Judgements that reach the store together: what a crash can cost, at most."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides a score; the score store files under it."""

    def query_text(self, query_id: str) -> str:
        """The query as the teacher reads it."""

    def document_text(self, doc_id: str) -> str:
        """The document as the teacher reads it."""

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """Raw scores of pairs, float32, shape (pairs,): logits, never squeezed through a sigmoid."""


class Teacher(Part):
    """A model whose judgement is worth learning from. A retriever with a `score` is one as it stands."""

    @abstractmethod
    def open(self, collection: Collection) -> Judge:
        """Get ready to judge pairs of a collection; weights are loaded when first needed."""
