"""Reads text that comes from outside: every mistake is told with its file and line, several at once."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from retrodistill.console import progress
from retrodistill.errors import InputError, Problems

MOST_MISTAKES = 5


class Mistakes:
    """Gathers what is wrong with one file and tells it together, so that a user mends a file once.

    Raises:
        InputError: from `add` when there are `MOST_MISTAKES`, from `tell` when there are any.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[str] = []

    def add(self, line: int, what: str) -> None:
        """Note a mistake in a line, counted from 1."""
        self.found.append(f"line {line}: {what}")
        if len(self.found) == MOST_MISTAKES:
            raise Problems(f"{self.path}: the first {MOST_MISTAKES} mistakes, where reading stopped", self.found)

    def tell(self) -> None:
        """Raise what was gathered, if anything was."""
        if len(self.found) == 1:
            raise InputError(f"{self.path}, {self.found[0]}")
        if self.found:
            raise Problems(f"{self.path}: {len(self.found)} mistakes", self.found)


def numbered_lines(path: Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[int, str]]:
    """Yield each line that is not blank, with its number, counted from 1.

    Windows line ends and a byte order mark are taken off. Lines end at line feeds only, as JSON lines have it.

    Args:
        path: a UTF-8 file.
        on_bytes: told the length of each line in bytes, for a progress bar.

    Raises:
        InputError: the file is missing, cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if on_bytes is not None:
                    on_bytes(len(raw))
                try:
                    line = (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{path}, line {number}: not UTF-8 text ({error.reason}, byte {error.start + 1} of the line);"
                        " convert the file to UTF-8"
                    ) from error
                if line.strip():
                    yield number, line
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


@contextmanager
def byte_bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar in megabytes; what it gives is called with numbers of bytes."""
    done = 0
    with progress(total=total // 1_000_000, what=what, unit="MB") as bar:

        def advance(count: int) -> None:
            nonlocal done
            before, done = done, done + count
            if done // 1_000_000 > before // 1_000_000:
                bar.update(done // 1_000_000 - before // 1_000_000)

        yield advance
