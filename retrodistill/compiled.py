"""Loops that numba compiles, and the heap that they keep the best in."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numpy as np

Found = TypeVar("Found")


@cache
def compiled(function: Callable[..., Any], *helpers: Callable[..., Any]) -> Any:
    """A function of numbers and arrays as machine code, kept on disk beside its source; loaded when first asked for.

    Args:
        function: the function.
        helpers: functions beside it that it calls; `replace_least` and `dot` may be called by all.
    """
    import numba
    from numba.extending import register_jitable

    for helper in (replace_least, *helpers):
        register_jitable(helper)
    # a sum may be split among the places of a register
    register_jitable(fastmath={"reassoc", "contract"})(dot)
    return numba.njit(nogil=True, cache=True)(function)


def dot(one: np.ndarray, other: np.ndarray) -> np.float32:
    """The product of two vectors: the same bits whoever asks, which a product of matrices does not promise."""
    total = np.float32(0)
    for place in range(len(one)):
        total += one[place] * other[place]
    return total


def replace_least(heap: np.ndarray, names: np.ndarray, score: np.float32, name: int) -> None:
    """Put a score in the place of the least of a heap, which is its first."""
    depth, hole = len(heap), 0
    while True:
        child = 2 * hole + 1
        if child >= depth:
            break
        if child + 1 < depth and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= score:
            break
        heap[hole], names[hole] = heap[child], names[child]
        hole = child
    heap[hole], names[hole] = score, name


def in_parts(work: Callable[[slice], Found], count: int) -> list[Found]:
    """What a compiled loop makes of each part of `count` rows, a part a thread, in their order."""
    parts = min(threads(), max(1, count))
    size = max(1, -(-count // parts))
    slices = [slice(start, start + size) for start in range(0, count, size)]
    if len(slices) < 2:
        return list(map(work, slices))
    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(work, slices))


def threads() -> int:
    """As many as OMP_NUM_THREADS allows, or cores that there are.

    numba is not asked: to answer it starts threads of its own, one a core, and gives torch as many, whatever it had.
    """
    allowed = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(allowed)) if allowed.isdecimal() else len(os.sched_getaffinity(0))
