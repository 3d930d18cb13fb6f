"""Keeps the vectors of a collection on disk: encoded once for each model and set of texts, and resumed part by part."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodistill import console
from retrodistill.cache import cache_folder
from retrodistill.emissions import columns_of, vectors_of
from retrodistill.files import atomic_file, atomic_folder, digest_of, write_json
from retrodistill.models import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrodistill.encoders import Encoder, Role

# A part is the unit that survives a crash. Batches never reach across parts, so that a resumed
# encoding computes the very same batches, and bits, as one that was not interrupted.
TEXTS_A_PART = 1_024


@dataclass(frozen=True)
class Encoded:
    """Vectors and how fast they came.

    Attributes:
        vectors: the kind that the encoder emits, memory-mapped.
        per_second: texts encoded a second, tokenising included, when they were encoded on this machine.
    """

    vectors: Any
    per_second: float


def folder_of(encoder: Encoder, digest: str, role: Role) -> Path:
    """Where the vectors of one set of texts by one encoder lie, whether or not they exist yet."""
    return cache_folder("vectors") / digest_of({"encoder": encoder.identity, "role": role, "texts": digest})[:32]


def known_rate(encoder: Encoder, digest: str, role: Role) -> float | None:
    """How fast a set of texts was encoded, where it was."""
    about = folder_of(encoder, digest, role) / "about.json"
    return float(read_json(about)["per_second"]) if about.exists() else None


def encoded(encoder: Encoder, texts: Sequence[str], digest: str, role: Role, what: str) -> Encoded:
    """The vectors of texts, from disk where they are complete, else encoded now from the first missing part on.

    Args:
        encoder: the model.
        texts: what to encode.
        digest: names the texts: equal digests mean equal texts in equal order.
        role: queries and documents may have prompts of their own.
        what: what the progress bar says.
    """
    folder = folder_of(encoder, digest, role)
    about = folder / "about.json"
    if not _complete(folder):
        folder.mkdir(parents=True, exist_ok=True)
        parts = [folder / f"part-{start:012d}" for start in range(0, len(texts) or 1, TEXTS_A_PART)]
        rate = _encode_parts(encoder, texts, parts, role, what)
        with contextlib.suppress(FileNotFoundError):  # another process was first: it joined the parts and removed them
            names = sorted(file.stem for file in parts[0].iterdir())
            for name in names:
                _join([part / f"{name}.npy" for part in parts], folder / f"{name}.npy")
            made = {"encoder": encoder.identity, "role": role, "texts": len(texts), "per_second": rate}
            write_json(about, {**made, "columns": names, "dimensions": encoder.dimensions})
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
    facts = read_json(about)
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in facts["columns"]}
    return Encoded(vectors_of(columns, facts["dimensions"]), float(facts["per_second"]))


def _complete(folder: Path) -> bool:
    about = folder / "about.json"
    return about.exists() and all((folder / f"{name}.npy").exists() for name in read_json(about).get("columns", [""]))


def _encode_parts(encoder: Encoder, texts: Sequence[str], parts: list[Path], role: Role, what: str) -> float:
    done, seconds = 0, 0.0
    _ = encoder.model  # loading is not encoding: keep it out of the rate
    with console.progress(len(texts), what, "texts") as bar:
        for number, part in enumerate(parts):
            chunk = texts[number * TEXTS_A_PART : (number + 1) * TEXTS_A_PART]
            if part.exists():
                bar.update(len(chunk))
                continue
            began = time.perf_counter()
            vectors = encoder.encode(chunk, role, bar.update)
            seconds += time.perf_counter() - began
            done += len(chunk)
            with atomic_folder(part) as temporary:
                for name, column in columns_of(vectors).items():
                    np.save(temporary / f"{name}.npy", column, allow_pickle=False)
    return done / seconds if seconds else 0.0


def _join(parts: list[Path], whole: Path) -> None:
    loaded = [np.load(part, mmap_mode="r") for part in parts]
    with atomic_file(whole) as temporary, temporary.open("wb") as stream:
        shape = (sum(map(len, loaded)), *loaded[0].shape[1:])
        description = np.lib.format.dtype_to_descr(loaded[0].dtype)
        np.lib.format.write_array_header_1_0(stream, {"descr": description, "fortran_order": False, "shape": shape})
        for part in loaded:
            stream.write(np.ascontiguousarray(part).tobytes())
