"""What others paid for: scores of a file of judged lists, orders of a run file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from retrodistill.errors import InputError
from retrodistill.files import digest_of_file
from retrodistill.registry import of
from retrodistill.runs import ranked, read_run
from retrodistill.teachers.teacher import Teacher

if TYPE_CHECKING:
    from retrodistill.collections import Collection

Scores = dict[tuple[str, str], float]


class FileTeacher(Teacher):
    """Judgements that stand in a file; a pair that it does not have is not judged.

    Keep the file: what is in it tells these judgements from others'.
    """

    argument: ClassVar[str | None] = "path"
    path: Path

    @property
    @abstractmethod
    def expected(self) -> str:
        """What the file should hold, for messages."""

    @property
    @abstractmethod
    def reading(self) -> dict[str, Any]:
        """Options that decide what is read of it."""

    @abstractmethod
    def scores(self, collection: Collection) -> Scores:
        """What the file says of a collection's (query, document) pairs."""

    def check(self) -> None:
        """Find the file."""
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file; expected {self.expected}")

    def open(self, collection: Collection) -> FileJudge:
        """Find the file; it is read when first asked."""
        self.check()
        return FileJudge(self, collection)


class FileJudge:
    """A file's judgements, for a collection's texts."""

    pairs_a_part = 65_536
    may_fail: ClassVar[bool] = True

    def __init__(self, options: FileTeacher, collection: Collection) -> None:
        self.options = options
        self.collection = collection

    @property
    def identity(self) -> dict[str, Any]:
        """The file's content, and what is read of it."""
        return {"kind": self.options.kind, "file": digest_of_file(self.options.path), **self.options.reading}

    def query_text(self, query_id: str) -> str:
        """The query."""
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id: str) -> str:
        """The document."""
        return self.collection.corpus.text(doc_id)

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """What the file says, float32 (pairs,); NaN where it says nothing."""
        pairs = zip(query_ids, doc_ids, strict=True)
        return np.array([self._scores.get(pair, np.nan) for pair in pairs], dtype=np.float32)

    @cached_property
    def _scores(self) -> Scores:
        return self.options.scores(self.collection)


class ImportedScores(FileTeacher):
    """The scores in a file of judged lists, such as ColBERT's n-way lists or Margin-MSE triples."""

    kind: Literal["imported"] = "imported"
    format: of("format")  # type: ignore[valid-type]

    @property
    def expected(self) -> str:
        """Lists of the format."""
        return f"judged lists, {self.format.kind}"

    @property
    def reading(self) -> dict[str, Any]:
        """The format, and what was chosen of it."""
        chosen = self.format.model_dump(exclude_defaults=True)
        return {"format": {"kind": self.format.kind, **chosen} if chosen else self.format.kind}

    def scores(self, collection: Collection) -> Scores:
        """As the format has them."""
        from retrodistill.formats.exchange import imported

        candidates, scores, _ = imported(self.format, self.path, collection)
        return dict(zip(zip(candidates.query_ids, candidates.doc_ids, strict=True), scores.tolist(), strict=True))


class RunOrder(FileTeacher):
    """The order of a TREC run file, such as the re-rankings of an LLM: a document's score is less its rank.

    `by: line` takes the documents in the order of the file's lines, `by: score` in that of their scores. Listwise
    re-rankers often write the first stage's scores beside an order of their own, where the lines are to be believed.
    Several such teachers are best combined by `mean:rank`, which is Borda's count.
    """

    kind: Literal["run_order"] = "run_order"
    by: Literal["line", "score"] = "line"

    @property
    def expected(self) -> str:
        """A run."""
        return "a run file with lines `query Q0 document rank score tag`"

    @property
    def reading(self) -> dict[str, Any]:
        """Lines or scores."""
        return {"by": self.by}

    def scores(self, collection: Collection) -> Scores:
        """Less the rank."""
        run = read_run(self.path)
        orders = run if self.by == "line" else {query: ranked(scores) for query, scores in run.items()}
        return {(query, doc): float(-rank) for query, docs in orders.items() for rank, doc in enumerate(docs, start=1)}


TEACHERS: dict[str, type[FileTeacher]] = {"imported": ImportedScores, "run_order": RunOrder}
