"""Dropout in one pass over its values: what is dropped follows from a seed and a place, and need not be kept.

torch draws 170 million Bernoulli numbers a second on a core, and holds a mask for the way back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from retrodistill.compiled import compiled, in_parts

_LEVELS = 2**16
# Words from which on a second thread pays.
_MANY = 2**16


class Dropout(nn.Dropout):
    """Dropout that takes little longer on a CPU than a copy."""

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

    Args:
        values: floating point numbers of 2 or 4 bytes, on the CPU.
        rate: the share, 0 to 1.
    """
    kept, scale = only_kept(values, rate)
    return kept * scale if rate else kept


@torch.compiler.disable
def only_kept(values: Tensor, rate: float) -> tuple[Tensor, float]:
    """As `dropped`, but not scaled yet: what is left, and what it is still to be multiplied by."""
    if rate == 0:
        return values, 1.0
    cut = min(round(rate * _LEVELS), _LEVELS - 1)
    return _Dropped.apply(values, cut), _LEVELS / (_LEVELS - cut)


class _Dropped(torch.autograd.Function):
    """Zeros where a draw is below `cut`; the same again on the way back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, cut: int) -> Tensor:
        ctx.seed, ctx.cut = int(torch.randint(2**62, ())), cut
        return _zeroed(values, ctx.seed, cut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _zeroed(gradient, ctx.seed, ctx.cut), None


def _zeroed(values: Tensor, seed: int, cut: int) -> Tensor:
    """A copy with zeros; two values of 2 bytes lie in a word, and have a half of its draw each."""
    flat, size = values.detach().reshape(-1), values.element_size()
    odd = len(flat) * size % 4
    if odd:
        flat = torch.cat([flat, flat[-1:]])
    elif flat.storage_offset() * size % 4:  # a part of other values that begins in the middle of a word
        flat = flat.clone()
    left = torch.empty_like(flat)
    source, target = (tensor.view(torch.int32).numpy().view(np.uint32) for tensor in (flat, left))
    zero = compiled(_zero_halves if size == 2 else _zero_words, _draw)
    keys = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)

    def work(part: slice) -> None:
        zero(source[part], np.uint32(part.start), *keys, np.uint32(cut), target[part])

    if len(source) < _MANY:
        work(slice(0, len(source)))
    else:
        in_parts(work, len(source))
    return (left[:-1] if odd else left).view(values.shape)


def _draw(place: np.uint32, first: np.uint32, second: np.uint32) -> np.uint32:
    """32 bits for a place and two keys: multiplications and shifts after which each bit depends on all others.

    Products are cut back to 32 bits one by one, so that a register holds many.
    """
    draw = np.uint32(np.uint32(place * np.uint32(0x9E3779B1)) + first)
    draw = np.uint32(np.uint32(draw ^ np.uint32(draw >> np.uint32(16))) * np.uint32(0x21F0AAAD))
    draw = np.uint32(draw ^ second)
    draw = np.uint32(np.uint32(draw ^ np.uint32(draw >> np.uint32(16))) * np.uint32(0x21F0AAAD))
    draw = np.uint32(np.uint32(draw ^ np.uint32(draw >> np.uint32(15))) * np.uint32(0x735A2D97))
    return np.uint32(draw ^ np.uint32(draw >> np.uint32(15)))


def _zero_words(
    source: np.ndarray, start: np.uint32, first: np.uint32, second: np.uint32, cut: np.uint32, target: np.ndarray
) -> None:
    least = np.uint32(cut << np.uint32(16))
    for place in range(len(source)):
        draw = _draw(np.uint32(start + np.uint32(place)), first, second)
        target[place] = source[place] if draw >= least else np.uint32(0)


def _zero_halves(
    source: np.ndarray, start: np.uint32, first: np.uint32, second: np.uint32, cut: np.uint32, target: np.ndarray
) -> None:
    least, low = np.uint32(cut << np.uint32(16)), np.uint32(0xFFFF)
    for place in range(len(source)):
        draw = _draw(np.uint32(start + np.uint32(place)), first, second)
        upper = np.uint32(0xFFFF0000) if draw >= least else np.uint32(0)
        lower = low if np.uint32(draw & low) >= cut else np.uint32(0)
        target[place] = source[place] & np.uint32(upper | lower)
