"""The largest logit of each term in texts that lie end to end, on a CPU: nothing is padded, and no logits are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from retrodistill.compiled import compiled
from retrodistill.encoders.sizes import filled
from retrodistill.rounding import largest_error

# Logits at once, and terms at once: what a core's cache holds.
_CELLS, _TERMS = 2**20, 2**10
# The part of all terms up to which picking their weights is faster than multiplying all.
_SIFTED = 1 / 8


def ragged_peaks(hidden: Tensor, lengths: Sequence[int], weight: Tensor, bias: Tensor | None) -> Tensor:
    """The maximum of `hidden @ weight.T + bias` over the tokens of each text.

    Args:
        hidden: of the tokens of one text after the other, (tokens, width), on the CPU.
        lengths: tokens of each text, each at least 1.
        weight: (terms, width), float32 or bfloat16; products are computed in its type.
        bias: (terms,).

    Returns:
        float32 (texts, terms).
    """
    rounded = weight.dtype == torch.bfloat16
    keep = compiled(_keep_rounded if rounded else _keep)
    hidden, counts = filled(hidden.to(weight.dtype)), np.asarray(lengths, dtype=np.int64)
    terms = min(_TERMS, len(weight), max(64, _CELLS // len(hidden)))
    block = hidden.new_empty(len(hidden) * terms)
    values = torch.empty((len(lengths), len(weight)))
    for start in range(0, len(weight), terms):
        some = weight[start : start + terms]
        logits = torch.mm(hidden, some.T, out=block[: len(hidden) * len(some)].view(len(hidden), -1))
        best = logits.new_empty((len(lengths), len(some)))
        if rounded:
            keep(logits.view(torch.int16).numpy(), counts, best.view(torch.int16).numpy())
        else:
            keep(logits.numpy(), counts, best.numpy())
        values[:, start : start + terms] = best
    return values if bias is None else values.add_(bias.float())


class Sieve:
    """Positive maxima in float32, of which products in bfloat16 say beforehand where they can be.

    Of the terms of a SPLADE model few are above zero in a text; the others are zero in the end, whatever they were.

    Args:
        weight: float32 (terms, width), on the CPU.
        bias: float32 (terms,).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.rounded = weight, weight.bfloat16()
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias
        self._limits = self.bias + self.bias.abs() * 2.0**-22  # the addition of a bias is rounded, too
        self._errors = weight.norm(dim=1) * largest_error(weight.shape[1])

    def peaks(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """As `ragged_peaks` in float32 where the maximum is above zero, and zero where it is not."""
        texts = hidden.split(list(lengths))
        longest = torch.stack([text.norm(dim=1).max() for text in texts])
        limits = ragged_peaks(hidden, lengths, self.rounded, self._limits).addr_(longest, self._errors)
        possible = ~(limits <= 0)  # NaN is possible
        values = torch.zeros_like(limits)
        for text, states, some in zip(values, texts, possible, strict=True):
            terms = some.nonzero().squeeze(1)
            if len(terms) > _SIFTED * len(some):
                text.copy_(ragged_peaks(states, [len(states)], self.weight, self.bias)[0])
            else:
                text[terms] = (states @ self.weight[terms].T).amax(0) + self.bias[terms]
        return values.clamp_(min=0)


def _keep(logits: np.ndarray, lengths: np.ndarray, best: np.ndarray) -> None:
    """Row by row, so that as many terms as a register holds are compared at once."""
    token = 0
    for text in range(len(lengths)):
        kept = best[text]
        kept[:] = -np.inf
        for row in range(token, token + lengths[text]):
            found = logits[row]
            for term in range(len(kept)):
                if found[term] > kept[term] or found[term] != found[term]:
                    kept[term] = found[term]
        token += lengths[text]


def _keep_rounded(logits: np.ndarray, lengths: np.ndarray, best: np.ndarray) -> None:
    """As `_keep`, by the bits of bfloat16: turned around where the sign is negative they are in the numbers' order."""
    token, mask = 0, np.int16(0x7FFF)
    for text in range(len(lengths)):
        kept = best[text]
        kept[:] = -32_768
        for row in range(token, token + lengths[text]):
            found = logits[row]
            for term in range(len(kept)):
                sign = np.int16(np.int16(found[term] >> 15) & mask)
                order = np.int16(found[term] ^ sign)
                if order > kept[term]:
                    kept[term] = order
        for term in range(len(kept)):
            sign = np.int16(np.int16(kept[term] >> 15) & mask)
            kept[term] = np.int16(kept[term] ^ sign)
        token += lengths[text]
