"""Files that are whole or absent: written beside their place under another name, then renamed into it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from retrodistill.errors import InputError

# What numpy, torch, safetensors and faiss say when the system took less than they wrote; none gives its reason apart.
_UNWRITTEN = re.compile(r"requested and \d+ written|inline_container|os error (\d+)|write error in .*\((.+)\)")
_FULL = 2**20


def unwritten(error: BaseException, path: Path) -> OSError | None:
    """What the system said, where a library tells by an error of its own that it could not write.

    Args:
        error: of a library.
        path: what was being written, or a folder on the same disk.
    """
    found = _UNWRITTEN.search(str(error))
    if found is None or (isinstance(error, OSError) and error.errno is not None):
        return None
    number = int(found[1] or 0) or {os.strerror(code): code for code in errno.errorcode}.get(found[2], 0)
    if not number:
        number = errno.ENOSPC if shutil.disk_usage(path.parent).free < _FULL else errno.EIO
    return OSError(number, os.strerror(number), str(path))


@contextlib.contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Tell what could not be written by the name that it would have had."""
    try:
        yield
    except Exception as error:
        told = unwritten(error, temporary or path)
        if told is None and isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            told = error
        if told is None:
            raise
        raise OSError(told.errno, told.strerror, str(path)) from error


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
        with writing(path, temporary):
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
        with writing(path, temporary):
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


def refuse_unwritable(path: Path) -> None:
    """Say before the work that its result could not be written.

    Raises:
        InputError: what stands above the path is no folder, or one that may not be written to.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a device or the like, which would be replaced; name a file or a folder")
    above = next((folder for folder in path.absolute().parents if folder.exists()), path)
    if not above.is_dir():
        raise InputError(f"{path} cannot be written: {above} is a file; name another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: {above} may not be written to; name another place")


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


def checksum_of_file(path: Path) -> str:
    """CRC-32 (hex) of a file's bytes: tells damage several times as fast as a digest does, and tells no forgery."""
    found = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            found = zlib.crc32(block, found)
    return f"{found:08x}"


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
