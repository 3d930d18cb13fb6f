"""Memory that a user grants: read from words, held against what the process takes."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from retrodistill.errors import InputError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse(size: Any) -> Any:
    """Bytes of a size such as `2GB`, `512 MiB` or a number; anything else is left for pydantic to refuse.

    Raises:
        ValueError: it is text, and no size.
    """
    if not isinstance(size, str):
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B|)\s*", size, re.IGNORECASE)
    if found is None or found[2].upper() not in _UNITS:
        if found is not None and found[2].upper() == "B":
            return int(float(found[1]))
        raise ValueError(f"{size!r} is no size; write it as 2GB, 512MB or 1.5GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


Size = Annotated[int, BeforeValidator(parse)]


def granted(size: str | None) -> int | None:
    """Bytes of a size on the command line.

    Raises:
        InputError: it is none, or nothing.
    """
    try:
        found = parse(size)
    except ValueError as error:
        raise InputError(f"memory: {error}") from error
    if found is not None and found < 1:
        raise InputError(f"memory: {size!r} is nothing; write it as 2GB, 512MB or 1.5GiB")
    return found


def resident() -> int:
    """Bytes that this process holds in memory now; the most it ever held where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak()
    return pages * resource.getpagesize()


def peak() -> int:
    """The most bytes that this process held in memory, since it began or since `forget_peak`."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # not what getrusage tells of a process that was started by another: it begins with what that one held
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def forget_peak() -> None:
    """Have `peak` begin anew from what is held now, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def installed() -> int:
    """Bytes of memory that this machine has; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


class Budget:
    """The memory that a process may take as a whole.

    Args:
        total: bytes, libraries and ids of the collection included.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.promised = 0

    @property
    def left(self) -> int:
        """Bytes that may still be taken, beside what is promised to those who take it later."""
        return self.total - self.promised - resident()

    def promise(self, needed: int) -> None:
        """Keep bytes for what has been claimed, and is taken later."""
        self.promised += needed

    def claim(self, needed: int, what: str) -> None:
        """Refuse what will not fit, before it is tried.

        Raises:
            InputError: it needs more than is left.
        """
        if needed > self.left:
            taken = resident() + self.promised
            raise InputError(
                f"memory: {shown(self.total)} is not enough: {what} takes about {shown(needed)} beside the "
                f"{shown(taken)} taken already; grant {shown(int((needed + taken) * 1.1))}"
            )


def shown(size: int) -> str:
    """A size in words: `1.2 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
