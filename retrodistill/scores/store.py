"""Keeps every teacher score ever paid for: a folder a teacher, immutable Parquet parts in it, many writers, no locks.

    ROOT/<fingerprint>/teacher.json
    ROOT/<fingerprint>/part-<time>-<digest>.parquet      q_hi, q_lo, d_hi, d_lo, score

A part's name carries the time it was written (nanoseconds, hexadecimal: names sort in the order of writing) and the
SHA-256 of its bytes (first 16 digits), so that damage anywhere in it shows before anything in it is believed. Parts
appear by renaming; what a killed writer leaves behind starts with a dot and is never read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrodistill import console, files
from retrodistill.errors import InputError
from retrodistill.scores import orders, parts
from retrodistill.scores.index import PairIndex

_KEYS = ("q_hi", "q_lo", "d_hi", "d_lo")
_SCHEMA = pa.schema([*((name, pa.uint64()) for name in _KEYS), ("score", pa.float32())])
_IDENTITY, _PARTS = "teacher.json", "*.parquet"

# Rows written and read at once: small enough that their memory is used again, not asked for anew.
_BATCH = 1 << 17

# Rows of a store that a join holds at once: about 0.6 GB while they are sorted.
JOINED_AT_ONCE = 1 << 22


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Name a teacher by everything that decides its scores: 16 hexadecimal digits, whatever the order of the keys."""
    return files.digest_of(identity)[:16]


