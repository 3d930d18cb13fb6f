"""How many sizes of batches there are, from those of a few parts."""

from __future__ import annotations

import pytest
import torch

from retrodistill.encoders.sizes import distinct, filled, width


@pytest.mark.parametrize(("rows", "expected"), [(0, 0), (1, 64), (64, 64), (65, 128)])
def test_rows_of_zeros_follow_up_to_a_multiple_of_64(rows, expected):
    full = filled(torch.ones(rows, 3))
    assert full.shape == (expected, 3)
    assert full[:rows].eq(1).all()
    assert full[rows:].eq(0).all()


@pytest.mark.parametrize(
    ("longest", "limit", "expected"), [(1, None, 16), (16, None, 16), (17, None, 32), (17, 20, 20), (17, 64, 32)]
)
def test_texts_are_padded_to_a_multiple_of_16_that_the_model_reads(longest, limit, expected):
    assert width(longest, limit) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(4, 6), (2, 3), (0.5, 2), (10, 6 + 6 * 1.5)],
)
def test_parts_that_are_not_known_bring_what_the_second_half_did(count, expected):
    assert distinct([{1, 2}, {2, 3}, {1, 4}, {5, 6, 1}], count) == expected


def test_nothing_is_made_of_nothing():
    assert distinct([], 5) == 0
