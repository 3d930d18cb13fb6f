"""Finds a collection by what a user calls it: a folder, a BEIR name or a built-in one."""

from __future__ import annotations

from pathlib import Path

from retrodistill.collections import beir, pydocs
from retrodistill.collections.collection import Collection, open_folder
from retrodistill.errors import InputError, nearest


def is_at_hand(source: str) -> bool:
    """Whether a collection opens without a download; a source that is none counts, as it is refused at once."""
    return source not in beir.names() or (Path(source) / "corpus.jsonl").exists()


def open_collection(source: str | Path) -> Collection:
    """Open a collection by folder, by BEIR name or as `builtin/pydocs`.

    A folder that holds a collection goes before a BEIR name; BEIR's are downloaded once and kept in the cache folder.

    Raises:
        InputError: there is no such folder or name, a file in it is broken, or a download failed.
    """
    name = str(source)
    if name == pydocs.NAME:
        return open_folder(pydocs.folder(), pydocs.NAME)
    folder = Path(name).expanduser() if name.startswith("~/") else Path(name)
    try:
        is_folder, is_file, holds_corpus = folder.is_dir(), folder.is_file(), (folder / "corpus.jsonl").exists()
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    if is_file:
        raise InputError(f"{name} is a file; give the folder that holds corpus.jsonl")
    if name in beir.names() and not holds_corpus:
        return open_folder(beir.fetch(name), name)
    if name and is_folder:
        return open_folder(folder)
    if name == "cqadupstack":
        raise InputError(f"cqadupstack is {len(beir.FORUMS)} collections; choose from {', '.join(beir.forums())}")
    known = [pydocs.NAME, *beir.names()]
    raise InputError(f"there is no folder {name!r}, and no collection of that name; {nearest(name, known)}")
