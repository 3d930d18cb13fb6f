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
        parts.add(
            self.folder,
            PREFIX,
            lambda path: pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd"),
        )
        self.refresh()

    def refresh(self) -> None:
        """See the parts that other writers have finished since the last look."""
        for path in parts.of(self.folder, PREFIX):
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            try:
                keys, found = read_part(path)
            except parts.DamagedError as error:
                console.say(f"warning: {path} is damaged ({error}) and its orders are left out; delete the file")
                continue
            for key, order in zip(keys, found, strict=True):
                self._known.setdefault(key.tobytes(), order)


def read_part(path: Path) -> tuple[np.ndarray, list[Order]]:
    """Keys, uint64 (n, 4), and orders of a part.

    Raises:
        DamagedError: the bytes are not those that were written.
    """
    return parts.read(path, _decoded)


def _decoded(part: pq.ParquetFile) -> tuple[np.ndarray, list[Order]]:
    if not part.schema_arrow.equals(_SCHEMA):
        raise parts.DamagedError(f"got the columns {part.schema_arrow.names}, expected {_SCHEMA.names}")
    table = part.read()
    keys = np.stack([table.column(name).to_numpy() for name in _SCHEMA.names[:4]], axis=1)
    rows = zip(*(table.column(name).to_pylist() for name in _SCHEMA.names[4:]), strict=True)
    return keys, [
        Order(tuple(ranking), None if scores is None else tuple(scores), answer, repairs)
        for ranking, scores, answer, repairs in rows
    ]


def _key(query: str, shown: Sequence[str]) -> np.ndarray:
    """uint64 (4,): the query's key and the window's."""
    window = "".join(f"{len(text)}:{text}" for text in shown)
    return text_keys([query, window]).reshape(-1)
