"""Writes down what a remote model was asked and paid, so that no answer is paid for twice, whatever kills the run.

    FOLDER/calls.jsonl     a line a request: when, tokens, cost, attempt, what came of it; no texts
    FOLDER/answers.jsonl   a line an answer, under a digest of its request: the journal
    FOLDER/server.json     the model's name as the server gives it

The folder is the teacher's in the score store while a teacher judges, and one in the cache otherwise. An answer is
in the journal before anything is made of it. A line goes out in one write, and a line that is not whole is not read:
a killed process loses what was under way, a power cut at most a second more.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrodistill.cache import cache_folder
from retrodistill.files import digest_of, write_json
from retrodistill.models import read_json

CALLS, ANSWERS, SERVER = "calls.jsonl", "answers.jsonl", "server.json"

_here: ContextVar[Path | None] = ContextVar("account_folder", default=None)


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Keep the accounts of what is asked meanwhile in a folder, such as a teacher's in the score store."""
    token = _here.set(Path(folder))
    try:
        yield
    finally:
        _here.reset(token)


def folder_for(identity: Mapping[str, Any]) -> Path:
    """Where a model's accounts go now: the folder of `kept_in`, else one in the cache."""
    return _here.get() or cache_folder("calls", digest_of(identity)[:16])


@dataclass(frozen=True)
class Usage:
    """What a request took.

    Attributes:
        prompt: tokens of the prompt.
        answer: tokens of the answer.
        cached: how many of the prompt's the server had already.
        counted: by the server; else estimated, four characters a token.
    """

    prompt: int
    answer: int
    cached: int = 0
    counted: bool = True


class Account:
    """The journal and the ledger of one folder; several processes may write at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places = dict(self._read())
        self._ledger = _Lines(folder / CALLS)
        self._journal = _Lines(folder / ANSWERS)

    def __len__(self) -> int:
        """Answers that need not be asked for again."""
        return len(self._places)

    def answer(self, key: str) -> Any:
        """The answer to a request, by its digest; None where it was never answered."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        with (self.folder / ANSWERS).open("rb") as stream:
            stream.seek(place)
            return json.loads(stream.readline())["answer"]

    def keep(self, key: str, answer: Any) -> None:
        """Put an answer, a JSON value, into the journal."""
        self._places[bytes.fromhex(key)] = self._journal.write({"key": key, "answer": answer})

    def record(self, key: str, outcome: str, *, attempt: int, seconds: float, usage: Usage | None, cost: float) -> None:
        """Put a request into the ledger; `outcome` is `answered` or what went wrong, in words that hold no text."""
        took = usage or Usage(0, 0)
        self._ledger.write(
            {
                "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                "request": key[:16],
                "outcome": outcome,
                "attempt": attempt,
                "seconds": round(seconds, 3),
                "prompt_tokens": took.prompt,
                "cached_tokens": took.cached,
                "answer_tokens": took.answer,
                "tokens_counted": took.counted,
                "cost": cost,
            }
        )

    def served(self, model: str) -> str:
        """The model's name as the server gave it at the first answer; this one where this is the first."""
        path = self.folder / SERVER
        if not path.exists():
            write_json(path, {"model": model})
        return str(read_json(path).get("model"))

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        self._ledger.sync()
        self._journal.sync()

    def _read(self) -> Iterator[tuple[bytes, int]]:
        """Digests of requests, and where in the journal their lines start; the first answer to a request counts."""
        found: dict[bytes, int] = {}
        place = 0
        with contextlib.suppress(FileNotFoundError), (self.folder / ANSWERS).open("rb") as stream:
            for line in stream:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    found.setdefault(bytes.fromhex(_whole(line)["key"]), place)
                place += len(line)
        return iter(found.items())


class _Lines:
    """A file that grows by whole lines; it and its folder are made by the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: Any = None
        self._synced = time.monotonic()

    def write(self, value: Mapping[str, Any]) -> int:
        """Append a line in one write; returns where it starts."""
        if self._stream is None:
            self._open()
        line = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        self._stream.write(line)
        if time.monotonic() - self._synced > 1:
            self.sync()
        return int(self._stream.tell()) - len(line)

    def sync(self) -> None:
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._synced = time.monotonic()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered and appending: each write is one call to the system, which puts it behind all others
        self._stream = self.path.open("ab", buffering=0)
        if self._stream.tell() and not _ends_a_line(self.path):
            self._stream.write(b"\n")


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def _whole(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise ValueError("the line is not whole")
    value = json.loads(line)
    if "answer" not in value:
        raise KeyError("answer")
    return dict(value)


@dataclass(frozen=True)
class Total:
    """What a folder's ledger adds up to."""

    requests: int = 0
    answered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0


def total(folder: Path) -> Total:
    """Add up a ledger; a folder without one adds up to nothing."""
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError), (folder / CALLS).open("rb") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    sums = {
        name: sum(row.get(name, 0) for row in rows)
        for name in ("prompt_tokens", "cached_tokens", "answer_tokens", "cost")
    }
    return Total(requests=len(rows), answered=sum(row.get("outcome") == "answered" for row in rows), **sums)
