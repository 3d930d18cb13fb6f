"""Makes few parts of many, and holds teachers against each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from retrodistill import files
from retrodistill.errors import InputError
from retrodistill.scores import orders, parts
from retrodistill.scores.store import ScoreStore, read_identity, read_part, write_part

# Rows of a part: what is held in memory at once, some 40 bytes each of scores, some hundreds each of orders.
ROWS_A_PART, ORDERS_A_PART = 1 << 22, 1 << 16

Held = TypeVar("Held", bound=Sized)


@dataclass(frozen=True)
class Scores:
    """Of a part or a teacher: keys, uint64 (n, 4), and values, float32 (n,)."""

    keys: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


def compact(
    store: ScoreStore, rows_a_part: int = ROWS_A_PART, orders_a_part: int = ORDERS_A_PART
) -> Iterator[tuple[str, int, int]]:
    """Join the parts of every teacher's scores and orders; damaged ones stay as they are.

    A joined part takes the time of the oldest that it holds, so that of a pair that was judged twice the first written
    still counts, and is there before those that it replaces go: killed in between, rows stand twice, which is no harm.

    Yields:
        A teacher's fingerprint, its parts before, and after.
    """
    for folder in store.folders():
        before = _count(folder)
        for paths, scores in _groups(parts.of(folder, "part"), lambda path: Scores(*read_part(path)), rows_a_part):
            _replace(paths, _joined(folder, scores, parts.stamp_of(paths[0])))
        for paths, tables in _groups(parts.of(folder, orders.PREFIX), orders.read_table, orders_a_part):
            joined = orders.first_written(pa.concat_tables(tables))
            _replace(paths, orders.write(folder, joined, parts.stamp_of(paths[0])))
        yield folder.name, before, _count(folder)


def _count(folder: Path) -> int:
    return sum(len(parts.of(folder, prefix)) for prefix in ("part", orders.PREFIX))


def _groups(
    paths: list[Path], read: Callable[[Path], Held], rows_a_part: int
) -> Iterator[tuple[list[Path], list[Held]]]:
    """Neighbouring parts that fit into one, two or more; and what they hold."""
    group: list[tuple[Path, Held]] = []
    for path in paths:
        found = None
        with contextlib.suppress(parts.DamagedError):
            found = read(path)
        if found is None or sum(len(part) for _, part in group) + len(found) > rows_a_part:
            yield from _alike(group)
            group = []
        if found is not None:
            group.append((path, found))
    yield from _alike(group)


def _alike(group: list[tuple[Path, Held]]) -> Iterator[tuple[list[Path], list[Held]]]:
    if len(group) > 1:
        yield [path for path, _ in group], [part for _, part in group]


def _joined(folder: Path, found: list[Scores], stamp: int) -> Path:
    keys = np.concatenate([part.keys for part in found])
    scores = np.concatenate([part.values for part in found])
    _, first = np.unique(keys, axis=0, return_index=True)
    # those of a query together cost the least, and the first written is the first of equal keys
    kept = np.sort(first)
    kept = kept[np.lexsort((kept, keys[kept, 1], keys[kept, 0]))]
    columns = [*keys[kept].T, scores[kept]]
    return parts.add(folder, "part", lambda path: write_part(path, columns), stamp=stamp)


def _replace(paths: list[Path], joined: Path) -> None:
    for path in paths:
        if path != joined:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Comparison:
    """What two teachers say of the same texts.

    Attributes:
        differences: of their identities.
        first_only: pairs that the first alone judged.
        second_only: pairs that the second alone judged.
        both: pairs that both judged.
        equal: of these, with the very same score.
        pearson: correlation over the pairs of both; NaN for fewer than two.
        tau: Kendall's tau-b, the mean over queries with two pairs or more.
        largest: absolute difference.
    """

    differences: list[str]
    first_only: int
    second_only: int
    both: int
    equal: int
    pearson: float
    tau: float
    largest: float


def compare(store: ScoreStore, first: str, other: ScoreStore, second: str) -> Comparison:
    """Hold the scores of two teachers against each other.

    Raises:
        InputError: a store has no such teacher.
    """
    mine, theirs = _scores(store, first), _scores(other, second)
    _, left, right = np.intersect1d(_rows(mine.keys), _rows(theirs.keys), return_indices=True)
    a, b = mine.values[left].astype(np.float64), theirs.values[right].astype(np.float64)
    varied = len(a) > 1 and a.std() > 0 and b.std() > 0
    return Comparison(
        differences=files.differences(read_identity(store.root / first), read_identity(other.root / second)),
        first_only=len(mine.values) - len(a),
        second_only=len(theirs.values) - len(b),
        both=len(a),
        equal=int((a == b).sum()),
        pearson=float(np.corrcoef(a, b)[0, 1]) if varied else float("nan"),
        tau=_tau(mine.keys[left, :2], a, b),
        largest=float(np.abs(a - b).max(initial=0)),
    )


def _scores(store: ScoreStore, fingerprint: str) -> Scores:
    folder = store.root / fingerprint
    if folder not in store.folders():
        known = ", ".join(path.name for path in store.folders()) or "none"
        raise InputError(f"{store.root} has no teacher {fingerprint!r}; it has {known}")
    found = [read for _, read in parts.each(folder, "part", read_part) if not isinstance(read, parts.DamagedError)]
    if not found:
        return Scores(np.empty((0, 4), dtype=np.uint64), np.empty(0, dtype=np.float32))
    keys = np.concatenate([keys for keys, _ in found])
    values = np.concatenate([values for _, values in found])
    _, first = np.unique(_rows(keys), return_index=True)
    return Scores(keys[first], values[first])


def _rows(keys: np.ndarray) -> np.ndarray:
    """Each row of keys as one value that can be compared."""
    return np.ascontiguousarray(keys).view([("", np.uint64)] * keys.shape[1]).reshape(-1)


def _tau(queries: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import kendalltau

    if not len(queries):
        return float("nan")
    _, groups = np.unique(_rows(queries), return_inverse=True)
    order = np.argsort(groups, kind="stable")
    found = [
        kendalltau(a[rows], b[rows]).statistic
        for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
        if len(rows) > 1
    ]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
