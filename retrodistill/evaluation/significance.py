"""Whether a difference between two systems is more than luck: randomisation tests and bootstrap intervals.

Smucker, Allan and Carterette, "A comparison of statistical significance tests for information retrieval evaluation",
CIKM 2007, is the source for the choice of the test and of its statistic, the difference of the means.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrodistill.errors import InputError

EXACT_UP_TO = 16  # 65,536 assignments of signs: fewer than the samples that would stand for them
_CHUNK = 1 << 20  # numbers in memory at once
_SAME = 1e-12  # below this two values of a metric differ by the order of additions only


def _chunks(samples: int, width: int) -> Iterator[int]:
    rows = max(1, _CHUNK // width)
    for start in range(0, samples, rows):
        yield min(rows, samples - start)


def paired_randomisation(a: np.ndarray, b: np.ndarray, *, samples: int = 100_000, seed: int = 0) -> float:
    """Tell how often luck alone would part two systems as far: the two-sided p of `mean(b - a)`.

    Under the null hypothesis the systems are exchangeable on every query, so that each difference could as well have
    the other sign. All assignments of signs are counted where at most `EXACT_UP_TO` differences are not zero; else
    `samples` random ones, and p = (as extreme + 1) / (samples + 1).

    Args:
        a: values of one system by query, shape (queries,).
        b: values of the other, aligned.
        samples: random assignments.
        seed: makes them the same every time; exchanging `a` and `b` changes nothing.

    Returns:
        p in (0, 1]; 1.0 where the systems do not differ on any query.
    """
    differences = _differences(a, b)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    total = differences.sum()
    # The observed assignment is one of those counted: rounding must not lose it.
    observed = abs(total) - 1e-9 * np.abs(differences).sum()

    def as_extreme(flipped: np.ndarray) -> int:
        return int(np.count_nonzero(np.abs(total - 2 * (flipped.astype(np.float64) @ differences)) >= observed))

    if len(differences) <= EXACT_UP_TO:
        assignments = np.arange(1 << len(differences))[:, None] >> np.arange(len(differences)) & 1
        return as_extreme(assignments) / len(assignments)
    rng = np.random.default_rng(seed)
    found = 0
    for rows in _chunks(samples, len(differences)):
        bits = np.frombuffer(rng.bytes(-(-rows * len(differences) // 8)), dtype=np.uint8)
        found += as_extreme(np.unpackbits(bits, count=rows * len(differences)).reshape(rows, -1))
    return (found + 1) / (samples + 1)


def bootstrap_interval(
    values: np.ndarray, *, confidence: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Say how far a mean over queries would move with other queries of the same kind: the percentile bootstrap.

    Args:
        values: one value a query, shape (queries,), at least one.
        confidence: the part of the resampled means inside the interval.
        samples: resamples.
        seed: makes them the same every time.

    Returns:
        The lower and the upper end.
    """
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), size=(rows, len(values)))].mean(axis=1)
            for rows in _chunks(samples, len(values))
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p values for how many there are, so that one lucky test among many does not pass (Holm 1979).

    Returns:
        The corrected p values in the order given: the i-th smallest of m times (m - i + 1), made monotone, at most 1.
    """
    corrected = [0.0] * len(ps)
    largest = 0.0
    for done, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, ps[place] * (len(ps) - done)))
        corrected[place] = largest
    return corrected


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same queries, by one metric.

    Attributes:
        metric: the metric's name.
        before: the first system's mean.
        after: the second system's mean.
        difference: after - before.
        low: the lower end of the difference's interval.
        high: its upper end.
        p: of the two-sided paired randomisation test.
        wins: queries on which the second system is better.
        ties: queries without a difference.
        losses: queries on which it is worse.
        queries: all of them.
    """

    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    p: float
    wins: int
    ties: int
    losses: int
    queries: int


def compare(
    metric: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    names: tuple[str, str] = ("the first system", "the second system"),
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Set two systems side by side, query by query.

    Args:
        metric: what the values are.
        before: value by query id, of the system to compare with.
        after: the same for the other system.
        names: of the two systems, for the error.
        confidence: of the interval of the difference.
        seed: of the test and the interval.

    Raises:
        InputError: the systems were not measured on the same queries.
    """
    _refuse_other_queries(before, after, names)
    a = np.array(list(before.values()), dtype=np.float64)
    b = np.array([after[query] for query in before], dtype=np.float64)
    differences = _differences(a, b)
    low, high = bootstrap_interval(differences, confidence=confidence, seed=seed)
    return Comparison(
        metric=metric,
        before=float(a.mean()),
        after=float(b.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=paired_randomisation(a, b, seed=seed),
        wins=int(np.count_nonzero(differences > 0)),
        ties=int(np.count_nonzero(differences == 0)),
        losses=int(np.count_nonzero(differences < 0)),
        queries=len(differences),
    )


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    return np.where(np.abs(differences) < _SAME, 0.0, differences)


def _refuse_other_queries(before: Mapping[str, float], after: Mapping[str, float], names: tuple[str, str]) -> None:
    strays = [
        f"{len(only):,} of {name} only ({', '.join(map(repr, itertools.islice(only, 3)))}{', ...' * (len(only) > 3)})"
        for name, only in zip(names, (sorted(before.keys() - after), sorted(after.keys() - before)), strict=True)
        if only
    ]
    if strays:
        raise InputError(
            f"{names[0]} and {names[1]} were measured on different queries: {' and '.join(strays)}; "
            f"evaluate both on the same split"
        )
    if not before:
        raise InputError(f"{names[0]} and {names[1]} were measured on no query; there is nothing to compare")
