"""What a person sees while a command runs: lines and progress bars on stderr; results alone go to stdout."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def speaks() -> bool:
    """Whether this process talks to the person: of those that torchrun starts, the first alone does."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """Print a line about the work to stderr, without tearing a progress bar."""
    if speaks():
        tqdm.write(line, file=sys.stderr)


class _Lines(tqdm):
    """A line a minute in place of a bar, for a log: work that is done before that leaves none."""

    monitor_interval = 0  # no thread that looks after it

    def __init__(self, **options: Any) -> None:
        apart = io.StringIO()  # else each line that is said would draw it again
        super().__init__(**options, file=apart, delay=SECONDS, mininterval=SECONDS, miniters=1, ncols=0)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Say the line that would have been shown; an empty one, by which a bar goes, is none."""
        if msg is None:
            print(self, file=sys.stderr, flush=True)


# Between the lines of a log.
SECONDS = 60.0


def bar(total: int | None, what: str, unit: str) -> tqdm:
    """A bar with rate and remaining time, to be closed by the caller; lines where stderr is no terminal."""
    kind = tqdm if sys.stderr.isatty() else _Lines
    hidden = bool(os.environ.get("RETRODISTILL_QUIET")) or not speaks()
    return kind(total=total, desc=what, unit=f" {unit}", disable=hidden, smoothing=0.1, leave=False)


@contextmanager
def progress(total: int | None, what: str, unit: str) -> Iterator[tqdm]:
    """A bar for a block of work; `update(n)` moves it."""
    with bar(total, what, unit) as shown:
        yield shown


def track(items: Iterable[T], total: int, what: str, unit: str) -> Iterator[T]:
    """Iterate with a bar."""
    with bar(total, what, unit) as shown:
        for item in items:
            yield item
            shown.update()


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """A Markdown table with aligned columns; all but the first to the right where they hold numbers.

    A bar in a cell is escaped.
    """
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    left = [column == 0 or not numbers for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if stays else cell.rjust(width)
            for stays, cell, width in zip(left, row, widths, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "|"
        + "|".join("-" * (w + 2) if stays else "-" * (w + 1) + ":" for stays, w in zip(left, widths, strict=True))
        + "|"
    )
    return "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])
