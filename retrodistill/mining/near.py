"""Near duplicates of positives, by MinHash."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from retrodistill.mining.filters import DuplicatesFilter, relevant_texts
from retrodistill.mining.pool import Pool
from retrodistill.words import words

_PRIME = np.uint64((1 << 31) - 1)  # products of two numbers below it fit into 64 bits


class NearDuplicates(DuplicatesFilter):
    """Drops documents that share most of their word sequences with a positive, such as its copies with a new header.

    What two texts share of their runs of `words` words (Jaccard's coefficient J) is estimated from `hashes` minima;
    the estimate's standard error is sqrt(J (1 - J) / hashes), 0.025 at the defaults.

    Source: Broder 1997, "On the Resemblance and Containment of Documents".

    Attributes:
        threshold: documents with as large a share, or a larger one, are dropped.
        words: length of a run; a text of fewer words is one run. In scripts without spaces, such as Chinese, Japanese
            and Thai, each character counts as a word.
        hashes: how many minima are kept of each text.
    """

    argument: ClassVar[str | None] = "threshold"
    kind: Literal["near_duplicates"] = "near_duplicates"
    threshold: float = Field(0.8, gt=0, le=1)
    words: int = Field(3, ge=1)
    hashes: int = Field(256, ge=16)

    def keep(self, pool: Pool) -> np.ndarray:
        """Compare the minima of each document with those of each positive, and of documents that stay."""
        seen = [signature(text, self.words, self.hashes) for text in relevant_texts(pool)]
        kept = np.ones(len(pool), dtype=bool)
        for row, doc in enumerate(pool.documents if seen or self.among else ()):
            own = signature(pool.collection.corpus.text(doc), self.words, self.hashes)
            kept[row] = all(float((own == other).mean()) < self.threshold for other in seen)
            if self.among and kept[row]:
                seen.append(own)
        return kept


@lru_cache(maxsize=4_096)
def signature(text: str, length: int, hashes: int) -> np.ndarray:
    """The least hash of a text's runs of `length` words under each of many hash functions: uint32, shape (hashes,).

    The share of places where two signatures agree estimates the share of runs that the texts have in common. A text
    without a word agrees with none but its like.
    """
    found = words(text)
    count = max(1, len(found) - length + 1)
    runs = {" ".join(found[start : start + length]) for start in range(count)}
    keys = np.array([zlib.crc32(run.encode("utf-8", "surrogatepass")) for run in runs], dtype=np.uint64) % _PRIME
    factors, shifts = _functions(hashes)
    # (hashes, runs) in blocks of runs, so that a book takes no more than a page
    least = np.full(hashes, _PRIME, dtype=np.uint64)
    for start in range(0, len(keys), 1_024):
        hashed = (factors[:, None] * keys[None, start : start + 1_024] + shifts[:, None]) % _PRIME
        np.minimum(least, hashed.min(axis=1), out=least)
    return least.astype(np.uint32)


@lru_cache(maxsize=8)
def _functions(hashes: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors and shifts of the hash functions, the same for ever: uint64, shape (hashes,) each."""
    generator = np.random.default_rng(1997)
    return (
        generator.integers(1, int(_PRIME), hashes, dtype=np.uint64),
        generator.integers(0, int(_PRIME), hashes, dtype=np.uint64),
    )


FILTERS = {"near_duplicates": NearDuplicates}
