"""Immutable files that many writers add to a folder without locks: whole, synced, dated, and told apart from damage.

A part's name carries the time it was written (nanoseconds, hexadecimal: names sort in the order of writing) and the
SHA-256 of its bytes (first 16 digits). It appears by renaming; what a killed writer leaves starts with a dot.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from retrodistill import files

T = TypeVar("T")

_NAME = re.compile(r"[a-z]+-([0-9a-f]{16})-([0-9a-f]{16})\.parquet")


# By folder and prefix the latest time of a part that this process knows of: to look each time takes longer and longer.
_latest: dict[Path, int] = {}


class DamagedError(Exception):
    """A part that cannot be believed; the message says why."""


def of(folder: Path, prefix: str) -> list[Path]:
    """The parts of a kind, in the order of writing."""
    return sorted(folder.glob(f"{prefix}-*.parquet"))


def stamp_of(path: Path) -> int:
    """The time in a part's name, in nanoseconds."""
    match = _NAME.fullmatch(path.name)
    return int(match[1], 16) if match else 0


def each(
    folder: Path, prefix: str, read_one: Callable[[Path], T], seen: set[str] | None = None
) -> Iterator[tuple[Path, T | DamagedError]]:
    """Every part of a kind, read once, or why it cannot be believed.

    Parts that another process joins meanwhile are read as what they became; what they hold may then come twice.

    Args:
        folder: of the teacher.
        prefix: what kind of part it is.
        read_one: reads a part; raises `DamagedError`.
        seen: names that are passed over; those that are read join them.
    """
    seen = set() if seen is None else seen
    while fresh := [path for path in of(folder, prefix) if path.name not in seen]:
        for path in fresh:
            seen.add(path.name)
            try:
                found: T | DamagedError = read_one(path)
            except DamagedError as error:
                if not path.exists():
                    continue
                found = error
            yield path, found


def add(folder: Path, prefix: str, write: Callable[[Path], None], stamp: int | None = None) -> Path:
    """Have a part written, and show it when it is whole.

    Args:
        folder: of the teacher.
        prefix: what kind of part it is.
        write: writes the file.
        stamp: the time it stands for; now where None.
    """
    # The name needs the digest of what is written, so the part waits, whole and synced, under a name nobody reads.
    waiting = folder / f".{prefix}-{uuid.uuid4().hex}"
    with files.atomic_file(waiting) as temporary:
        write(temporary)
        digest = files.digest_of_file(temporary)[:16]
    if stamp is None:
        # A clock that was set back must not put this part before one that is already there, or was at the first look.
        key = folder / prefix
        if key not in _latest:
            _latest[key] = max(map(stamp_of, of(folder, prefix)), default=0)
        stamp = _latest[key] = max(time.time_ns(), 1 + _latest[key])
    return waiting.rename(folder / f"{prefix}-{stamp:016x}-{digest}.parquet")


def read(path: Path, decode: Callable[[pq.ParquetFile], T]) -> T:
    """What a part holds, once its bytes are known to be those that were written.

    Raises:
        DamagedError: they are not, or cannot be read.
    """
    match = _NAME.fullmatch(path.name)
    if not match:
        raise DamagedError("its name carries no time and digest: it was renamed, or not written by this store")
    try:
        with pa.memory_map(str(path)) as mapped:
            content = mapped.read_buffer()
            if hashlib.sha256(content).hexdigest()[:16] != match[2]:
                raise DamagedError("its bytes are not those that were written")
            return decode(pq.ParquetFile(content))
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"it cannot be read: {error}") from error
