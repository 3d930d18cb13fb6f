"""What a training step takes grows with the tokens that hold gradients; bi-encoders and cross-encoders are tried."""

from __future__ import annotations

import pytest

from retrodistill.errors import InputError
from retrodistill.losses.contrastive import InfoNCE
from retrodistill.memory import resident
from retrodistill.students.cross_encoder import CrossEncoderStudent
from retrodistill.students.dense import DenseStudent
from retrodistill.training.footprint import Footprint, tried
from retrodistill.training.options import TrainOptions

QUERIES = ["wind and rain", "yeast"]
TEXTS = ["the wind and the rain of the coast", "bread and yeast " * 20, "chess"]


def test_a_step_is_a_straight_line():
    assert Footprint(held=1_000, token=7, query=100.0).step(50) == 1_350


def test_a_batch_is_as_long_as_a_long_one_and_held_as_it_is_computed():
    within = Footprint(held=0, token=1, query=100.0, deviation=10.0)
    assert within.tokens(4, 10_000) == 4 * 100 + 3 * 10 * 2
    assert within.tokens(4, 300) == 300  # in groups of queries, each as large as it may be
    across = Footprint(held=0, token=1, query=100.0, deviation=10.0, chunk=64)
    assert across.tokens(4, 460) == 460  # held whole
    assert across.tokens(4, 459) == 64  # through the gradient cache


def test_sizes_that_are_kept_are_those_that_are_met():
    found = Footprint(held=0, token=1, query=1.0, size=10, sizes=4, tried=1, met=({1}, {2}))
    assert [found.kept(steps) for steps in (1, 2, 3, 50)] == [0, 10, 20, 30]


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
    options = TrainOptions(documents=4, precision="fp32", max_tokens=100)
    before = resident()
    found = tried(DenseStudent(model=wide), [InfoNCE()], options, QUERIES, TEXTS)
    # four layers that keep some 20 numbers of 128 and 3 of 512 a token, 4 bytes each
    assert 20_000 < found.token < 500_000
    # a query of at least three tokens, and four documents of at most sixteen
    assert 4 * 3 + 3 <= found.query <= 4 * 16 + 16
    assert found.held > 0.5 * before
    assert found.chunk == 100  # other queries' documents are negatives, and so much holds gradients at once


def test_a_cross_encoder_is_tried_in_pairs(tiny_cross_encoder):
    student, loss = CrossEncoderStudent(model=str(tiny_cross_encoder)), InfoNCE(in_batch_negatives=False)
    found = tried(student, [loss], TrainOptions(documents=3, precision="fp32"), QUERIES, TEXTS)
    # three pairs a query, each with its own [CLS] and two [SEP]
    assert 3 * (3 + 1 + 1) <= found.query <= 3 * 64
    assert found.chunk == 0 and found.held > 0


def test_a_model_that_cannot_be_loaded_is_told(tmp_path):
    with pytest.raises(InputError, match="none"):
        tried(DenseStudent(model=str(tmp_path / "none")), [InfoNCE()], TrainOptions(), QUERIES, TEXTS)
