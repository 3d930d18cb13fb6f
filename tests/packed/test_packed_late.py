import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from toy_sizes import SIZES, WIDTH
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, ElectraConfig, ElectraModel

from retrodistill.encoders import TOKENS_A_BATCH, MultiEncoder

TEXTS = [
    "storm.", "", "the wind - and the rain of the coast.", "bread " * 100, "a knight takes a bishop", "-.-", "rain",
    "violin and bow and string " * 4, "[PAD] and [MASK]",
]  # fmt: skip
BACKBONES = {
    "bert": lambda words: BertModel(BertConfig(vocab_size=words, **WIDTH)),
    "distilbert": lambda words: DistilBertModel(
        DistilBertConfig(vocab_size=words, dim=32, n_heads=2, n_layers=2, hidden_dim=64, **SIZES)
    ),
    "electra": lambda words: ElectraModel(ElectraConfig(vocab_size=words, embedding_size=32, **WIDTH)),
}
ATTENDED = {"strategy": "fixed", "attend": True, "length": 9}
UNSEEN = {**ATTENDED, "attend": False}


@pytest.fixture
def make(tiny_model, tmp_path):
    """Saves a late-interaction model and opens it, as ours and as sentence-transformers'."""

    def make(backbone="bert", expansion=None, behind=(), precision="fp32", **options):
        torch.manual_seed(0)
        base, folder = tmp_path / "base", tmp_path / "model"
        shutil.copytree(tiny_model, base)
        model = BACKBONES[backbone](len(json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.1)
        model.save_pretrained(base)
        modules = [
            Transformer(str(base), query_expansion=expansion, document_length=24),
            Dense(32, 16, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"),
            MultiVectorMask([".", "-"]),
            Normalize(module_input_name="token_embeddings"),
            *behind,
        ]
        MultiVectorEncoder(modules=modules, device="cpu", **options).save_pretrained(str(folder))
        return MultiEncoder(str(folder), precision=precision, device="cpu"), MultiVectorEncoder(
            str(folder), device="cpu"
        )

    return make


def same(encoder, reference, role, **options):
    encode = reference.encode_query if role == "query" else reference.encode_document
    expected = [encode(text, **options) for text in TEXTS]
    found = encoder.encode(TEXTS, role)
    assert found.lengths.tolist() == [len(vectors) for vectors in expected]
    np.testing.assert_allclose(found.vectors, torch.cat(expected).numpy(), atol=1e-5)


def through_the_library(encoder, monkeypatch):
    """How often a batch is encoded by sentence-transformers."""
    calls, encode = [], MultiEncoder.encode_batch
    monkeypatch.setattr(
        MultiEncoder, "encode_batch", lambda self, texts, role: calls.append(role) or encode(self, texts, role)
    )
    return calls


@pytest.mark.parametrize("backbone", ["bert", "distilbert"])
@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("expansion", [None, ATTENDED])
def test_vectors_are_those_of_sentence_transformers(make, backbone, role, expansion, monkeypatch):
    encoder, reference = make(backbone, expansion)
    monkeypatch.setitem(TOKENS_A_BATCH, "cpu", 60)
    calls = through_the_library(encoder, monkeypatch)
    same(encoder, reference, role)
    assert not calls


def test_masks_that_others_do_not_see_go_through_sentence_transformers(make, monkeypatch):
    encoder, reference = make(expansion=UNSEEN)
    calls = through_the_library(encoder, monkeypatch)
    same(encoder, reference, "document")
    assert not calls
    same(encoder, reference, "query")
    assert set(calls) == {"query"}


def test_prompts(make):
    encoder, reference = make(prompts={"query": "storm ", "document": "bread "})
    same(encoder, reference, "query")
    same(encoder, reference, "document")
    encoder.prompts["query"] = "wind "
    same(encoder, reference, "query", prompt="wind ")


def test_a_length_and_no_text(make):
    encoder, _ = make()
    encoder.model.max_seq_length = encoder.model[0].document_length = 5
    assert encoder.encode(["storm " * 100], "document").lengths.tolist() == [5]
    assert encoder.encode([], "document").vectors.shape == (0, 16)


@pytest.mark.parametrize("expansion", [None, UNSEEN], ids=["without padding", "by the library"])
def test_meanmaxsim_divides_by_how_many_vectors_a_query_has(make, expansion):
    mean, _ = make(similarity_fn_name="meanmaxsim", expansion=expansion)
    assert (mean.packed_for("query") is None) == (expansion is UNSEEN)
    found = mean.encode(TEXTS, "query")
    lengths = np.linalg.norm(found.vectors, axis=1) * np.repeat(found.lengths, found.lengths)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_bf16_is_near(make):
    rough, reference = make(precision="bf16")
    found = rough.encode(TEXTS, "document").vectors
    exact = torch.cat([reference.encode_document(text) for text in TEXTS]).numpy()
    assert rough.packed is not None
    assert 0 < np.abs(found - exact).max() < 0.1


@pytest.mark.parametrize("case", [{"backbone": "electra"}, {"behind": [HierarchicalTokenPooling(2)]}])
def test_what_is_not_known_goes_through_sentence_transformers(make, case):
    encoder, reference = make(**case)
    assert encoder.packed is None
    same(encoder, reference, "document")
