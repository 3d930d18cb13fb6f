"""Attention and dropout as they are fastest on a CPU in training: plain products, no detour through float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from retrodistill.packed.layouts import PLAIN_ATTENTION

# Families whose attention is that of BERT: a softmax of scaled products, nothing added but a mask.
FAMILIES = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")


def use_plain_attention(encoder: Any) -> None:
    """Have a transformers model attend by plain products: by `plain_attention` if it is of one of the `FAMILIES`."""
    if encoder.config.model_type not in FAMILIES:
        encoder.set_attn_implementation("eager")
        return
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(PLAIN_ATTENTION, plain_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PLAIN_ATTENTION, sdpa_mask)
    encoder.set_attn_implementation(PLAIN_ATTENTION)


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **ignored: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in the precision of its input, as transformers calls it.

    What transformers does itself under autocast, but that weights are not widened to float32 for mask, softmax and
    dropout, to be narrowed again for the product: they are rounded as often, and there are half as many bytes.

    Args:
        module: whose attention it is.
        query: (texts, heads, tokens, width), as `key` and `value`.
        key: what queries are held against.
        value: what is averaged.
        attention_mask: true where a token may be seen, (texts, 1, tokens, tokens); all may where None.
        scaling: of the products; one over the square root of the width where None.
        dropout: the share of weights that is dropped.
        ignored: what else transformers hands on.

    Returns:
        (texts, tokens, heads, width), and the weights, those that are left not scaled up.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):
        products = torch.matmul(query * scaling, key.transpose(2, 3))
        if attention_mask is not None:
            products = products.masked_fill(~attention_mask, torch.finfo(products.dtype).min)
        weights, scale = _dropped(products.softmax(-1), dropout)
        # the values are fewer than the weights
        return torch.matmul(weights, value * scale).transpose(1, 2).contiguous(), weights


class Dropout(nn.Dropout):
    """Dropout whose draws cost an eighth of torch's on a CPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch names it
        """Drop, in training; else nothing."""
        return dropped(input, self.p) if self.training else input


def use_quick_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of torch's, everywhere in a model."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))


def dropped(values: Tensor, rate: float) -> Tensor:
    """Zeros in the place of a share of the values, the others scaled up so that the mean stays.

    Draws are of 16 bits, so the share is `rate` to the nearest 65,536th, and the scale goes by what it is then. They
    follow from torch's generator, by which a resumed run and a second pass over the same texts repeat them.
    """
    kept, scale = _dropped(values, rate)
    return kept * scale if rate else kept


@torch.compiler.disable
def _dropped(values: Tensor, rate: float) -> tuple[Tensor, float]:
    """Zeros in the place of a share of the values, and what the others are still to be multiplied by."""
    if rate == 0:
        return values, 1.0
    levels = 2**16
    cut = min(round(rate * levels), levels - 1)
    return _Dropped.apply(values, cut - levels // 2), levels / (levels - cut)


class _Dropped(torch.autograd.Function):
    """Zeros where a draw of int16 is below `cut`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, cut: int) -> Tensor:
        seed, count = int(torch.randint(2**62, ())), values.numel()
        draws = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16))
        # all bits set where a value is kept: an and with them is the quickest product with zero or one
        kept = torch.ge(draws, cut, out=draws).neg_()[:count].view(values.shape)
        ctx.save_for_backward(kept)
        return _only(values, kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _only(gradient, kept), None


def _only(values: Tensor, kept: Tensor) -> Tensor:
    bits = torch.int16 if values.element_size() == 2 else torch.int32
    return (values.contiguous().view(bits) & kept).view(values.dtype)
