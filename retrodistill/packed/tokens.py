"""Tokens of many texts, made once: their lengths make the batches, and the batches are cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tokens:
    """Token ids and segments of texts or pairs.

    Attributes:
        ids: token ids of each text, special tokens included.
        types: segment of each token; None where the tokenizer gives none.
    """

    ids: list[np.ndarray]
    types: list[np.ndarray] | None

    @classmethod
    def of(
        cls, tokenizer: Any, texts: Sequence[str], others: Sequence[str] | None = None, max_length: int | None = None
    ) -> Tokens:
        """What a tokenizer of transformers makes of texts, or of pairs with `others`, cut to `max_length`."""
        if not texts:
            return cls([], None)
        encoded = tokenizer(
            list(texts),
            None if others is None else list(others),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
        )
        types = encoded.get("token_type_ids")
        return cls(
            [np.asarray(ids, dtype=np.int64) for ids in encoded["input_ids"]],
            None if types is None else [np.asarray(row, dtype=np.int64) for row in types],
        )

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.ids]

    def take(self, rows: Sequence[int] | np.ndarray) -> Tokens:
        """Those of some texts."""
        types = self.types
        return Tokens([self.ids[row] for row in rows], None if types is None else [types[row] for row in rows])
