"""How many sizes of batches there are, from those of a few parts."""

from __future__ import annotations

import pytest

from retrodistill.encoders.sizes import distinct


@pytest.mark.parametrize(
    ("count", "expected"),
    [(4, 6), (2, 3), (0.5, 2), (10, 6 + 6 * 1.5)],
)
def test_parts_that_are_not_known_bring_what_the_second_half_did(count, expected):
    assert distinct([{1, 2}, {2, 3}, {1, 4}, {5, 6, 1}], count) == expected


def test_nothing_is_made_of_nothing():
    assert distinct([], 5) == 0
