"""Scores that others paid for: a file of judged lists as a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from retrodistill.errors import InputError
from retrodistill.files import digest_of_file
from retrodistill.registry import of
from retrodistill.teachers.teacher import Teacher

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class ImportedScores(Teacher):
    """The scores in a file of judged lists, such as ColBERT's n-way lists or Margin-MSE triples.

    A pair that the file does not score is not judged. Keep the file: what is in it tells these scores from others'.
    """

    argument: ClassVar[str | None] = "path"
    kind: Literal["imported"] = "imported"
    path: Path
    format: of("format")  # type: ignore[valid-type]

    def check(self) -> None:
        """Find the file."""
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file; expected judged lists, {self.format.kind}")

    def open(self, collection: Collection) -> ImportedJudge:
        """Find the file; it is read when first asked."""
        self.check()
        return ImportedJudge(self, collection)


class ImportedJudge:
    """A file's scores of a collection's pairs."""

    pairs_a_part = 65_536
    may_fail: ClassVar[bool] = True

    def __init__(self, options: ImportedScores, collection: Collection) -> None:
        self.options = options
        self.collection = collection

    @property
    def identity(self) -> dict[str, Any]:
        """The file's content."""
        return {"kind": "imported", "format": self.options.format.kind, "file": digest_of_file(self.options.path)}

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
    def _scores(self) -> dict[tuple[str, str], float]:
        from retrodistill.formats.exchange import imported

        candidates, scores, _ = imported(self.options.format, self.options.path, self.collection)
        return dict(zip(zip(candidates.query_ids, candidates.doc_ids, strict=True), scores.tolist(), strict=True))


TEACHERS = {"imported": ImportedScores}
