import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer
from toy_sizes import SIZES, TEXTS, WIDTH
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from retrodistill.encoders import TOKENS_A_BATCH, SpladeEncoder
from retrodistill.packed.terms import PackedTerms

MODELS = {
    "bert": lambda words: BertForMaskedLM(BertConfig(vocab_size=words, **WIDTH)),
    "roberta": lambda words: RobertaForMaskedLM(RobertaConfig(vocab_size=words, **WIDTH)),
    "mpnet": lambda words: MPNetForMaskedLM(MPNetConfig(vocab_size=words, **WIDTH)),
    "distilbert": lambda words: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=words, dim=32, n_heads=2, n_layers=2, hidden_dim=64, **SIZES)
    ),
    "electra": lambda words: ElectraForMaskedLM(ElectraConfig(vocab_size=words, embedding_size=32, **WIDTH)),
}


@pytest.fixture
def make(tiny_splade, tmp_path):
    """Saves a SPLADE of the given kind, and opens it as sentence-transformers does."""

    def make(kind="bert", pooling="max", activation="relu", **options):
        torch.manual_seed(0)
        base, folder = tmp_path / "base", tmp_path / "model"
        shutil.copytree(tiny_splade, base)
        model = MODELS[kind](len(json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.1)
            model.get_output_embeddings().bias.sub_(0.5)
        model.save_pretrained(base)
        modules = [
            Transformer(str(base), max_seq_length=48, transformer_task="fill-mask"),
            SpladePooling(pooling, activation_function=activation),
        ]
        SparseEncoder(modules=modules, device="cpu", **options).save_pretrained(str(folder))
        return str(folder), SparseEncoder(str(folder), device="cpu")

    return make


def dense(vectors):
    block = np.zeros((len(vectors), vectors.dimensions), dtype=np.float32)
    block[np.repeat(np.arange(len(vectors)), vectors.lengths), vectors.terms] = vectors.weights
    return block


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "distilbert"])
@pytest.mark.parametrize(("pooling", "activation"), [("max", "relu"), ("sum", "relu"), ("max", "log1p_relu")])
def test_weights_are_those_of_sentence_transformers(make, kind, pooling, activation, monkeypatch):
    folder, reference = make(kind, pooling, activation)
    monkeypatch.setitem(TOKENS_A_BATCH, "cpu", 64)
    encoder = SpladeEncoder(folder, device="cpu")
    assert isinstance(encoder.packed, PackedTerms)
    expected = torch.stack([reference.encode_document(text, convert_to_sparse_tensor=False) for text in TEXTS])
    found = dense(encoder.encode(TEXTS, "document"))
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)
    assert 0 < (found > 0).mean() < 1


def test_bf16_differs_by_rounding(make):
    folder, _ = make()
    exact, rounded = (SpladeEncoder(folder, precision=name, device="cpu") for name in ("fp32", "bf16"))
    left, right = dense(exact.encode(TEXTS, "document")), dense(rounded.encode(TEXTS, "document"))
    assert 0 < np.abs(left - right).max() < 0.05


def test_prompts_and_the_heaviest_terms(make):
    folder, reference = make(prompts={"query": "storm ", "document": "bread "}, max_active_dims=4)
    encoder = SpladeEncoder(folder, document_top_k=2, device="cpu")
    for role, encode, kept in (("query", reference.encode_query, None), ("document", reference.encode_document, 2)):
        expected = encode(TEXTS, convert_to_sparse_tensor=False, max_active_dims=kept)
        found = encoder.encode(TEXTS, role)
        np.testing.assert_allclose(dense(found), expected.numpy(), atol=2e-5)
        assert found.lengths.max() == (kept or 4)


def test_what_is_not_known_to_be_equal_is_left_to_the_library(make, tmp_path):
    folder, reference = make("electra")
    encoder = SpladeEncoder(folder, device="cpu")
    assert encoder.packed is None
    expected = reference.encode_document(TEXTS, convert_to_sparse_tensor=False)
    np.testing.assert_allclose(dense(encoder.encode(TEXTS, "document")), expected.numpy(), atol=2e-5)
    assert PackedTerms.of(reference) is None  # its head was not fused: it would compute all logits
