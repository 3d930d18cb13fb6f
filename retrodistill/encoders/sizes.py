"""Sizes of batches: oneDNN, torch's library of matrix products on a CPU, keeps kernels for each that it meets."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence, Set

from torch import Tensor
from torch.nn import functional

_ROWS, _TOKENS = 64, 16


def filled(rows: Tensor) -> Tensor:
    """Rows of a product, and rows of zeros up to a multiple of 64.

    For each number of rows oneDNN compiles a kernel and keeps a thousand of them, so that batches of any number of
    tokens take megabytes each, for good.

    Args:
        rows: (rows, width).
    """
    return functional.pad(rows, (0, 0, 0, -len(rows) % _ROWS))


def width(longest: int, limit: int | None = None) -> int:
    """Tokens that texts are padded to in training: a multiple of 16 where the model reads as many, for the same reason.

    Args:
        longest: tokens of the longest text.
        limit: tokens that the model reads.
    """
    full = -(-longest // _TOKENS) * _TOKENS
    return full if limit is None else max(longest, min(full, limit))


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
