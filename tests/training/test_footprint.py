"""What a training step takes is tried in another process, and grows with the tokens that hold gradients."""

from __future__ import annotations

import pytest

from retrodistill.errors import InputError
from retrodistill.students.dense import DenseStudent
from retrodistill.students.splade import SpladeStudent
from retrodistill.training.footprint import Footprint, measured

TEXTS = ["the wind and the rain of the coast", "bread and yeast " * 20, "chess"]


def test_a_step_is_a_straight_line():
    found = Footprint(model=1_000, token=7, length=100.0)
    assert found.step(50) == 1_350


def test_a_step_is_tried_as_it_would_be_made(tiny_splade):
    found = measured(SpladeStudent(model=str(tiny_splade), max_length=16), TEXTS, "fp32")
    # two layers of 32 and 64 wide in float32 keep some kilobytes a token, not some bytes and not some megabytes
    assert 1_000 < found.token < 200_000
    assert 3 < found.length <= 16
    assert found.model > 0


def test_a_model_that_cannot_be_loaded_is_told(tmp_path):
    with pytest.raises(InputError, match="none"):
        measured(DenseStudent(model=str(tmp_path / "none")), TEXTS, "fp32")
