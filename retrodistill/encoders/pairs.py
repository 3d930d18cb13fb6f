"""A query and a document as one sequence, from tokens that were made of each apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from retrodistill.errors import InputError


@dataclass(frozen=True)
class PairTemplate:
    """What a tokenizer puts before, between and behind two texts that are read together, and what it cuts off.

    Attributes:
        before: int32 (2, tokens), the special tokens before the query: their ids above, their types below.
        between: those between the two.
        after: those behind the document.
        types: the types of the query's tokens and of the document's.
        max_length: tokens of a pair, the special ones included.
        keeps_end: what is too long loses its beginning.
    """

    before: np.ndarray
    between: np.ndarray
    after: np.ndarray
    types: tuple[int, int]
    max_length: int
    keeps_end: bool = False

    @classmethod
    def of(cls, tokenizer: Any) -> PairTemplate:
        """Read it off a pair of short texts.

        Raises:
            InputError: the tokenizer mixes the two texts, or reads one otherwise beside another than alone.
        """
        texts = ("a", "b")
        probe = tokenizer(*texts, return_token_type_ids=True)
        read = np.array([probe["input_ids"], probe["token_type_ids"]], dtype=np.int32)
        sides = np.array([-1 if side is None else side for side in probe.sequence_ids(0)])
        first, second = np.flatnonzero(sides == 0), np.flatnonzero(sides == 1)
        alone = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        if [read[0, first].tolist(), read[0, second].tolist()] != alone or first[-1] > second[0]:
            raise InputError(
                f"the tokenizer {type(tokenizer).__name__} reads a text in a pair otherwise than alone; "
                "a cross_encoder student needs one that puts special tokens around the two texts and no more"
            )
        return cls(
            before=read[:, : first[0]],
            between=read[:, first[-1] + 1 : second[0]],
            after=read[:, second[-1] + 1 :],
            types=(int(read[1, first[0]]), int(read[1, second[0]])),
            max_length=int(tokenizer.model_max_length),
            keeps_end=tokenizer.truncation_side == "left",
        )

    def join(self, query: np.ndarray, document: np.ndarray) -> np.ndarray:
        """The pair as the model reads it, ids above and types below: int32 (2, tokens)."""
        room = max(0, self.max_length - sum(part.shape[1] for part in (self.before, self.between, self.after)))
        kept = _kept(len(query), len(document), room)
        texts = [
            np.stack([ids, np.full_like(ids, kind)])
            for ids, kind in zip(map(self._cut, (query, document), kept), self.types, strict=True)
        ]
        return np.concatenate([self.before, texts[0], self.between, texts[1], self.after], axis=1)

    def _cut(self, ids: np.ndarray, length: int) -> np.ndarray:
        return ids[len(ids) - length :] if self.keeps_end else ids[:length]


def _kept(query: int, document: int, room: int) -> tuple[int, int]:
    """How many tokens of each stay, where the longer is cut first and, when both are long, they share the room."""
    if query + document <= room:
        return query, document
    short = min(query, document, room // 2)
    return (short, room - short) if query <= document else (room - short, short)
