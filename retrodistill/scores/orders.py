"""Keeps what listwise teachers said: a window of documents as it was shown, and the order that came back.

    ROOT/<fingerprint>/orders-<time>-<digest>.parquet      q_hi, q_lo, w_hi, w_lo, ranking, scores, answer, repairs

A window is named by the texts that it shows, in their places: the same documents in another order are another question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrodistill import console
from retrodistill.scores import parts
from retrodistill.scores.keys import text_keys

PREFIX = "orders"

_SCHEMA = pa.schema(
    [
        *((name, pa.uint64()) for name in ("q_hi", "q_lo", "w_hi", "w_lo")),
        ("ranking", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("answer", pa.string()),
        ("repairs", pa.int32()),
    ]
)


class Order(NamedTuple):
    """What a teacher made of a window.

    Attributes:
        ranking: places of the shown documents, the best first; each place once.
        scores: a score for each shown document, where the teacher gives any.
        answer: what it said, raw; empty where it was read from logits.
        repairs: places that the answer lacked or named twice, and a rule filled.
    """

    ranking: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    answer: str = ""
    repairs: int = 0


class Orders:
    """One listwise teacher's orders by (query, window); where a window was judged twice, the first written counts."""

    def __init__(self, folder: Path, claim: Callable[[], None]) -> None:
        self.folder = folder
        self._claim = claim
        self._known: dict[bytes, Order] = {}
        self._seen: set[str] = set()
        self.refresh()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, query: str, shown: Sequence[str]) -> Order | None:
        """The order of a window of texts; None where nobody was asked."""
        return self._known.get(_key(query, shown).tobytes())

    def all(self) -> list[Order]:
        """Every order, in that of writing."""
        return list(self._known.values())

    def append(self, windows: Sequence[tuple[str, Sequence[str]]], found: Sequence[Order]) -> None:
        """Write orders of windows, each (query, texts shown), as one part."""
        if not found:
            return
        keys = np.stack([_key(query, shown) for query, shown in windows])
        columns: list[Any] = [
            *(pa.array(np.ascontiguousarray(column)) for column in keys.T),
            pa.array([order.ranking for order in found], _SCHEMA.field("ranking").type),
            pa.array([order.scores for order in found], _SCHEMA.field("scores").type),
            pa.array([order.answer for order in found], pa.string()),
            pa.array([order.repairs for order in found], pa.int32()),
        ]
        self._claim()
        self._seen.add(write(self.folder, pa.table(columns, schema=_SCHEMA)).name)
        self._learn(keys, found)

    def refresh(self) -> None:
        """See the parts that other writers have finished since the last look."""
        for path, read in parts.each(self.folder, PREFIX, read_part, self._seen):
            if isinstance(read, parts.DamagedError):
                console.say(f"warning: {path} is damaged ({read}) and its orders are left out; delete the file")
            else:
                self._learn(*read)

    def _learn(self, keys: np.ndarray, found: Sequence[Order]) -> None:
        for key, order in zip(keys, found, strict=True):
            self._known.setdefault(key.tobytes(), order)


def write(folder: Path, table: pa.Table, stamp: int | None = None) -> Path:
    """Add a part of orders, which stands for the time `stamp`, or for now."""
    return parts.add(folder, PREFIX, lambda path: pq.write_table(table, path, compression="zstd"), stamp)


def read_table(path: Path) -> pa.Table:
    """A part as it was written.

    Raises:
        DamagedError: the bytes are not those that were written.
    """
    return parts.read(path, _table)


def first_written(table: pa.Table) -> pa.Table:
    """Of windows that were judged twice the first rows."""
    _, first = np.unique(_keys(table), axis=0, return_index=True)
    return table.take(np.sort(first))


def read_part(path: Path) -> tuple[np.ndarray, list[Order]]:
    """Keys, uint64 (n, 4), and orders of a part.

    Raises:
        DamagedError: the bytes are not those that were written.
    """
    return parts.read(path, _decoded)


def _table(part: pq.ParquetFile) -> pa.Table:
    if not part.schema_arrow.equals(_SCHEMA):
        raise parts.DamagedError(f"got the columns {part.schema_arrow.names}, expected {_SCHEMA.names}")
    return part.read()


def _keys(table: pa.Table) -> np.ndarray:
    return np.stack([table.column(name).to_numpy() for name in _SCHEMA.names[:4]], axis=1)


def _decoded(part: pq.ParquetFile) -> tuple[np.ndarray, list[Order]]:
    table = _table(part)
    rows = zip(*(table.column(name).to_pylist() for name in _SCHEMA.names[4:]), strict=True)
    return _keys(table), [
        Order(tuple(ranking), None if scores is None else tuple(scores), answer, repairs)
        for ranking, scores, answer, repairs in rows
    ]


def _key(query: str, shown: Sequence[str]) -> np.ndarray:
    """uint64 (4,): the query's key and the window's."""
    window = "".join(f"{len(text)}:{text}" for text in shown)
    return text_keys([query, window]).reshape(-1)
