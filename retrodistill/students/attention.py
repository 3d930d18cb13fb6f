"""Attention as it is fastest on a CPU in training: plain products, no detour through float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retrodistill.packed.layouts import PLAIN_ATTENTION
from retrodistill.students.dropout import only_kept

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
        weights, scale = only_kept(products.softmax(-1), dropout)
        # the values are fewer than the weights
        return torch.matmul(weights, value * scale).transpose(1, 2).contiguous(), weights
