"""What training asks of the transformer behind a student, of whichever kind."""

from __future__ import annotations

from typing import Any

from torch import nn


def set_dropout(model: nn.Module, rate: float) -> None:
    """Have every dropout of a model, that of attention too, drop at one rate."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = rate  # type: ignore[assignment]


def choose_attention(model: Any) -> None:
    """Have a sentence-transformers model compute attention as is fastest in training."""
    encoder = getattr(model[0], "auto_model", model[0])  # a static embedding has none behind it
    short = model.max_seq_length is not None and model.max_seq_length <= 512
    if model.device.type == "cpu" and short and hasattr(encoder, "set_attn_implementation"):
        # torch's fused attention for the CPU is slower than plain products when trained in bf16 on short texts
        encoder.set_attn_implementation("eager")
