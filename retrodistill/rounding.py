"""Products of vectors rounded to bfloat16: on some processors many times as fast as float32's, off by a known bound.

What the bound rules out need not be multiplied again; of all else the float32 product decides.
"""

from __future__ import annotations

# bfloat16 keeps 8 bits: a half of the last one is 2^-9 of a value, once for each vector and once for the product.
# Each addition of float32 may be off by 2^-24, in either of the two products.
_THREE_ROUNDINGS, _A_SUM = 3.1 * 2.0**-9, 2.0**-22


def largest_error(width: int) -> float:
    """How far a rounded product of two vectors of `width` numbers can be off, as a part of their lengths' product."""
    return _THREE_ROUNDINGS + error_of_sums(width)


def error_of_sums(width: int) -> float:
    """How far two products of the same two vectors in float32 can be apart, as a part of their lengths' product."""
    return width * _A_SUM


def is_quicker() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32."""
    import torch

    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
