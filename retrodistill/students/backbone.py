"""What training asks of the transformer behind a student, of whichever kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retrodistill import models
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def check_shape(name: str, *, length: int | None = None, layers: int | Sequence[int] | None = None) -> None:
    """Refuse what a model's configuration shows it has not, before any of its weights are read.

    Args:
        name: the model.
        length: tokens of a text that are asked for.
        layers: how many of its layers are asked for, or which.

    Raises:
        InputError: there are not so many positions or layers.
    """
    path = models.locate(name) / "config.json"
    config = models.read_json(path) if path.is_file() else {}
    positions, depth = config.get("max_position_embeddings"), config.get("num_hidden_layers")
    if length is not None and isinstance(positions, int) and length > positions:
        raise InputError(
            f"max_length: {length} is longer than the {positions} positions of {name!r}; use <= {positions}"
        )
    wanted = layers if isinstance(layers, int) else max(layers or (-1,)) + 1
    if isinstance(depth, int) and wanted > depth:
        said = layers if isinstance(layers, int) else list(layers or ())
        raise InputError(f"layers: {said} asks for more than the {depth} layers of {name!r} (0 to {depth - 1})")


def set_dropout(model: nn.Module, rate: float) -> None:
    """Have every dropout of a model, that of attention too, drop at one rate."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = rate  # type: ignore[assignment]


def choose_attention(model: Any, encoder: Any = None) -> None:
    """Have a sentence-transformers model compute attention as is fastest in training.

    Args:
        model: the model.
        encoder: the transformers model inside it; the first module's where None.
    """
    if encoder is None:
        encoder = getattr(model[0], "auto_model", model[0])  # a static embedding has none behind it
    short = model.max_seq_length is not None and model.max_seq_length <= 512
    if model.device.type == "cpu" and short and hasattr(encoder, "set_attn_implementation"):
        # torch's fused attention for the CPU is slower than plain products when trained in bf16 on short texts
        encoder.set_attn_implementation("eager")
