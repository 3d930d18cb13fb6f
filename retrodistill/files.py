"""Files that are whole or absent: written beside their place under another name, then renamed into it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from retrodistill.errors import InputError


def _beside(path: Path) -> Path:
    """A temporary name beside a path; it says who writes, so that what a killed process left can be removed."""
    _sweep(path.parent)
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


@cache
def _host() -> str:
    """This machine, and the space its process numbers live in: two containers may share a name and a volume."""
    with contextlib.suppress(OSError):
        return f"{re.sub('[^A-Za-z0-9]', '', socket.gethostname())}.{Path('/proc/self/ns/pid').stat().st_ino}"
    return re.sub("[^A-Za-z0-9]", "", socket.gethostname())


def _sweep(folder: Path) -> None:
    """Tidy up after processes of this machine that no longer live: put back what they moved away, remove the rest."""
    for left in folder.glob(f".*.{_host()}-*"):
        found = re.fullmatch(rf"\.(.+)\.{re.escape(_host())}-(\d+)-[0-9a-f]{{8}}\.(tmp|old)", left.name)
        if found is None or _lives(int(found[2])):
            continue
        if found[3] == "old" and not left.with_name(found[1]).exists():
            left.rename(left.with_name(found[1]))
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it is synced and becomes `path`, on failure nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it takes the place of `path`, on failure nothing is left."""
    path = path.absolute()  # "." has no name of its own
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            old = temporary.with_suffix(".old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Work in a folder that no other process works in; the system gives it free when the process ends, however it does.

    Raises:
        InputError: another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            held.seek(0)
            raise InputError(
                f"{folder}: another run, process {held.read().strip() or 'unknown'}, works in it; wait until it is "
                "done, or give this one another name"
            ) from error
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield


def refuse_to_replace(folder: Path) -> None:
    """Keep a user's own folder from an artefact that would take its place.

    Raises:
        InputError: the path is a file, or a folder that holds something but no artefact of ours.
    """
    if folder.is_dir() and ((folder / "manifest.json").is_file() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise InputError(f"{folder} holds something else, which would be replaced; name a new or an empty folder")


def _plain(value: Any) -> Any:
    """What JSON makes of paths and of numpy's numbers; anything else is a mistake of ours."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} cannot be written as JSON")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, the same whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_files(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 (hex) over the relative names and contents of files, in the order of their names."""
    named = {path.relative_to(root).as_posix(): digest_of_file(path) for path in paths}
    return digest_of(named)


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Name what differs between two flat descriptions: `max_length: 512 stored, 256 asked`."""
    keys = sorted(set(stored) | set(asked))
    return [
        f"{key}: {stored.get(key)!r} stored, {asked.get(key)!r} asked"
        for key in keys
        if stored.get(key) != asked.get(key)
    ]
