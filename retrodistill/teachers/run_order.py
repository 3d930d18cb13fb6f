"""Orders that others made: a run file in which the order alone says something."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from retrodistill.errors import InputError
from retrodistill.files import digest_of_file
from retrodistill.runs import ranked, read_run
from retrodistill.teachers.teacher import Teacher

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class RunOrder(Teacher):
    """The order of a TREC run file, such as the re-rankings of an LLM: a document's score is less its rank.

    `by: line` takes the documents in the order of the file's lines, `by: score` in that of their scores. Listwise
    re-rankers often write the first stage's scores beside an order of their own, where the lines are to be believed.
    A document that is not in the file is not judged. Several such teachers are best combined by `mean:rank`, which is
    Borda's count.
    """

    argument: ClassVar[str | None] = "path"
    kind: Literal["run_order"] = "run_order"
    path: Path
    by: Literal["line", "score"] = "line"

    def check(self) -> None:
        """Find the file."""
        if not self.path.is_file():
            raise InputError(f"run file {self.path}: no such file; expected lines `query Q0 document rank score tag`")

    def open(self, collection: Collection) -> RunOrderJudge:
        """Find the file; it is read when first asked."""
        self.check()
        return RunOrderJudge(self, collection)


class RunOrderJudge:
    """The ranks of a run file, for a collection's texts."""

    pairs_a_part = 65_536
    may_fail: ClassVar[bool] = True

    def __init__(self, options: RunOrder, collection: Collection) -> None:
        self.options = options
        self.collection = collection

    @property
    def identity(self) -> dict[str, Any]:
        """The file's content, and what is read of it."""
        return {"kind": "run_order", "file": digest_of_file(self.options.path), "by": self.options.by}

    def query_text(self, query_id: str) -> str:
        """The query."""
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id: str) -> str:
        """The document."""
        return self.collection.corpus.text(doc_id)

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """Less the rank, float32 (pairs,); NaN for what the file does not have."""
        pairs = zip(query_ids, doc_ids, strict=True)
        return np.array([-self._ranks.get(query, {}).get(doc, np.nan) for query, doc in pairs], dtype=np.float32)

    @cached_property
    def _ranks(self) -> dict[str, dict[str, int]]:
        run = read_run(self.options.path)
        orders = run if self.options.by == "line" else {query: ranked(scores) for query, scores in run.items()}
        return {query: {doc: rank for rank, doc in enumerate(docs, start=1)} for query, docs in orders.items()}


TEACHERS = {"run_order": RunOrder}
