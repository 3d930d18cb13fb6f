"""What a training step takes is tried in another process, and grows with the tokens that hold gradients."""

from __future__ import annotations

import numpy as np
import pytest

from retrodistill.errors import InputError
from retrodistill.students.dense import DenseStudent
from retrodistill.training.footprint import Footprint, measured

TEXTS = ["the wind and the rain of the coast", "bread and yeast " * 20, "chess"]


def test_a_step_is_a_straight_line():
    found = Footprint(model=1_000, token=7, length=100.0)
    assert found.step(50) == 1_350


@pytest.fixture
def wide(tiny_model, tmp_path):
    """Wide enough for what its tokens leave to stand out from what the allocator keeps anyway."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoConfig, AutoTokenizer, BertModel

    config = AutoConfig.from_pretrained(tiny_model)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 128, 512, 4
    BertModel(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "base")
    modules = [Transformer(str(tmp_path / "base"), max_seq_length=16), Pooling(128, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "wide"))
    return str(tmp_path / "wide")


def test_a_step_is_tried_as_it_would_be_made(wide):
    held = np.ones(150_000_000)  # what this process holds says nothing of the one that tries
    found = measured(DenseStudent(model=wide), TEXTS, "fp32")
    assert held[-1] == 1
    # four layers that keep some 20 numbers of 128 and 3 of 512 a token, 4 bytes each
    assert 20_000 < found.token < 500_000
    assert 3 < found.length <= 16


def test_a_model_that_cannot_be_loaded_is_told(tmp_path):
    with pytest.raises(InputError, match="none"):
        measured(DenseStudent(model=str(tmp_path / "none")), TEXTS, "fp32")
