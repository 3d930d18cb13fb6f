"""Loops that numba compiles, and the heap that they keep the best in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np


@cache
def compiled(function: Callable[..., Any], sums_in_any_order: bool = False) -> Any:
    """A function of numbers and arrays as machine code, kept on disk beside its source; loaded when first asked for."""
    import numba
    from numba.extending import register_jitable

    register_jitable(replace_least)
    relaxed = {"reassoc", "contract"} if sums_in_any_order else False
    return numba.njit(nogil=True, cache=True, fastmath=relaxed)(function)


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
