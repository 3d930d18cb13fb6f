"""Keeps the combined scores of many candidates on disk, so that a training that starts again need not join them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from retrodistill.cache import cache_folder
from retrodistill.files import atomic_file, digest_of


def kept(describe: Callable[[], Any], make: Callable[[], np.ndarray], sound: Callable[[], bool]) -> np.ndarray:
    """What `make` gives, mapped from the cache folder where it was made before.

    Args:
        describe: everything that decides the scores; asked before and after they are made, as other writers may add to
            a store meanwhile.
        make: gives float32 scores.
        sound: whether what was made may be kept; what a damaged part lacks is not to outlive its repair.

    Returns:
        The scores, not to be written to.
    """
    named = digest_of(describe())
    path = cache_folder("combined") / f"{named[:32]}.npy"
    try:
        # a plain array over the map: numpy's own class for maps is slow to index
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError):
        pass  # absent or damaged: it is made again
    scores = make()
    if sound() and digest_of(describe()) == named:
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, scores, allow_pickle=False)
    return scores
