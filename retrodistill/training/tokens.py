"""Tokens of the texts that a training needs: made once, kept on disk, shared by students and rounds that read alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retrodistill import console
from retrodistill.cache import cache_folder
from retrodistill.files import atomic_folder, digest_of

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.collections.texts import Texts
    from retrodistill.students.student import Student

_TEXTS_AT_ONCE = 4_096


class TokenCache:
    """The tokens of some queries and documents of a collection, by their rows.

    Args:
        student: whose reading counts.
        model: its model.
        collection: where the texts are.
        queries: int rows of the queries that may be asked for.
        documents: int rows of the documents that may be asked for.
    """

    def __init__(
        self, student: Student, model: Any, collection: Collection, queries: np.ndarray, documents: np.ndarray
    ) -> None:
        self._kept = {
            "query": _Kept(student, model, collection.queries, queries, "query"),
            "document": _Kept(student, model, collection.corpus, documents, "document"),
        }

    def __call__(self, role: str, rows: np.ndarray) -> list[np.ndarray]:
        """The tokens of each text, int32 (tokens,)."""
        return self._kept[role].of(rows)


class _Kept:
    """Tokens of one role, in memory-mapped files: each has some texts, and what none of them has goes into another."""

    def __init__(self, student: Student, model: Any, texts: Texts, rows: np.ndarray, role: str) -> None:
        named = digest_of({"reading": student.reading(model), "role": role, "texts": texts.digest})[:32]
        self.rows = np.unique(rows)
        self._file = np.full(len(self.rows), -1, dtype=np.int32)  # that has the text
        self._place = np.zeros(len(self.rows), dtype=np.int64)  # there
        self._files: list[_File] = []
        for folder in sorted(cache_folder("tokens").glob(f"{named}-*")):
            self._take(folder)
        missing = self.rows[self._file < 0]
        if len(missing):
            folder = cache_folder("tokens") / f"{named}-{_digest(missing)[:16]}"
            with atomic_folder(folder) as temporary:
                _write(temporary, student, model, texts, missing, role)
            self._take(folder)

    def _take(self, folder: Path) -> None:
        """Have a file's texts from it, as far as they are asked for and no other has them."""
        try:
            file = _File(
                np.load(folder / "rows.npy"), np.load(folder / "offsets.npy"), np.load(folder / "tokens.npy", "r")
            )
        except FileNotFoundError:  # dropped meanwhile
            return
        wanted = np.flatnonzero((self._file < 0) & np.isin(self.rows, file.rows))
        if len(wanted):
            self._file[wanted] = len(self._files)
            self._place[wanted] = np.searchsorted(file.rows, self.rows[wanted])
            self._files.append(file)

    def of(self, rows: np.ndarray) -> list[np.ndarray]:
        places = np.searchsorted(self.rows, rows)
        return [self._files[self._file[place]].of(self._place[place]) for place in places]


class _File(NamedTuple):
    """Tokens of texts by their rows, ascending: text n's are those from `offsets[n]` to `offsets[n + 1]`."""

    rows: np.ndarray
    offsets: np.ndarray
    tokens: np.ndarray

    def of(self, place: int) -> np.ndarray:
        return self.tokens[self.offsets[place] : self.offsets[place + 1]]


def _write(folder: Path, student: Student, model: Any, texts: Texts, rows: np.ndarray, role: str) -> None:
    lengths: list[int] = []
    raw = folder / "tokens.raw"
    with console.progress(len(rows), f"tokenize {role}", "texts") as bar, raw.open("wb") as stream:
        for start in range(0, len(rows), _TEXTS_AT_ONCE):
            part = rows[start : start + _TEXTS_AT_ONCE]
            tokens: Sequence[np.ndarray] = student.tokenize(model, texts.texts(part), role)
            lengths += map(len, tokens)
            stream.write(np.concatenate(tokens).astype("<i4").tobytes())
            bar.update(len(part))
    whole = np.memmap(raw, dtype="<i4", mode="r", shape=(sum(lengths),)) if sum(lengths) else np.empty(0, "<i4")
    np.save(folder / "tokens.npy", whole, allow_pickle=False)
    np.save(folder / "rows.npy", rows.astype("<i8"), allow_pickle=False)
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), allow_pickle=False)
    raw.unlink()


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
