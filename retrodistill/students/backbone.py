"""What training asks of the transformer behind a student, of whichever kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrodistill import models
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def check_shape(
    name: str,
    *,
    lengths: Mapping[str, int | None] | None = None,
    layers: int | Sequence[int] | None = None,
) -> None:
    """Refuse what a model's configuration shows it has not, before any of its weights are read.

    Args:
        name: the model.
        lengths: tokens of a text that are asked for, by the option that asks for them.
        layers: how many of its layers are asked for, or which.

    Raises:
        InputError: there are not so many positions or layers.
    """
    config = _config(name)
    positions, depth = config.get("max_position_embeddings"), config.get("num_hidden_layers")
    for option, length in (lengths or {}).items():
        if length is not None and isinstance(positions, int) and length > positions:
            raise InputError(
                f"{option}: {length} is longer than the {positions} positions of {name!r}; use <= {positions}"
            )
    wanted = layers if isinstance(layers, int) else max(layers or (-1,)) + 1
    if isinstance(depth, int) and wanted > depth:
        said = layers if isinstance(layers, int) else list(layers or ())
        raise InputError(f"layers: {said} asks for more than the {depth} layers of {name!r} (0 to {depth - 1})")


def check_dimensions(name: str, dimensions: Sequence[int]) -> None:
    """Refuse shorter vectors that would be longer, where a model's files show how long its vectors are.

    Raises:
        InputError: one is.
    """
    folder = models.locate(name)
    # those of modules.json stand in folders that begin with their place: 1_Pooling, 2_Dense
    widths = [_width(models.read_json(path)) for path in sorted(folder.glob("[0-9]*_*/config.json"))]
    width = next((found for found in reversed(widths) if found), _config(name).get("hidden_size"))
    if isinstance(width, int) and max(dimensions, default=0) > width:
        raise InputError(f"dimensions: {list(dimensions)} are wider than the {width} of {name!r}")


def _width(module: dict[str, Any]) -> int:
    """Of the vectors that a module of sentence-transformers makes, 0 where it leaves them as they are."""
    if "out_features" in module:
        return int(module["out_features"])
    modes = module.get("pooling_mode", [name for name, on in module.items() if name.startswith("pooling_mode_") and on])
    tokens = int(module.get("embedding_dimension", module.get("word_embedding_dimension", 0)))
    return tokens * (1 if isinstance(modes, str) else len(modes))


def _config(name: str) -> dict[str, Any]:
    path = models.locate(name) / "config.json"
    return models.read_json(path) if path.is_file() else {}


def set_dropout(model: nn.Module, rate: float) -> None:
    """Have every dropout of a model, that of attention too, drop at one rate."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
            continue
        for name in ("attention_dropout", "dropout"):  # the latter is T5's
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rate)


def quicken(model: Any, encoder: Any = None) -> None:
    """Have a sentence-transformers model compute attention and dropout as is fastest in training.

    Args:
        model: the model.
        encoder: the transformers model inside it; the first module's where None.
    """
    from retrodistill.students.attention import use_plain_attention
    from retrodistill.students.dropout import use_quick_dropout

    if encoder is None:
        encoder = getattr(model[0], "auto_model", model[0])  # a static embedding has none behind it
    if model.device.type != "cpu":
        return
    use_quick_dropout(model)
    if hasattr(encoder, "get_input_embeddings"):
        encoder.get_input_embeddings().sparse = True
    short = model.max_seq_length is not None and model.max_seq_length <= 512
    if short and hasattr(encoder, "set_attn_implementation"):
        # torch's fused attention for the CPU is slower than plain products when trained in bf16 on short texts
        use_plain_attention(encoder)


def ready_for_sparse_gradients(model: Any) -> None:
    """Give embeddings whose gradients are sparse a dense one of zeros, where they have none yet.

    torch adds the words of a few texts to it where it is; a dense gradient of all words it would make, fill and add
    for each few texts. And no optimizer of dense weights takes a sparse gradient.
    """
    import torch

    for module in model.modules():
        if not isinstance(module, torch.nn.Embedding) or not module.sparse:
            continue
        if module.weight.requires_grad and module.weight.grad is None:
            module.weight.grad = torch.zeros_like(module.weight)
