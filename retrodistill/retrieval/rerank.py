"""Retrieve, then re-rank: what a cross-encoder is evaluated as, and any teacher can be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field, field_validator

from retrodistill import console
from retrodistill.errors import InputError
from retrodistill.registry import of
from retrodistill.retrieval.retriever import Retriever
from retrodistill.runs import Run, cut

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class Rerank(Retriever):
    """What the sources find, in a teacher's order.

    `depth` is asked of each source; a document that several find is judged once.
    """

    kind: Literal["rerank"] = "rerank"
    sources: tuple[of("retriever"), ...] = Field(  # type: ignore[valid-type]
        ("bm25",), min_length=1, validate_default=True, description="whose documents are re-ranked"
    )
    teacher: of("teacher")  # type: ignore[valid-type]
    depth: int = Field(100, ge=1, description="documents a source gives a query")

    @field_validator("sources", mode="before")
    @classmethod
    def _one(cls, sources: Any) -> Any:
        return sources if isinstance(sources, list | tuple) else (sources,)

    @property
    def label(self) -> str:
        """Who re-ranks whom."""
        return f"{self.teacher.label} over {' + '.join(source.label for source in self.sources)}"

    @property
    def reads_labels(self) -> bool:
        """Where a source does."""
        return any(source.reads_labels for source in self.sources)

    def check(self) -> None:
        """Check the sources and the teacher."""
        for part in (*self.sources, self.teacher):
            part.check()

    def open(self, collection: Collection) -> RerankSearcher:
        """Open the sources and the teacher; both work when first asked."""
        return RerankSearcher(self, collection)


class RerankSearcher:
    """Sources and a teacher on one collection."""

    def __init__(self, options: Rerank, collection: Collection) -> None:
        self.options = options
        self.sources = [cast(Any, source).open(collection) for source in options.sources]
        self.judge = cast(Any, options.teacher).open(collection)
        self._measured: dict[str, Any] = {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Those of the sources and of the teacher, and how deep the teacher looks."""
        return {
            "kind": "rerank",
            "sources": [source.identity for source in self.sources],
            "teacher": self.judge.identity,
            "depth": self.options.depth,
        }

    @property
    def details(self) -> dict[str, Any]:
        """Who re-ranks what, and pairs judged a second once there was a search."""
        options = self.options
        return {
            "system": "re-ranking",
            "teacher": options.teacher.label,
            "sources": [source.label for source in options.sources],
            "depth": options.depth,
            **self._measured,
        }

    def search(self, query_ids: Sequence[str], depth: int) -> Run:
        """The best documents of each query by the teacher; none that no source found.

        Raises:
            InputError: the teacher gives a score that is no finite number.
        """
        found = [source.search(query_ids, self.options.depth) for source in self.sources]
        pairs = [
            (query, doc) for query in query_ids for doc in dict.fromkeys(doc for run in found for doc in run[query])
        ]
        began, run = time.perf_counter(), Run({query: {} for query in query_ids})
        with console.progress(len(pairs), f"re-rank by {self.options.teacher.label}", "pairs") as bar:
            for start in range(0, len(pairs), self.judge.pairs_a_part):
                part = pairs[start : start + self.judge.pairs_a_part]
                scores = self.judge.score([query for query, _ in part], [doc for _, doc in part])
                for (query, doc), score in zip(part, scores.tolist(), strict=True):
                    if not np.isfinite(score):
                        raise InputError(
                            f"{self.options.teacher.label} gives {score} for query {query!r} and document {doc!r}; "
                            "a score must be a finite number"
                        )
                    run[query][doc] = score
                bar.update(len(part))
        seconds = time.perf_counter() - began
        self._measured = {
            "pairs": len(pairs),
            "pairs_per_second": len(pairs) / seconds,
            "search_queries_per_second": len(query_ids) / seconds,
        }
        return {query: cut(scores, depth) for query, scores in run.items()}


RETRIEVERS = {"rerank": Rerank}
