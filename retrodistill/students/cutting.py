"""Cuts layers out of a transformer, as small students are made from large ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retrodistill.errors import InputError

if TYPE_CHECKING:
    from torch import nn

Layers = int | tuple[int, ...]


def checked(layers: Layers | None) -> Layers | None:
    """The same layers, where they can be any model's.

    Raises:
        ValueError: there is none, one is negative, or one stands twice.
    """
    numbers = (layers,) if isinstance(layers, int) else layers
    if numbers is not None and (not numbers or min(numbers) < (1 if isinstance(layers, int) else 0)):
        raise ValueError(f"expected how many layers to keep, or which (from 0), got {layers!r}")
    if isinstance(layers, tuple) and len(set(layers)) < len(layers):
        raise ValueError(f"a layer can be kept once, got {layers!r}")
    return layers


def cut(model: Any, layers: Layers, name: str) -> None:
    """Keep some layers of a transformer, in place; what stands before and behind the stack stays.

    Args:
        model: of transformers, with or without a head.
        layers: how many, spread evenly, or which, from 0.
        name: of the model, for errors.

    Raises:
        InputError: no stack of layers is known in it, it has fewer, or it could not be loaded again without some.
    """
    import torch
    from torch import nn

    base = model if getattr(model, "base_model", None) is None else model.base_model
    owner = next((part for part in (getattr(base, "encoder", None), getattr(base, "transformer", None), base)
                  if part is not None and _stack(part) is not None), None)  # fmt: skip
    attribute = None if owner is None else _stack(owner)
    if owner is None or attribute is None:
        raise InputError(f"model {name!r}: no stack of layers is known in a {type(base).__name__}; leave `layers` out")
    stack: nn.ModuleList = getattr(owner, attribute)
    kept = spread(layers, len(stack)) if isinstance(layers, int) else layers
    if (isinstance(layers, int) and layers > len(stack)) or max(kept) >= len(stack):
        raise InputError(
            f"layers: {layers!r} asks for more than the {len(stack)} layers of {name!r} (0 to {len(stack) - 1})"
        )
    setattr(owner, attribute, nn.ModuleList([stack[number] for number in kept]))
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[number] for number in kept]
    with torch.device("meta"):
        loaded = type(model)(model.config)
    # Some models' first layer is unlike the others (ModernBERT) or holds what all share (T5).
    if loaded.state_dict().keys() != model.state_dict().keys():
        raise InputError(
            f"layers: {layers!r} would not load again: the first layer of {name!r} is unlike the others; keep layer 0"
        )


def spread(count: int, total: int) -> tuple[int, ...]:
    """`count` of `total` layers, the last always among them, the first too when there are two or more."""
    if count == 1:
        return (total - 1,)
    return tuple(round(place * (total - 1) / (count - 1)) for place in range(count))


def _stack(part: nn.Module) -> str | None:
    from torch import nn

    return next(
        (name for name in ("layer", "layers", "block") if isinstance(getattr(part, name, None), nn.ModuleList)), None
    )
