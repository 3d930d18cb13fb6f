"""Vectors of tokens from a late-interaction model, its transformer run without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import Tensor

from retrodistill.encoders.common import autocast
from retrodistill.encoders.sizes import filled
from retrodistill.encoders.tokens import tokenize
from retrodistill.packed.encoder import PackedEncoder
from retrodistill.packed.tokens import Tokens

if TYPE_CHECKING:
    from retrodistill.encoders import Precision, Role


class PackedTokenVectors:
    """A MultiVectorEncoder of a transformer and of what treats every token by itself."""

    def __init__(self, model: Any, encoder: PackedEncoder, precision: Precision) -> None:
        self.model, self.encoder, self.precision = model, encoder, precision
        self.transformer, *self.behind = model.children()

    @classmethod
    def of(cls, model: Any, precision: Precision = "fp32") -> PackedTokenVectors | None:
        """The packed form of a MultiVectorEncoder; None where it is not known to give the same vectors."""
        first, *behind = model.children()
        if type(first) is not Transformer or any(
            type(module) not in (Dense, Normalize, MultiVectorMask) for module in behind
        ):
            return None
        if not _runs_plainly(first) or not all(map(_is_of_tokens, behind)):
            return None
        encoder = PackedEncoder.of(first.model, precision)
        return None if encoder is None else cls(model, encoder, precision)

    def reads(self, role: Role) -> bool:
        """Whether every token of a text sees all others, as [MASK]s that fill a query up need not."""
        expansion = self.transformer.query_expansion
        return role == "document" or expansion is None or bool(expansion["attend"])

    def tokens(self, texts: Sequence[str], role: Role, prompt: str | None) -> Tokens:
        """As `tokenize` has them, but for what expands a query: here others see it like any token."""
        read = tokenize(self.model, texts, role, prompt)
        return Tokens([np.where(ids < 0, ~ids, ids) for ids in read], None)

    @torch.inference_mode()
    def vectors(self, tokens: Tokens, role: Role) -> tuple[Tensor, Tensor]:
        """Vectors of the tokens that count.

        Args:
            tokens: of each text; their segments are not read.
            role: whose tokens count.

        Returns:
            Vectors, float32 (vectors, dimensions), text by text; and how many each text has, int64 (texts,).
        """
        states = filled(self.encoder.hidden(tokens.ids))
        ids = torch.zeros(len(states), dtype=torch.int64)
        ids[: sum(tokens.lengths)] = torch.from_numpy(np.concatenate(tokens.ids).astype(np.int64))
        real = torch.arange(len(ids)) < sum(tokens.lengths)
        # to what treats every token by itself, all texts are one
        read = {"token_embeddings": states[None]}
        read |= {"input_ids": ids[None].to(states.device), "attention_mask": real.long()[None].to(states.device)}
        with autocast(states.device.type, self.precision):
            for module in self.behind:
                read = module(read, task=role) if isinstance(module, MultiVectorMask) else module(read)
        counts = read["attention_mask"][0].bool()
        lengths = torch.stack([text.sum() for text in counts[: sum(tokens.lengths)].split(tokens.lengths)])
        return read["token_embeddings"][0][counts].float(), lengths


def _is_of_tokens(module: Any) -> bool:
    return isinstance(module, MultiVectorMask) or (
        module.module_input_name == module.module_output_name == "token_embeddings"
    )


def _runs_plainly(transformer: Any) -> bool:
    """Whether a module of sentence-transformers calls its model's forward on token ids, padded on the right."""
    return (
        transformer.backend == "torch"
        and transformer.module_output_name == "token_embeddings"
        and transformer.modality_config.get("text") == {"method": "forward", "method_output_name": "last_hidden_state"}
        and getattr(transformer.tokenizer, "padding_side", None) == "right"
        and bool(transformer.tokenizer("")["input_ids"])
    )
