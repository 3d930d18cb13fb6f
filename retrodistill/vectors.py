"""Keeps the vectors of a collection on disk: encoded once for each model and set of texts, and resumed part by part."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrodistill import console
from retrodistill.cache import cache_folder
from retrodistill.files import atomic_file, digest_of, write_json
from retrodistill.models import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrodistill.encoders import DenseEncoder, Role

# A part is the unit that survives a crash. Batches never reach across parts, so that a resumed
# encoding computes the very same batches, and bits, as one that was not interrupted.
TEXTS_A_PART = 1_024


@dataclass(frozen=True)
class Encoded:
    """Vectors and how fast they came.

    Attributes:
        vectors: float32, shape (texts, dimensions), memory-mapped.
        per_second: texts encoded a second, tokenising included, when they were encoded on this machine.
    """

    vectors: np.ndarray
    per_second: float


def folder_of(encoder: DenseEncoder, digest: str, role: Role) -> Path:
    """Where the vectors of one set of texts by one encoder lie, whether or not they exist yet."""
    return cache_folder("vectors") / digest_of({"encoder": encoder.identity, "role": role, "texts": digest})[:32]


def known_rate(encoder: DenseEncoder, digest: str, role: Role) -> float | None:
    """How fast a set of texts was encoded, where it was."""
    about = folder_of(encoder, digest, role) / "about.json"
    return float(read_json(about)["per_second"]) if about.exists() else None


def encoded(encoder: DenseEncoder, texts: Sequence[str], digest: str, role: Role, what: str) -> Encoded:
    """The vectors of texts, from disk where they are complete, else encoded now from the first missing part on.

    Args:
        encoder: the model.
        texts: what to encode.
        digest: names the texts: equal digests mean equal texts in equal order.
        role: queries and documents may have prompts of their own.
        what: what the progress bar says.
    """
    folder = folder_of(encoder, digest, role)
    whole, about = folder / "vectors.npy", folder / "about.json"
    if not (whole.exists() and about.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        parts = [folder / f"part-{start:012d}.npy" for start in range(0, len(texts) or 1, TEXTS_A_PART)]
        rate = _encode_parts(encoder, texts, parts, role, what)
        with contextlib.suppress(FileNotFoundError):  # another process was first: it joined the parts and removed them
            _join(parts, whole)
            write_json(about, {"encoder": encoder.identity, "role": role, "texts": len(texts), "per_second": rate})
        for part in parts:
            part.unlink(missing_ok=True)
    return Encoded(np.load(whole, mmap_mode="r"), float(read_json(about)["per_second"]))


def _encode_parts(encoder: DenseEncoder, texts: Sequence[str], parts: list[Path], role: Role, what: str) -> float:
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
            with atomic_file(part) as temporary, temporary.open("wb") as stream:
                np.save(stream, vectors, allow_pickle=False)
    return done / seconds if seconds else 0.0


def _join(parts: list[Path], whole: Path) -> None:
    loaded = [np.load(part, mmap_mode="r") for part in parts]
    with atomic_file(whole) as temporary, temporary.open("wb") as stream:
        shape = (sum(map(len, loaded)), loaded[0].shape[1])
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for part in loaded:
            stream.write(np.ascontiguousarray(part, dtype="<f4").tobytes())
