"""Knows where each architecture keeps its weights, and which models it had better not touch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Layout:
    """Names of the parts of an encoder whose layers normalise behind attention and behind the feed-forward network.

    Attributes:
        layers: the list of layers, below the encoder; the other parts stand below a layer.
        heads: the number of attention heads, in the configuration.
        positions_skip_padding: positions count from behind the padding's, and only tokens that are not padding.
        relative: the part that gives attention a bias by distance, below the encoder, where there is one.
    """

    layers: str
    heads: str
    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    up: str
    activation: str
    down: str
    norm: str
    positions_skip_padding: bool = False
    relative: str | None = None

    def part(self, layer: nn.Module, name: str) -> Any:
        """The part of a layer that this layout calls `name`."""
        return attrgetter(getattr(self, name))(layer)


BERT = Layout(
    layers="encoder.layer",
    heads="num_attention_heads",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    down="output.dense",
    norm="output.LayerNorm",
)
ROBERTA = replace(BERT, positions_skip_padding=True)
DISTILBERT = Layout(
    layers="transformer.layer",
    heads="n_heads",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    activation="ffn.activation",
    down="ffn.lin2",
    norm="output_layer_norm",
)
MPNET = replace(
    ROBERTA,
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    out="attention.attn.o",
    attention_norm="attention.LayerNorm",
    relative="encoder",
)

LAYOUTS = {
    "BertModel": BERT,
    "RobertaModel": ROBERTA,
    "XLMRobertaModel": ROBERTA,
    "CamembertModel": ROBERTA,
    "DistilBertModel": DISTILBERT,
    "MPNetModel": MPNET,
}

# What students attend by while they train: the same products again.
PLAIN_ATTENTION = "retrodistill_plain"
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", PLAIN_ATTENTION)
LINEAR = ("query", "key", "value", "out", "up", "down")
NORMS = ("attention_norm", "norm")
EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")


def layout_of(encoder: Any) -> Layout | None:
    """The layout of an encoder of transformers; None where it is not known to the letter.

    Decoders are refused, and so are encoders that somebody has put adapters, quantised weights or parametrisations
    into: they are of other classes than the plain ones.
    """
    kind = type(encoder)
    layout = LAYOUTS.get(kind.__name__) if kind.__module__.startswith("transformers.models.") else None
    if layout is None or encoder.config._attn_implementation not in ATTENTIONS:
        return None
    if any(getattr(encoder.config, name, False) for name in ("is_decoder", "add_cross_attention")):
        return None
    layers = list(attrgetter(layout.layers)(encoder))
    embeddings = [getattr(encoder.embeddings, name, None) for name in EMBEDDINGS]
    parts: list[tuple[Any, type]] = [(part, nn.Embedding) for part in embeddings if part is not None]
    parts.append((encoder.embeddings.LayerNorm, nn.LayerNorm))
    for layer in layers:
        parts += [(layout.part(layer, name), nn.Linear) for name in LINEAR]
        parts += [(layout.part(layer, name), nn.LayerNorm) for name in NORMS]
    plain = all(type(part) is wanted and getattr(part, "bias", part) is not None for part, wanted in parts)
    return layout if layers and plain else None
