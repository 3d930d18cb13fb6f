"""Where things are kept that can be made again: downloads, converted collections, the built-in collection."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from retrodistill.errors import InputError

# What is made again of files at hand, as fast as a join, a search or a tokenizer is, and grows with every change of a
# store or a recipe. Never `calls`: a server was paid for those, and of its answers queries are made again.
PASSING = ("candidates", "combined", "queries", "tokens")


def cache_folder(*parts: str) -> Path:
    """Give a folder to keep things in between runs, so that nothing is downloaded or converted twice.

    Args:
        parts: names below `$RETRODISTILL_CACHE`, or below `~/.cache/retrodistill` where that is not set.

    Returns:
        The folder, which exists.

    Raises:
        InputError: it cannot be made.
    """
    root = os.environ.get("RETRODISTILL_CACHE")
    try:
        base = Path(root).expanduser() if root else Path.home() / ".cache" / "retrodistill"
        folder = base.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder to find
        raise InputError(
            f"cannot make the cache folder ({error}); set RETRODISTILL_CACHE to a folder that can be written to"
        ) from error
    return folder


def passing() -> dict[str, tuple[int, int]]:
    """Entries and bytes of each of the folders that can be dropped at any time."""
    return {name: (len(entries), sum(map(_bytes, entries))) for name, entries in _entries().items()}


def drop_passing() -> dict[str, tuple[int, int]]:
    """Remove what `passing` counts; what a process has mapped stays until it ends, what one is writing is left alone.

    Returns:
        Entries and bytes that went, by folder.
    """
    gone = {}
    for name, entries in _entries().items():
        gone[name] = len(entries), sum(map(_bytes, entries))
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    return gone


def _entries() -> dict[str, list[Path]]:
    """By folder what is whole; names that begin with a point are being written."""
    return {
        name: sorted(path for path in cache_folder(name).iterdir() if not path.name.startswith(".")) for name in PASSING
    }


def _bytes(entry: Path) -> int:
    if not entry.is_dir():
        return entry.lstat().st_size
    return sum(file.lstat().st_size for file in entry.rglob("*") if file.is_file())
