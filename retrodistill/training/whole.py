"""Scores of whole batches: teachers that search can say of any document what they think of it, mined or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill.errors import InputError
from retrodistill.registry import Part, code_of
from retrodistill.retrieval.retriever import Retriever
from retrodistill.scores.combine import Combination, default_combination
from retrodistill.scores.learnt import Learnt

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class WholeBatch:
    """Scores every query of a batch against every document of it, when the batch is made.

    Vectors and indexes are those that mining, scoring and evaluation keep; of a batch nothing is kept. Teachers become
    one by the combination, which takes a query's documents to be those of the batch.

    Args:
        teachers: retrievers.
        combine: the rule that makes one of several; the usual one where None.
        collection: where queries and documents are.

    Raises:
        InputError: a teacher is no retriever, or the rule is one that a batch does not do for.
    """

    def __init__(self, teachers: Sequence[Part], combine: Part | None, collection: Collection) -> None:
        if said := unasked(teachers, combine):
            raise InputError(said)
        self.collection = collection
        self._combine = cast(Combination, combine) if combine is not None else default_combination(len(teachers))
        self._searchers = [cast(Any, teacher).open(collection) for teacher in teachers]

    @property
    def identity(self) -> list[Any]:
        """Everything that decides the scores."""
        combine = {**self._combine.model_dump(exclude={"weigh"}), **code_of(self._combine)}
        return [[searcher.identity for searcher in self._searchers], combine]

    def prepare(self, queries: np.ndarray) -> None:
        """Encode the corpus and some queries, int64 rows, where a teacher has vectors and has not yet."""
        asked = self.collection.queries.ids_of(queries)
        for searcher in self._searchers:
            if hasattr(searcher, "query_vectors"):
                searcher.query_vectors(asked)
                _ = searcher.document_vectors

    def __call__(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """The combined scores of all pairs, float32 (Q, D), of int64 rows of queries (Q,) and documents (D,)."""
        shape = len(queries), len(documents)
        asked = np.repeat(np.array(self.collection.queries.ids_of(queries), dtype=object), shape[1]).tolist()
        answers = self.collection.corpus.ids_of(documents) * shape[0]
        scores = np.stack([searcher.score(asked, answers) for searcher in self._searchers])
        return self._combine(scores, np.arange(shape[0] + 1) * shape[1]).reshape(shape)


def unasked(teachers: Sequence[Part], combine: Part | None) -> str | None:
    """Why teachers are not asked about whole batches; None where they can be."""
    slow = next((teacher for teacher in teachers if not isinstance(teacher, Retriever)), None)
    if slow is not None or not teachers:
        what = "there is no teacher" if slow is None else f"{slow.label} is none"
        return (
            "unjudged: asked has teachers score every query against every document of a batch, which takes a retriever "
            f"such as dense:MODEL or bm25; {what}: leave it out, or choose lowest"
        )
    if isinstance(combine, Learnt) or (combine is not None and cast(Combination, combine).looks_at):
        return (
            f"unjudged: asked combines the scores of each batch, and {combine.kind} looks at more than "
            "these; combine by mean or another rule that does not"
        )
    return None