class ScoreStore:
    """All teachers' scores in one directory; a pair scored once by a teacher is never scored by it again."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        # names of the parts that were found damaged by those who read from here
        self.damaged: set[str] = set()
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root}: got a file, expected the folder of a score store; name a folder")

    def table(self, identity: Mapping[str, Any]) -> TeacherScores:
        """Open a teacher's scores; its folder is made by the first write.

        Raises:
            InputError: the folder belongs to a teacher with another identity, or its teacher.json cannot be read.
        """
        folder = self.root / fingerprint(identity)
        asked = json.loads(json.dumps(dict(identity), default=str))
        if (folder / _IDENTITY).exists():
            stored = _read_identity(folder / _IDENTITY)
            if stored != asked:
                raise InputError(
                    f"{folder / _IDENTITY}: describes another teacher than the one asked for "
                    f"({'; '.join(files.differences(stored, asked))}); it was edited: restore it or use another store"
                )
        return TeacherScores(folder, asked, self.damaged)

    def part_names(self, identity: Mapping[str, Any]) -> list[str]:
        """What a teacher's scores are made of: a part's name holds the digest of what is in it."""
        return sorted(part.name for part in _parts(self.root / fingerprint(identity)))

    def orders(self, identity: Mapping[str, Any]) -> orders.Orders:
        """Open a listwise teacher's orders.

        Raises:
            InputError: as `table` does.
        """
        table = self.table(identity)
        return orders.Orders(table.folder, table.claim)

    def nearly(self, identity: Mapping[str, Any]) -> str | None:
        """In what a teacher differs from the stored one that is most like it, if that is little and not the model.

        Returns:
            Such as `max_length: 512 stored, 256 asked`; None where it is stored itself, or none is like it.
        """
        asked = json.loads(json.dumps(dict(identity), default=str))
        found: list[list[str]] = []
        for folder in self.folders():
            try:
                stored = _read_identity(folder / _IDENTITY)
            except InputError:
                continue  # `verify` tells of it
            if stored == asked:
                return None
            same = {key for key in asked if key in stored and stored[key] == asked[key]}
            others = [value for key, value in [*stored.items(), *asked.items()] if key not in same]
            if "kind" in same and not any(map(_names_content, others)):
                found.append(files.differences(stored, asked))
        least = min(found, key=len, default=[])
        return "; ".join(least) if 0 < len(least) < max(2, len(asked) // 2) else None

    def teachers(self) -> list[dict[str, Any]]:
        """Describe every teacher in the store, by fingerprint: identity, fingerprint, rows, orders, parts, bytes.

        Rows are counted from the parts' footers, those of unreadable parts left out; bytes are those of all parts.
        """
        return [
            {
                "identity": _read_identity(folder / _IDENTITY),
                "fingerprint": folder.name,
                "rows": sum(_rows(part) for part in _parts(folder)),
                "orders": sum(_rows(part) for part in parts.of(folder, orders.PREFIX)),
                "parts": len(list(folder.glob(_PARTS))),
                "bytes": sum(part.stat().st_size for part in folder.glob(_PARTS)),
            }
            for folder in self.folders()
        ]

    def verify(self) -> list[str]:
        """Read everything and name what is damaged and why, a line a file; empty where all is well."""
        found: list[str] = []
        for folder in self.folders():
            try:
                if fingerprint(_read_identity(folder / _IDENTITY)) != folder.name:
                    found.append(f"{folder / _IDENTITY}: the identity is not that of the folder's name; it was edited")
            except InputError as error:
                found.append(str(error))
            for part, read in chain[tuple[Path, Any]](
                parts.each(folder, "part", read_part), parts.each(folder, orders.PREFIX, orders.read_part)
            ):
                if isinstance(read, parts.DamagedError):
                    found.append(f"{part}: {read}")
        return found

    def folders(self) -> list[Path]:
        """The folder of every teacher."""
        # A writer killed before its first file leaves an empty folder, which is nobody's.
        return sorted({file.parent for name in (_IDENTITY, _PARTS) for file in self.root.glob(f"*/{name}")})


class TeacherScores:
    """One teacher's scores by (query, document), looked up a million at a time.

    Where a pair was written more than once, the first written counts, in this process and in every other.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], reported: set[str] | None = None) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self.fingerprint = folder.name
        self._index = PairIndex()
        self._damaged: set[str] = set()
        self._reported = set() if reported is None else reported
        self._vanished = False
        self._stale = True

    def __len__(self) -> int:
        """Rows that can be looked up; a pair written twice counts twice."""
        self._catch_up()
        return len(self._index)

    def lookup(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Find the scores of pairs, in no more memory than the answer and the index need.

        Sees this object's own writes at once, other writers' after `refresh`.

        Args:
            queries: uint64 keys, shape (n, 2), as `text_keys` makes them.
            documents: uint64 keys, shape (n, 2).

        Returns:
            float32, shape (n,); NaN where the store has no score. All 256 bits are compared.
        """
        _check_keys(queries, documents)
        self._catch_up()
        return self._index.find(queries, documents)

    def join(
        self, queries: np.ndarray, of_query: np.ndarray, documents: np.ndarray, of_document: np.ndarray
    ) -> np.ndarray:
        """Find the scores of more pairs than should be held as keys, among more rows than should be held in an index.

        As many parts as make `JOINED_AT_ONCE` rows are indexed, looked up in and forgotten before the next; pairs of
        queries that those parts do not name are not looked up.

        Args:
            queries: uint64 keys, shape (q, 2).
            of_query: int32 (n,), each pair's row in `queries`.
            documents: uint64 keys, shape (d, 2).
            of_document: int32 (n,), each pair's row in `documents`.

        Returns:
            As `lookup` does; float32, shape (n,).
        """
        _check_keys(queries, queries)
        _check_keys(documents, documents)
        found = np.full(len(of_query), np.nan, dtype=np.float32)
        self._vanished = False
        for names in self._portions():
            index, loaded = PairIndex(), list(self._loaded(names))
            named = [np.unique(keys[:, 0]) for _, keys, _ in loaded]
            there = np.isin(queries[:, 0], np.concatenate([np.empty(0, np.uint64), *named]))
            index.add(loaded)
            del loaded
            for start in range(0, len(found), _BATCH):
                block = slice(start, start + _BATCH)
                # the first written counts: what an earlier part had is not asked for again
                rows = np.flatnonzero(np.isnan(found[block]) & there[of_query[block]]) + start
                if len(rows):
                    found[rows] = index.find(queries[of_query[rows]], documents[of_document[rows]])
        return self.join(queries, of_query, documents, of_document) if self._vanished else found

    def _portions(self) -> Iterator[list[str]]:
        """Names of the parts in the order of writing, some at a time; a part larger than that comes alone."""
        names: list[str] = []
        held = 0
        for name in sorted(set(self._names()) - self._damaged):
            rows = _rows(self.folder / name)
            if names and held + rows > JOINED_AT_ONCE:
                yield names
                names, held = [], 0
            names.append(name)
            held += rows
        if names:
            yield names

    def append(self, queries: np.ndarray, documents: np.ndarray, scores: np.ndarray) -> None:
        """Write scores as one part, whole and synced when this returns; other writers need not be kept out.

        Rows cost the least space where those of a query stand together.

        Args:
            queries: uint64 keys, shape (n, 2).
            documents: uint64 keys, shape (n, 2).
            scores: finite numbers, shape (n,), kept as float32.

        Raises:
            InputError: a score is NaN or infinite; nothing is written then.
        """
        _check_keys(queries, documents)
        with np.errstate(over="ignore"):
            values = np.asarray(scores).astype(np.float32)
        if values.shape != (len(queries),):
            raise ValueError(f"got scores of shape {values.shape}, expected ({len(queries)},): one a pair")
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            teacher = self.identity.get("kind", "the teacher")
            raise InputError(
                f"{teacher} ({self.fingerprint}): {wrong.size} of {len(values)} scores are no finite float32, "
                f"the first is {scores[wrong[0]]} in row {wrong[0]}; leave out what was not scored"
            )
        if not len(values):
            return
        self.claim()
        parts.add(self.folder, "part", lambda path: write_part(path, [*queries.T, *documents.T, values]))
        self._stale = True

    def claim(self) -> None:
        """Write whose folder this is, where nobody has yet."""
        if not (self.folder / _IDENTITY).exists():
            files.write_json(self.folder / _IDENTITY, self.identity)

    def refresh(self) -> None:
        """See the parts that other writers have finished since the last look."""
        names = self._names()
        if not set(self._index.sources).issubset(names):
            self._index = PairIndex()
        fresh = sorted(set(names) - set(self._index.sources) - self._damaged)
        if fresh:
            # Where another writer's part is older than one in the index, what stands after it is read again: the
            # first written counts, whoever saw it first.
            again = self._index.drop_from(fresh[0])
            self._vanished = False
            self._index.add(self._loaded(sorted([*fresh, *again])))
            if self._vanished:
                self.refresh()
        self._stale = False

    def _catch_up(self) -> None:
        if self._stale:
            self.refresh()

    def _names(self) -> list[str]:
        return [part.name for part in _parts(self.folder)]

    def _loaded(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for name in names:
            try:
                keys, scores = read_part(self.folder / name)
            except parts.DamagedError as error:
                if not (self.folder / name).exists():
                    self._vanished = True  # joined with others by `compact` since we looked
                    continue
                self._damaged.add(name)
                self._reported.add(name)
                console.say(
                    f"warning: {self.folder / name} is damaged ({error}) and its scores are left out; "
                    "delete the file, and what it held is scored again"
                )
            else:
                yield name, keys, scores


def _check_keys(queries: np.ndarray, documents: np.ndarray) -> None:
    for name, keys in (("queries", queries), ("documents", documents)):
        if keys.dtype != np.uint64 or keys.shape != (len(queries), 2):
            raise ValueError(
                f"got {name} of type {keys.dtype} and shape {keys.shape}, expected uint64 and ({len(queries)}, 2): "
                "the keys of `text_keys`, a row a pair"
            )


def _names_content(value: Any) -> bool:
    """Whether a value is a digest, or holds one: what differs there is another model or file, not another option."""
    if isinstance(value, dict | list):
        return any(map(_names_content, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value) is not None


def _parts(folder: Path) -> list[Path]:
    return parts.of(folder, "part")


def write_part(path: Path, columns: list[np.ndarray]) -> None:
    """Parquet: query halves as runs of dictionary entries, the rest, which nothing can compress, as it stands."""
    with pq.ParquetWriter(
        path, _SCHEMA, compression="none", use_dictionary=["q_hi", "q_lo"], write_statistics=False
    ) as writer:
        for start in range(0, len(columns[0]), _BATCH):
            batch = [pa.array(np.ascontiguousarray(column[start : start + _BATCH])) for column in columns]
            writer.write_table(pa.table(batch, schema=_SCHEMA))


def read_part(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n, 4) and scores (n,) of a part, once its bytes are known to be those that were written."""
    return parts.read(path, _decoded)


def _decoded(part: pq.ParquetFile) -> tuple[np.ndarray, np.ndarray]:
    if not part.schema_arrow.equals(_SCHEMA):
        raise parts.DamagedError(
            f"got the columns {part.schema_arrow.names}, expected {_SCHEMA.names} as the store has them"
        )
    keys = np.empty((part.metadata.num_rows, len(_KEYS)), dtype=np.uint64)
    scores = np.empty(len(keys), dtype=np.float32)
    start = 0
    for batch in part.iter_batches(batch_size=_BATCH):
        rows = slice(start, start + batch.num_rows)
        for column in range(len(_KEYS)):
            keys[rows, column] = batch.column(column).to_numpy()
        scores[rows] = batch.column(len(_KEYS)).to_numpy()
        start = rows.stop
    return keys, scores


def _rows(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException):
        return 0


def read_identity(folder: Path) -> dict[str, Any]:
    """What decides the scores in a teacher's folder.

    Raises:
        InputError: its teacher.json is missing or broken.
    """
    return _read_identity(folder / _IDENTITY)


def _read_identity(path: Path) -> dict[str, Any]:
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; it says whose scores lie beside it, restore it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); restore it or delete its folder") from error
    if not isinstance(identity, dict):
        raise InputError(f"{path}: got JSON of type {type(identity).__name__}, expected an object; restore it")
    return identity
