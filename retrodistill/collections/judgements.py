"""Reads relevance judgements: BEIR's tab-separated files and TREC's four columns."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path

from retrodistill.collections.reading import Mistakes, numbered_lines
from retrodistill.errors import InputError
from retrodistill.runs import Qrels

_GRADE = re.compile(r"[+-]?[0-9]{1,9}")
_HEADERS = {"queryid", "qid", "query", "topic", "topicid"}
_EXPECTED = "3 separated by tabs (query-id, corpus-id, score) or TREC's 4 (query, 0, document, grade)"


def read_qrels(path: Path, queries: Container[str] | None = None, documents: Container[str] | None = None) -> Qrels:
    """Read judgements: query id -> document id -> grade, in the order of the file.

    The first line decides between BEIR's `query-id<TAB>corpus-id<TAB>score` and TREC's `query 0 document grade`; it
    may be a header. Grades are integers; negative ones are kept, as TREC has them for junk.

    Args:
        path: the file.
        queries: the queries that may be named; any, where None.
        documents: the documents that may be named; any, where None.

    Raises:
        InputError: naming file and line: a wrong number of columns, a grade that is no integer, two grades for one
            pair, unknown queries or documents, no judgement at all.
    """
    mistakes, unknown = Mistakes(path), _Unknown(queries, documents)
    qrels: Qrels = {}
    lines: dict[tuple[str, str], int] = {}
    for number, query, document, grade in _judgements(path, mistakes):
        first = lines.setdefault((query, document), number)
        if first != number:
            before = qrels[query][document]
            if before != grade:
                pair = f"query {query!r} and document {document!r}"
                mistakes.add(number, f"{pair} have grade {grade} here and {before} in line {first}; keep one")
            continue
        unknown.check(number, query, document)
        qrels.setdefault(query, {})[document] = grade
    mistakes.tell()
    unknown.tell(path)
    if not qrels:
        raise InputError(f"{path}: there are no judgements; expected lines of columns: {_EXPECTED}")
    return qrels


def _judgements(path: Path, mistakes: Mistakes) -> Iterator[tuple[int, str, str, int]]:
    """Yield (line, query, document, grade) of the lines that can be read; the others become mistakes."""
    width = 0
    for position, (number, line) in enumerate(numbered_lines(path)):
        fields = _fields(line)
        width = width or len(fields)
        if not fields:
            what = f"{line.count(chr(9)) + 1} columns" if "\t" in line else f"{len(line.split())} without tabs"
            mistakes.add(number, f"got {what}, expected {_EXPECTED}")
        elif len(fields) != width:
            mistakes.add(number, f"got {len(fields)} columns, expected {width} as in the first line")
        elif position == 0 and _is_header(fields):
            continue
        elif not fields[0] or not fields[-2]:
            mistakes.add(number, "the query id or the document id is empty")
        elif not _GRADE.fullmatch(fields[-1]):
            mistakes.add(number, f"the grade {fields[-1]!r} is no integer")
        else:
            yield number, fields[0], fields[-2], int(fields[-1])


def _fields(line: str) -> list[str]:
    """The 3 or 4 columns of a line, or none where it has neither number."""
    # Tabs first: ids in BEIR's files may hold spaces.
    tabbed = line.split("\t")
    if len(tabbed) in (3, 4):
        return [field.strip() for field in tabbed]
    spaced = line.split()
    return spaced if len(spaced) == 4 else []


def _is_header(fields: list[str]) -> bool:
    first = re.sub(r"[^a-z]", "", fields[0].lower())
    return first in _HEADERS and not _GRADE.fullmatch(fields[-1])


class _Unknown:
    """Counts judgements of what the collection does not have, and keeps the first three."""

    def __init__(self, queries: Container[str] | None, documents: Container[str] | None) -> None:
        self.queries = queries
        self.documents = documents
        self.count = 0
        self.shown: list[str] = []

    def check(self, number: int, query: str, document: str) -> None:
        missing = []
        if self.queries is not None and query not in self.queries:
            missing.append(f"query {query!r}")
        if self.documents is not None and document not in self.documents:
            missing.append(f"document {document!r}")
        if missing:
            self.count += 1
            if len(self.shown) < 3:
                self.shown.append(f"line {number}: {' and '.join(missing)}")

    def tell(self, path: Path) -> None:
        if self.count:
            names = "judgement names" if self.count == 1 else "judgements name"
            more = f"; and {self.count - len(self.shown)} more" if self.count > len(self.shown) else ""
            raise InputError(
                f"{path}: {self.count} {names} what the collection does not have: {'; '.join(self.shown)}{more}."
                " Remove these lines, or add what they name"
            )
