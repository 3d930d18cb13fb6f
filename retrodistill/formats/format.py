"""What every format shares: rows read one line at a time, mistakes with file and line, files written whole."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from retrodistill.errors import InputError
from retrodistill.registry import Part


class Listed(NamedTuple):
    """A document in a query's list.

    Attributes:
        document: its id, or its text in formats that have no ids.
        score: a teacher's, None where there is none.
        label: 1 for a positive, 0 for a negative, None where the format does not say.
        name: its id, in formats that have both text and id.
    """

    document: str
    score: float | None = None
    label: int | None = None
    name: str | None = None


class JudgedList(NamedTuple):
    """A query, by id or by text as the format has it, and what stands against it, in the order of the file.

    `name` is the query's id, in formats that have both text and id.
    """

    query: str
    documents: tuple[Listed, ...]
    name: str | None = None


class Left(NamedTuple):
    """So many things that a format has no place for, told among its lines."""

    many: int
    what: str


class Written(NamedTuple):
    """What a file holds of the lists.

    Attributes:
        lines: how many it has.
        left: what is not in it, by what it is.
    """

    lines: int
    left: Counter[str]


NO_POSITIVE = "documents of queries without a positive"
NO_SCORE = "documents without a score"
LABELS, SCORES = "labels of positives, which have no place in it", "scores, which have no place in it"


class Format(Part):
    """A file of judged lists.

    Attributes:
        texts: queries and documents are texts, not ids.
    """

    @property
    def texts(self) -> bool:
        """Whether queries and documents are texts, not ids."""
        return False

    @abstractmethod
    def read(self, path: Path) -> Iterator[JudgedList]:
        """The lists of a file; those of a query may come in several pieces.

        Raises:
            InputError: naming file and line.
        """

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """Write lists; tells how many lines, and what is not in them.

        Raises:
            InputError: the format cannot hold them, or is only read.
        """
        raise InputError(f"{self.kind} is a format that is only read; export another")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that hold something, each with its place, `FILE, line N`.

    Raises:
        InputError: there is no such file, or it is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", line.rstrip("\r\n")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of a JSONL file, each with its place."""
    for where, line in lines(path):
        value = parse(line, where)
        if not isinstance(value, dict):
            raise InputError(f"{where}: got {type(value).__name__}, expected a JSON object")
        yield where, value


def parse(line: str, where: str) -> Any:
    """A line's JSON."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from error


def field(value: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """A field of a JSON object, of the right type.

    Raises:
        InputError: it is missing or of another type.
    """
    if name not in value:
        raise InputError(f"{where}: has no {name!r}; got {', '.join(map(repr, value)) or 'nothing'}")
    if not isinstance(value[name], kind):
        raise InputError(f"{where}: {name!r} is {type(value[name]).__name__}, expected {kind.__name__}")
    return value[name]


def number(value: Any, where: str) -> float:
    """A finite number.

    Raises:
        InputError: it is none.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if isinstance(value, bool) or not abs(found) < float("inf"):
        raise InputError(f"{where}: got {value!r}, expected a finite number")
    return found


def write_lines(path: Path, found: Iterable[str | Left]) -> Written:
    """Write lines, whole or not at all; counts them, and what is left out among them."""
    from retrodistill.files import atomic_file

    lines, left = 0, Counter[str]()
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for line in found:
            if isinstance(line, Left):
                left[line.what] += line.many
            else:
                file.write(line + "\n")
                lines += 1
    return Written(lines, +left)


def sides(documents: Iterable[Listed]) -> tuple[list[Listed], list[Listed]]:
    """Positives, and the others, each in their order."""
    found: tuple[list[Listed], list[Listed]] = [], []
    for doc in documents:
        found[not doc.label].append(doc)
    return found


def best_first(scored: Iterable[Listed]) -> list[Listed]:
    """Documents that have a score by how great it is, equal ones in their order."""
    return sorted(scored, key=lambda doc: -cast(float, doc.score))


def scores_of(documents: Iterable[Listed]) -> Left:
    """The scores of documents, where a format leaves them out."""
    return Left(sum(doc.score is not None for doc in documents), SCORES)


def split_by_score(documents: Iterable[Listed]) -> tuple[list[Listed], Left]:
    """Documents that have a score, and how many have none."""
    every = list(documents)
    scored = [doc for doc in every if doc.score is not None]
    return scored, Left(len(every) - len(scored), NO_SCORE)


def dumped(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False)
