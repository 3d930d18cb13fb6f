"""Names a text by its content, so that a score is found again whatever the data set, split or id scheme."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """Hash rendered texts, so that the same text is the same key everywhere and an edited one is another.

    The hash is BLAKE2b with 16 bytes (RFC 7693) of the UTF-8 text. A text that stands in many pairs is best
    hashed once by the caller and its row repeated. Lone surrogates, which JSON can carry and UTF-8 cannot, are hashed
    as they stand.

    Returns:
        uint64, shape (n, 2): the digest's first and second half, big-endian.
    """
    digests = b"".join(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)
