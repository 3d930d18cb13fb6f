"""What judges (query, document) pairs: one document at a time, two against each other, or a list at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from retrodistill.registry import Part

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.scores.orders import Order

Form = Literal["pointwise", "pairwise", "listwise"]


class Window(NamedTuple):
    """Documents of a query as a listwise teacher is shown them, the first stage's best first."""

    query_id: str
    doc_ids: tuple[str, ...]


class AnyJudge(Protocol):
    """A teacher opened on a collection."""

    pairs_a_part: int
    """Judgements that reach the store together: what a crash can cost, at most."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides a judgement; the score store files under it."""

    def query_text(self, query_id: str) -> str:
        """The query as the teacher reads it."""

    def document_text(self, doc_id: str) -> str:
        """The document as the teacher reads it."""


class Judge(AnyJudge, Protocol):
    """A pointwise teacher."""

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """Raw scores of pairs, float32, shape (pairs,): logits, not sigmoids; NaN where one that `may_fail` did."""


class PairwiseJudge(AnyJudge, Protocol):
    """A teacher that compares two documents."""

    def prefer(self, query_ids: Sequence[str], first_ids: Sequence[str], second_ids: Sequence[str]) -> np.ndarray:
        """Logits that the document shown first is the more relevant, float32 (n,); NaN where it failed."""


class ListwiseJudge(AnyJudge, Protocol):
    """A teacher that orders documents."""

    def order(self, windows: Sequence[Window]) -> list[Order | None]:
        """The order of each window; None where it failed."""


class Teacher(Part):
    """A model whose judgement is worth learning from. A retriever with a `score` is one as it stands."""

    @property
    def form(self) -> Form:
        """What is asked of it, and so how its judgements are kept and read."""
        return "pointwise"

    def judgements(self, documents: int) -> int:
        """How many judgements it takes, at most, to judge so many candidates of a query."""
        return documents

    @abstractmethod
    def open(self, collection: Collection) -> Any:
        """Get ready to judge what is in a collection; weights are loaded when first needed."""


def form_of(teacher: Part) -> Form:
    """The form of a teacher's judgements; a retriever's are pointwise."""
    return teacher.form if isinstance(teacher, Teacher) else "pointwise"
