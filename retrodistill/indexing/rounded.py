"""Exact search by products in bfloat16: they are many times as fast as float32's, and what they cannot rule out is few.

A rounded product is off by no more than its vectors' lengths allow. What stays below a query's worst result by more
than that is no result; of all else the float32 product decides, as it does in a search that rounds nothing.
"""

from __future__ import annotations

import sys

import numpy as np

from retrodistill.compiled import compiled, dot, in_parts, replace_least
from retrodistill.rounding import is_quicker, largest_error

# Products that are held at once, 2 MiB, and queries from which on rounding the vectors costs less than it saves.
_QUERIES_A_TILE, _ROWS_A_TILE, _FEWEST_QUERIES = 1_024, 1_024, 64


def pays(queries: int, rows: int, width: int, memory: int) -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, and there is enough to multiply.

    Where torch is not in memory yet it must save seconds, and find the 200 MB that it takes.
    """
    loaded = "torch" in sys.modules or (queries * rows * width >= 10**11 and memory >= 250 * 10**6)
    return queries >= _FEWEST_QUERIES and loaded and is_quicker()


class Rounded:
    """Some queries, and the best that was found for each so far.

    Args:
        queries: float32, shape (queries, width).
        scores: the best of each, a heap with the least at its root, float32, shape (queries, depth).
        rows: their numbers, int64, the same shape.
    """

    def __init__(self, queries: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> None:
        import torch

        self.queries, self.scores, self.rows = queries, scores, rows
        self._rounded = torch.from_numpy(np.require(queries, requirements="W")).bfloat16()
        self._margins = largest_error(queries.shape[1]) * lengths(queries)
        self._products = torch.empty(_QUERIES_A_TILE * _ROWS_A_TILE, dtype=torch.bfloat16)

    def sift(self, vectors: np.ndarray, first: int) -> bool:
        """Look at more vectors, the first of which is row `first`: float32, shape (rows, width).

        Returns:
            False where a product is NaN.
        """
        import torch

        sound = not np.isnan(self._margins).any()
        for start in range(0, len(vectors), _ROWS_A_TILE):
            block = vectors[start : start + _ROWS_A_TILE]
            longest = lengths(block).max()
            sound &= not np.isnan(longest)
            tile = torch.from_numpy(np.require(block, requirements="W")).bfloat16().T
            for query in range(0, len(self.queries), _QUERIES_A_TILE):
                some = slice(query, query + _QUERIES_A_TILE)
                asked = self._rounded[some]
                products = self._products[: len(asked) * len(block)].view(len(asked), len(block))
                torch.mm(asked, tile, out=products)
                sound &= self._kept(some, products.view(torch.int16).numpy(), block, longest, first + start)
        return bool(sound)

    def _kept(self, some: slice, products: np.ndarray, block: np.ndarray, longest: np.float32, first: int) -> bool:
        keep = compiled(_keep)
        margins = self._margins[some] * longest
        tables = products, self.queries[some], margins, self.scores[some], self.rows[some]
        return all(in_parts(lambda part: keep(*(table[part] for table in tables), block, first), len(products)))


def lengths(vectors: np.ndarray) -> np.ndarray:
    """Euclidean lengths, (vectors,)."""
    with np.errstate(over="ignore"):  # a length that float32 cannot hold rules nothing out
        return np.linalg.norm(vectors, axis=1)


def _keep(
    products: np.ndarray, queries: np.ndarray, margins: np.ndarray, scores: np.ndarray, rows: np.ndarray,
    vectors: np.ndarray, first: int,
) -> bool:  # fmt: skip
    """Put into each query's heap what the rounded products leave of a block; False where a product is NaN.

    Bits of floating point numbers are in the order of the numbers, once those of negative ones are turned around.
    """
    count, sound = products.shape[1], True
    edge = np.empty(1, dtype=np.float32)
    bits = edge.view(np.int32)
    for query in range(products.shape[0]):
        heap, names, block, asked = scores[query], rows[query], products[query], queries[query]
        edge[0] = heap[0] - margins[query]
        bound = (bits[0] ^ ((bits[0] >> 31) & 0x7FFFFFFF)) >> 16 if edge[0] == edge[0] else -32_768
        for start in range(0, count, 64):
            end = min(start + 64, count)
            most = np.int16(-32_768)
            for at in range(start, end):  # a maximum of many is found at once
                sign = np.int16(np.int16(block[at] >> 15) & np.int16(0x7FFF))
                order = np.int16(block[at] ^ sign)
                most = order if order > most else most
            if most < bound:
                continue
            for at in range(start, end):
                if block[at] ^ ((block[at] >> 15) & np.int16(0x7FFF)) < bound:
                    continue
                score = dot(asked, vectors[at])
                if score <= heap[0]:
                    continue
                if score != score:
                    sound = False
                    continue
                replace_least(heap, names, score, first + at)
                edge[0] = heap[0] - margins[query]
                bound = (bits[0] ^ ((bits[0] >> 31) & 0x7FFFFFFF)) >> 16 if edge[0] == edge[0] else -32_768
    return sound
