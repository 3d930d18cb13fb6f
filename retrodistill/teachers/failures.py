"""What teachers failed at, and why: a list beside their judgements, until they are judged."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retrodistill import files

FAILED = "failed.jsonl"

# A query and the documents that were judged together.
Asked = tuple[str, tuple[str, ...]]


class Failure(NamedTuple):
    """A judgement that a teacher was asked for and did not give."""

    query_id: str
    doc_ids: tuple[str, ...]
    why: str

    @property
    def name(self) -> str:
        """Its ids; of a window the query's alone."""
        return " / ".join((self.query_id, *(self.doc_ids if len(self.doc_ids) < 3 else ())))


class Failures:
    """Those of one call, and what was tried in it."""

    def __init__(self) -> None:
        self.found: list[Failure] = []
        self._tried: set[Asked] = set()

    def note(self, asked: Sequence[Asked], failed: Iterable[int], judge: Any) -> None:
        """Write down what was asked at once, and at which of it the judge failed; its `reasons` say why."""
        reasons: Sequence[str] = getattr(judge, "reasons", ())
        self._tried.update(asked)
        for row in failed:
            why = reasons[row] if row < len(reasons) else ""
            self.found.append(Failure(*asked[row], why or "the teacher gives no judgement"))

    @property
    def names(self) -> tuple[str, ...]:
        """For the person who waits."""
        return tuple(failure.name for failure in self.found)

    def write(self, folder: Path) -> None:
        """Bring the list in a teacher's folder up to date; one without any is deleted.

        Failures at what was not asked this time stay.
        """
        path = folder / FAILED
        kept = [failure for failure in read_failures(path) if failure[:2] not in self._tried]
        lines = [
            json.dumps({"query": query, "documents": docs, "why": why})
            for query, docs, why in dict.fromkeys([*kept, *self.found])
        ]
        if lines:
            files.write_text(path, "\n".join(lines) + "\n")
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(failures: Failures, folder: Path) -> Iterator[None]:
    """Bring a folder's list up to date when judging ends, also where it was broken off."""
    try:
        yield
    finally:
        failures.write(folder)


def read_failures(path: Path) -> list[Failure]:
    """The failures of a list; none where there is no list; a line that was broken by hand is skipped."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                found.append(Failure(row["query"], tuple(row["documents"]), row["why"]))
    return found
