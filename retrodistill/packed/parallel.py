"""Computes batches side by side, one a processor core, instead of spreading each batch over all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch

Made = TypeVar("Made")


def each(
    work: Callable[[np.ndarray], Made], batches: Iterable[np.ndarray], device: str
) -> Iterator[tuple[np.ndarray, Made]]:
    """Batches and what `work` makes of them, in order.

    On a CPU a batch is computed by one core. Cores then never wait for each other within a batch, which costs most on
    a machine that others use too, and the bits do not depend on how many cores there are. Where there are fewer
    batches than cores, each is spread over all of them, as torch does by itself.

    Args:
        work: computes a batch; it must set up its own inference mode, which is a thread's own.
        batches: rows of each batch.
        device: where `work` computes.
    """
    batches, cores = list(batches), torch.get_num_threads()
    if device != "cpu" or len(batches) < cores or cores == 1:
        yield from ((rows, work(rows)) for rows in batches)
        return
    try:
        with ThreadPoolExecutor(cores, initializer=partial(torch.set_num_threads, 1)) as pool:
            yield from zip(batches, pool.map(work, batches), strict=True)
    finally:
        torch.set_num_threads(cores)  # what threads set for themselves is also what new threads begin with
