"""Term weights of texts from a SPLADE model, its transformer run without padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from retrodistill.encoders.common import autocast
from retrodistill.encoders.sizes import filled
from retrodistill.encoders.splade_head import fused, pooled, saturated
from retrodistill.encoders.splade_peaks import Sieve, ragged_peaks
from retrodistill.packed.encoder import PackedEncoder
from retrodistill.packed.texts import reads_plain_text, tokens_of
from retrodistill.packed.tokens import Tokens
from retrodistill.rounding import is_quicker

if TYPE_CHECKING:
    from retrodistill.encoders import Precision, Role


def _of_roberta(model: Any) -> nn.Module:
    return nn.Sequential(model.lm_head.dense, nn.GELU(), model.lm_head.layer_norm)


def _of_distilbert(model: Any) -> nn.Module:
    return nn.Sequential(model.vocab_transform, model.activation, model.vocab_layer_norm)


# What stands between a masked language model's hidden states and its projection to terms.
_TRANSFORMS: Mapping[str, Callable[[Any], nn.Module]] = {
    "BertForMaskedLM": lambda model: model.cls.predictions.transform,
    "RobertaForMaskedLM": _of_roberta,
    "XLMRobertaForMaskedLM": _of_roberta,
    "CamembertForMaskedLM": _of_roberta,
    "MPNetForMaskedLM": _of_roberta,
    "DistilBertForMaskedLM": _of_distilbert,
}


class PackedTerms:
    """A SparseEncoder of a masked language model and a pooling over tokens."""

    def __init__(self, model: Any, encoder: PackedEncoder, precision: Precision) -> None:
        self.model, self.encoder, self.precision = model, encoder, precision
        transformer, self.pooling = model.children()
        network = transformer.model
        self.transform = _TRANSFORMS[type(network).__name__](network)
        projection = network.get_output_embeddings()
        self.weight, self.bias = projection.weight.detach(), projection.bias
        self.sieve: Sieve | None = None
        if precision == "bf16":  # once, and not for every batch
            self.weight = self.weight.bfloat16()
        elif not self.weight.is_cuda and self.weight.dtype == torch.float32 and is_quicker():
            self.sieve = Sieve(self.weight, self.bias if self.bias is None else self.bias.detach())

    @classmethod
    def of(cls, model: Any, precision: Precision = "fp32") -> PackedTerms | None:
        """The packed form of a SparseEncoder with fused heads; None where it is not known to give the same weights."""
        modules = list(model.children())
        if [type(module) for module in modules] != [Transformer, SpladePooling] or not fused(modules[1]):
            return None
        network = modules[0].model
        if type(network).__name__ not in _TRANSFORMS or not reads_plain_text(modules[0], "token_embeddings"):
            return None
        encoder = PackedEncoder.of(network, precision)
        return None if encoder is None else cls(model, encoder, precision)

    def tokens(self, texts: Sequence[str], role: Role, prompt: str | None) -> Tokens:
        """Tokens of texts behind a prompt: this one, or the model's own for the role where None."""
        return tokens_of(self.model, texts, role, prompt)

    @torch.inference_mode()
    def weights(self, tokens: Tokens) -> Tensor:
        """The weight of each term in each text, float32, shape (texts, terms)."""
        hidden = self.encoder.hidden(tokens.ids, tokens.types)
        logs = fused(self.pooling)
        with autocast(str(hidden.device), self.precision):
            states = self.transform(filled(hidden))[: len(hidden)]
            if self.pooling.pooling_strategy == "max" and not states.is_cuda:
                return saturated(self._peaks(states, tokens.lengths), logs)
            texts = states.split(tokens.lengths)
            mask = pad_sequence([text.new_ones(len(text)) for text in texts], batch_first=True)
            padded = pad_sequence(list(texts), batch_first=True)
            return pooled(padded, mask, self.weight, self.bias, self.pooling.pooling_strategy, logs)

    def _peaks(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        if self.sieve is not None:
            return self.sieve.peaks(states, lengths)
        return ragged_peaks(states, lengths, self.weight, self.bias)
