"""Runs a transformer encoder on texts laid end to end: no padding is computed, and nothing that no head reads.

In float32 equal to the padded forward of transformers up to rounding. What makes it faster: no padding; queries, keys
and values in one product; and the last layer for first tokens only, where a head reads only those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrodistill.encoders.sizes import filled
from retrodistill.packed.layouts import Layout, layout_of

if TYPE_CHECKING:
    from retrodistill.encoders import Precision

Product = Callable[[Tensor], Tensor]

# The number of tokens that packed weights are laid out for; any other number is right too.
USUAL_TOKENS = 1_024


class Run(NamedTuple):
    """Texts of one length that lie next to each other: attention reads them as one tensor without padding.

    Attributes:
        texts: which texts they are, in the order in which they lie.
        tokens: which tokens are theirs.
        length: tokens of each text.
    """

    texts: slice
    tokens: slice
    length: int


class PackedEncoder:
    """A transformer encoder for inference on texts of any lengths, without padding.

    It takes the weights when it is made: make another one after they have changed. In float32 it copies those of
    queries, keys and values and looks at the others where they are; in bfloat16, and where oneDNN wants weights in a
    layout of its own, it copies those of all products.

    Attributes:
        width: length of a hidden state.
    """

    @torch.inference_mode()
    def __init__(self, encoder: Any, layout: Layout, precision: Precision) -> None:
        """Take the weights of an encoder that has this layout; `of` finds the layout."""
        embeddings = encoder.embeddings
        self.device = embeddings.word_embeddings.weight.device
        self.words, self.positions = (_taken(e) for e in (embeddings.word_embeddings, embeddings.position_embeddings))
        types = getattr(embeddings, "token_type_embeddings", None)
        self.types = None if types is None else _taken(types)
        self.norm = _norm(embeddings.LayerNorm)
        self.width = self.words.shape[1]
        self.padding = embeddings.word_embeddings.padding_idx if layout.positions_skip_padding else None
        self.relative = None if layout.relative is None else attrgetter(layout.relative)(encoder)
        heads = getattr(encoder.config, layout.heads)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.layers = [_Layer(layer, layout, heads, dtype) for layer in attrgetter(layout.layers)(encoder)]

    @classmethod
    def of(cls, model: nn.Module, precision: Precision = "fp32") -> PackedEncoder | None:
        """The packed form of an encoder, or of the encoder below a head; None where it is not known to be equal.

        Args:
            model: a model of transformers.
            precision: `bf16` computes matrix products and attention in bfloat16, norms and sums in float32.
        """
        encoder = getattr(model, "base_model", model)
        layout = layout_of(encoder)
        return None if layout is None else cls(encoder, layout, precision)

    @torch.inference_mode()
    def hidden(
        self,
        tokens: Sequence[np.ndarray],
        types: Sequence[np.ndarray] | None = None,
        last_layer: Literal["all", "first"] = "all",
    ) -> Tensor:
        """Hidden states of the last layer, float32, text by text in the order given.

        Memory grows with the tokens of a call: keep to a budget, and texts of equal length together.

        Args:
            tokens: token ids of each text, special tokens included; at least one a text.
            types: segment of each token; all in the first where None.
            last_layer: `first` computes the last layer for the first token of each text only.

        Returns:
            Shape (tokens, width); (texts, width) where `last_layer` is `first`.
        """
        lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
        if not len(lengths) or not lengths.all():
            raise ValueError(f"expected texts of one token or more, got lengths {lengths.tolist()}")
        order = np.argsort(-lengths, kind="stable")
        runs = _runs(lengths[order])
        states = filled(
            self._embedded([tokens[text] for text in order], None if types is None else [types[text] for text in order])
        )
        bias = None
        if self.relative is not None:  # depends on distances only: a shorter text's is a corner of the longest's
            bias = self.relative.compute_position_bias(states[None, : lengths.max()])
        for layer in self.layers[:-1]:
            states = layer(states, runs, bias)
        states = self.layers[-1](states, runs, bias, first=last_layer == "first")
        back = np.argsort(order)
        if last_layer == "first":
            return states[torch.from_numpy(back).to(self.device)]
        texts = states[: lengths.sum()].split(lengths[order].tolist())
        return torch.cat([texts[place] for place in back])

    def _embedded(self, tokens: list[np.ndarray], types: list[np.ndarray] | None) -> Tensor:
        ids = self._tensor(tokens)
        states = F.embedding(ids, self.words)
        if self.types is not None:
            states += self.types[0] if types is None else F.embedding(self._tensor(types), self.types)
        states += F.embedding(self._tensor([self._places(text) for text in tokens]), self.positions)
        return self.norm(states)

    def _places(self, ids: np.ndarray) -> np.ndarray:
        if self.padding is None:
            return np.arange(len(ids))
        real = ids != self.padding  # a text may well spell out the padding token
        return np.cumsum(real) * real + self.padding

    def _tensor(self, parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False)).to(self.device)


class _Layer:
    """A layer of the encoder, its weights made ready: queries, keys and values are one product."""

    def __init__(self, layer: nn.Module, layout: Layout, heads: int, dtype: torch.dtype) -> None:
        joined = [layout.part(layer, name) for name in ("query", "key", "value")]
        self.weight = torch.cat([each.weight for each in joined])
        self.bias = torch.cat([each.bias for each in joined])
        self.query_key_value = _product(self.weight, self.bias, dtype)
        out, up, down = (layout.part(layer, name) for name in ("out", "up", "down"))
        self.out, self.down = (_product(part.weight, part.bias, dtype) for part in (out, down))
        self.up = _product(up.weight, up.bias, dtype, layout.part(layer, "activation"))
        self.attention_norm, self.norm = (_norm(layout.part(layer, name)) for name in ("attention_norm", "norm"))
        self.heads, self.dtype, self.width = heads, dtype, joined[0].out_features

    @cached_property
    def query(self) -> Product:
        """Queries alone, for the first tokens of a last layer."""
        return _product(self.weight[: self.width], self.bias[: self.width], self.dtype)

    @cached_property
    def key_value(self) -> Product:
        """What those first tokens read."""
        return _product(self.weight[self.width :], self.bias[self.width :], self.dtype)

    def __call__(self, states: Tensor, runs: list[Run], bias: Tensor | None, first: bool = False) -> Tensor:
        """What the layer makes of the states: of all, or of each text's first."""
        if first:
            starts = torch.tensor([s for run in runs for s in range(run.tokens.start, run.tokens.stop, run.length)])
            keys_values = self.key_value(states)
            states = filled(states[starts.to(states.device)])
            queries = self.query(states)
        else:
            queries, keys_values = self.query_key_value(states).split([self.width, 2 * self.width], dim=1)
        read = self._attended(queries, keys_values, runs, bias, first)
        states = self.attention_norm(states + self.out(read))
        return self.norm(states + self.down(self.up(states)))

    def _attended(
        self, queries: Tensor, keys_values: Tensor, runs: list[Run], bias: Tensor | None, first: bool
    ) -> Tensor:
        read = []
        for run in runs:
            texts, asking = run.texts.stop - run.texts.start, 1 if first else run.length
            query = queries[run.texts if first else run.tokens].view(texts, asking, self.heads, -1).transpose(1, 2)
            key, value = keys_values[run.tokens].view(texts, run.length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
            mask = None if bias is None else bias[..., :asking, : run.length].to(query.dtype)
            found = F.scaled_dot_product_attention(query, key, value, mask)
            read.append(found.transpose(1, 2).reshape(texts * asking, -1))
        return filled(torch.cat(read))


def _runs(lengths: np.ndarray) -> list[Run]:
    runs, text, token = [], 0, 0
    for length, group in groupby(lengths.tolist()):
        texts = len(list(group))
        runs.append(Run(slice(text, text + texts), slice(token, token + texts * length), length))
        text, token = text + texts, token + texts * length
    return runs


def _taken(module: nn.Embedding | nn.LayerNorm) -> Tensor:
    return module.weight.detach().float()


def _norm(norm: nn.LayerNorm) -> Product:
    weight, bias = _taken(norm), norm.bias.detach().float()
    return lambda states: F.layer_norm(states, weight.shape, weight, bias, norm.eps)


def _product(weight: Tensor, bias: Tensor, dtype: torch.dtype, activation: Product | None = None) -> Product:
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
    if weight.device.type == "cpu" and onednn_is_faster():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, USUAL_TOKENS)
        # GELU while the product is in the cache takes a third of the time, and gives the same bits in float32.
        within, algorithm = ("gelu", "none") if _is_gelu(activation) else ("none", "")
        activation = None if within == "gelu" else activation

        def product(states: Tensor) -> Tensor:
            return torch.ops.mkldnn._linear_pointwise(states.to(dtype), packed, bias, within, [], algorithm)
    else:

        def product(states: Tensor) -> Tensor:
            return F.linear(states.to(dtype), weight, bias)

    return product if activation is None else lambda states: activation(product(states))


def _is_gelu(activation: Product | None) -> bool:
    """Whether it is the exact one, with the error function."""
    return getattr(activation, "act", activation) is F.gelu


def onednn_is_faster() -> bool:
    """Whether products go to oneDNN with packed weights instead of to torch's choice (MKL in float32).

    On AVX2 it is slower: 80 against 90 GFLOP/s of a Zen 3 core, and its fused GELU slower still. On AVX-512 it was
    faster: 470 against 210 GFLOP/s of two Zen 5 cores. A rule decides and no stopwatch, so that an encoding that is
    resumed computes the bits that it would have computed.
    """
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
