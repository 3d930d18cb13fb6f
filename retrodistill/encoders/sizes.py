"""Sizes of batches: oneDNN, torch's library of matrix products on a CPU, keeps kernels for each that it meets."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence, Set


def distinct(parts: Sequence[Set[Hashable]], count: float) -> float:
    """How many different sizes so many parts have, of which the first are known.

    More bring as many new ones as each of the second half of these did.

    Args:
        parts: the sizes of some parts.
        count: how many parts there are.
    """
    seen: set[Hashable] = set()
    new = []
    for part in parts[: math.ceil(count)]:
        new.append(len(part - seen))
        seen |= part
    late = new[len(new) // 2 :]
    return len(seen) + max(0.0, count - len(parts)) * sum(late) / max(1, len(late))
