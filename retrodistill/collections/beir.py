"""Downloads the collections of the BEIR benchmark (Thakur et al., 2021, arXiv:2104.08663) by name, with a checksum."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import stat
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from retrodistill.cache import cache_folder
from retrodistill.collections.reading import byte_bar
from retrodistill.console import say
from retrodistill.errors import InputError
from retrodistill.files import atomic_folder

BASE_URL = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
TIMEOUT = 15.0  # seconds to connect, and between two pieces of an answer
_PIECE = 1 << 20

# The MD5s of the archives, as BEIR's own table of data sets has them.
MD5: Mapping[str, str] = {
    "arguana": "8ad3e3c2a5867cdced806d6503f29b99",
    "climate-fever": "8b66f0a9126c521bae2bde127b4dc99d",
    "cqadupstack": "4e41456d7df8ee7760a7f866133bda78",
    "dbpedia-entity": "c2a39eb420a3164af735795df012ac2c",
    "fever": "5a818580227bfb4b35bb6fa46d9b6c03",
    "fiqa": "17918ed23cd04fb15047f73e6c3bd9d9",
    "hotpotqa": "f412724f78b0d91183a0e86805e16114",
    "msmarco": "444067daf65d982533ea17ebd59501e4",
    "nfcorpus": "a89dba18a62ef92f7d323ec890a0d38d",
    "nq": "d4d3d2e48787a744b6f6e691ff534307",
    "quora": "18fb154900ba42a600f84b839c173167",
    "scidocs": "38121350fc3a4d2f48850f6aff52e4a9",
    "scifact": "5f7d1de60b170fc8027bb7898e2efca1",
    "trec-covid": "ce62140cb23feb9becf6270d0d1fe6d1",
    "webis-touche2020": "46f650ba5a527fc69e0a6521c5a23563",
}
FORUMS = (
    "android", "english", "gaming", "gis", "mathematica", "physics",
    "programmers", "stats", "tex", "unix", "webmasters", "wordpress",
)  # fmt: skip


def forums() -> list[str]:
    """The twelve collections that CQADupStack is."""
    return [f"cqadupstack/{forum}" for forum in FORUMS]


def names() -> list[str]:
    """Every name that `fetch` knows."""
    return [*(name for name in MD5 if name != "cqadupstack"), *forums()]


def fetch(name: str, base_url: str = BASE_URL) -> Path:
    """Give the folder of a BEIR collection, downloading it into the cache folder the first time.

    Args:
        name: one of `names()`.
        base_url: where the archives `NAME.zip` lie.

    Raises:
        InputError: the host cannot be reached, its answer is no such archive or has another checksum, or there is no
            room; the message says where to put the folder by hand.
    """
    archive_name, _, forum = name.partition("/")
    folder = cache_folder("beir") / archive_name
    if not (folder / forum / "corpus.jsonl").is_file():
        url = f"{base_url}/{archive_name}.zip"
        by_hand = (
            f"or download {url} elsewhere and unpack it so that {folder / forum / 'corpus.jsonl'} exists,"
            " or give the path of any BEIR-format folder instead of the name"
        )
        _download(archive_name, folder, url, by_hand)
    return folder / forum


def _download(name: str, folder: Path, url: str, by_hand: str) -> None:
    say(f"downloading {url}")
    try:
        # A file without a name: nothing is left of it however this ends.
        with tempfile.TemporaryFile(dir=folder.parent) as archive:
            digest = _receive(url, archive, by_hand)
            if digest != MD5[name]:
                raise InputError(f"{url}: the MD5 is {digest}, expected {MD5[name]}; try again, {by_hand}")
            archive.seek(0)
            with atomic_folder(folder) as temporary:
                unpack(archive, temporary, name)
    except OSError as error:
        raise InputError(
            f"{url} cannot be kept in {folder.parent} ({error.strerror or error});"
            f" make room there, set RETRODISTILL_CACHE to another folder, {by_hand}"
        ) from error


def _receive(url: str, archive: IO[bytes], by_hand: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with _answer(url, by_hand) as answer, byte_bar(answer.length or 0, f"downloading {url}") as advance:
        while piece := _read(answer, url, by_hand):
            digest.update(piece)
            archive.write(piece)
            advance(len(piece))
        if answer.length:  # what is still to come by the server's own count
            raise InputError(f"{url}: the download broke off {answer.length:,} bytes early; try again, {by_hand}")
    return digest.hexdigest()


def _answer(url: str, by_hand: str) -> http.client.HTTPResponse:
    host = urllib.parse.urlsplit(url).netloc
    try:
        return urllib.request.urlopen(url, timeout=TIMEOUT)  # noqa: S310 - the scheme is the caller's constant
    except urllib.error.HTTPError as error:
        raise InputError(f"{host} answered {error.code} {error.reason} for {url}; try later, {by_hand}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"cannot reach {host} ({reason}); try again with a network, {by_hand}") from error


def _read(answer: http.client.HTTPResponse, url: str, by_hand: str) -> bytes:
    try:
        return answer.read(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url}: the download broke off ({error}); try again, {by_hand}") from error


def unpack(archive: IO[bytes], folder: Path, top: str) -> None:
    """Unpack a zip into a folder, and never outside it.

    Args:
        archive: the zip, open for reading.
        folder: exists, and takes what the archive holds.
        top: the archive's own top folder, which is left away.

    Raises:
        InputError: the archive is damaged, or a member is a link or points outside; nothing is unpacked then.
    """
    try:
        with zipfile.ZipFile(archive) as members:
            targets = {info: _target(info, folder, top) for info in members.infolist() if not info.is_dir()}
            with byte_bar(sum(info.file_size for info in targets), "unpacking") as advance:
                for info, target in targets.items():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with members.open(info) as source, target.open("wb") as sink:
                        shutil.copyfileobj(source, sink, _PIECE)
                    advance(info.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"the archive {top}.zip is damaged or of an unknown kind ({error})") from error


def _target(info: zipfile.ZipInfo, folder: Path, top: str) -> Path:
    path = PurePosixPath(info.filename)
    is_link = stat.S_ISLNK(info.external_attr >> 16)
    if (
        is_link
        or not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in info.filename
        or ":" in info.filename
    ):
        raise InputError(
            f"the archive {top}.zip holds {info.filename!r}, a link or a path outside its folder; it was not unpacked"
        )
    parts = path.parts[1:] if path.parts[0] == top else path.parts
    return folder.joinpath(*parts)
