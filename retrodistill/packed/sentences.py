"""One vector a text from a SentenceTransformer, its transformer run without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch import Tensor

from retrodistill.packed.encoder import PackedEncoder
from retrodistill.packed.texts import reads_plain_text, tokens_of
from retrodistill.packed.tokens import Tokens

if TYPE_CHECKING:
    from retrodistill.encoders import Precision, Role


class PackedSentences:
    """A SentenceTransformer of a transformer, a pooling and what turns one vector into another."""

    def __init__(self, model: Any, encoder: PackedEncoder) -> None:
        self.model, self.encoder = model, encoder
        _, self.pooling, *self.behind = model.children()

    @classmethod
    def of(cls, model: Any, precision: Precision = "fp32") -> PackedSentences | None:
        """The packed form of a SentenceTransformer; None where it is not known to give the same vectors."""
        modules = list(model.children())
        if [type(module) for module in modules[:2]] != [Transformer, Pooling] or not modules[1].include_prompt:
            return None
        if any(
            type(module) not in (Dense, Normalize)
            or module.module_input_name != "sentence_embedding"
            or module.module_output_name != "sentence_embedding"
            for module in modules[2:]
        ):
            return None
        if not reads_plain_text(modules[0], "token_embeddings"):
            return None
        encoder = PackedEncoder.of(modules[0].model, precision)
        return None if encoder is None else cls(model, encoder)

    def tokens(self, texts: Sequence[str], role: Role, prompt: str | None) -> Tokens:
        """Tokens of texts behind a prompt: this one, or the model's own for the role where None."""
        return tokens_of(self.model, texts, role, prompt)

    @torch.inference_mode()
    def vectors(self, tokens: Tokens, normalize: bool) -> Tensor:
        """Vectors of texts, shape (texts, dimensions), of unit length where `normalize`."""
        lengths = torch.tensor([0, *tokens.lengths])
        reads_first = self.pooling.pooling_mode == "cls"
        states = self.encoder.hidden(tokens.ids, tokens.types, "first" if reads_first else "all")
        if reads_first:  # to the pooling, texts of one token
            lengths[1:] = 1
        # the keys under which sentence-transformers hands on what FlashAttention computed without padding
        features = {"token_embeddings": states[None], "cu_seq_lens_q": lengths.cumsum(0).to(states.device)}
        for module in (self.pooling, *self.behind):
            features = module(features)
        vectors = features["sentence_embedding"][:, : self.model.truncate_dim]
        return torch.nn.functional.normalize(vectors, dim=1) if normalize else vectors
