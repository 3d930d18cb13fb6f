import json
import shutil

import numpy as np
import pytest
import torch

from retrodistill.emissions import MultiVectors
from retrodistill.encoders import TOKENS_A_BATCH, MultiEncoder
from retrodistill.errors import InputError

TEXTS = [
    "storm",
    "the wind and the rain of the coast.",
    "",
    "bread " * 100,
    "-.-",
    "comet tail",
    "a knight takes a bishop",
]


@pytest.fixture(scope="module")
def reference(tiny_colbert):
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(tiny_colbert), device="cpu")


@pytest.fixture(scope="module")
def encoder(tiny_colbert):
    return MultiEncoder(str(tiny_colbert), device="cpu")


def same(found: MultiVectors, expected) -> None:
    assert found.lengths.tolist() == [len(vectors) for vectors in expected]
    np.testing.assert_allclose(found.vectors, torch.cat(expected).numpy(), atol=1e-5)


def test_vectors_are_those_of_sentence_transformers(encoder, reference):
    found = encoder.encode(TEXTS, "document")
    assert (found.vectors.dtype, found.lengths.dtype, encoder.dimensions) == (np.float32, np.int64, 16)
    # One at a time: no padding at all.
    same(found, [reference.encode_document(text) for text in TEXTS])
    assert found.lengths.tolist()[:5] == [3, 10, 2, 24, 2]  # without full stops and hyphens, at most 24
    found = encoder.encode(TEXTS, "query")
    same(found, [reference.encode_query(text) for text in TEXTS])
    assert set(found.lengths) == {8}


def test_however_small_the_batches(encoder, monkeypatch):
    whole = encoder.encode(TEXTS, "document")
    monkeypatch.setitem(TOKENS_A_BATCH, "cpu", 16)
    again = encoder.encode(TEXTS, "document")
    assert again.lengths.tolist() == whole.lengths.tolist()
    np.testing.assert_allclose(again.vectors, whole.vectors, atol=1e-5)


def test_no_texts(encoder):
    found = encoder.encode([], "query")
    assert (len(found), found.vectors.shape) == (0, (0, 16))


def test_max_length_is_of_documents(tiny_colbert, reference):
    for length in (5, 40):  # below and above the model's own
        short = MultiEncoder(str(tiny_colbert), max_length=length, device="cpu")
        assert short.encode(["storm " * 100], "document").lengths.tolist() == [length]
        same(short.encode(["storm wind"], "query"), reference.encode_query(["storm wind"]))


def test_asked_prompts(tiny_colbert, reference):
    prompted = MultiEncoder(str(tiny_colbert), query_prompt="storm ", document_prompt="bread ", device="cpu")
    same(prompted.encode(["wind"], "query"), reference.encode_query(["storm wind"]))
    same(prompted.encode(["wind"], "document"), reference.encode_document(["bread wind"]))


def test_maxsim_is_the_models_own_similarity(tiny_colbert, encoder, reference, tmp_path):
    folder = shutil.copytree(tiny_colbert, tmp_path / "mean")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "similarity_fn_name": "meanmaxsim"}))
    mean = MultiEncoder(str(folder), device="cpu")
    queries, documents = reference.encode_query(TEXTS), reference.encode_document(TEXTS)
    for one, compare in ((encoder, reference), (mean, mean.model)):
        found = one.encode(TEXTS, "query").scores(one.encode(TEXTS, "document"))
        np.testing.assert_allclose(found, compare.similarity(queries, documents).numpy(), atol=1e-5)


def test_bf16_is_near_and_comes_out_as_float32(tiny_colbert, encoder):
    rough = MultiEncoder(str(tiny_colbert), precision="bf16", device="cpu").encode(TEXTS, "document")
    exact = encoder.encode(TEXTS, "document")
    assert rough.vectors.dtype == np.float32
    assert 0 < np.abs(rough.vectors - exact.vectors).max() < 0.1


def test_another_kind_of_model_is_refused_at_once(tiny_model):
    with pytest.raises(InputError, match="is a SentenceTransformer, expected a MultiVectorEncoder"):
        MultiEncoder(str(tiny_model))


def test_an_untrained_one_compares_the_token_vectors_of_an_encoder(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(tiny_model), device="cpu")
    encoder = MultiEncoder(str(tiny_model), untrained=True, device="cpu")
    for role, kept in (("query", True), ("document", False)):
        found = encoder.encode(["storm. wind."], role)
        tokens = plain.tokenizer("storm. wind.")["input_ids"]
        expected = plain.encode("storm. wind.", output_value="token_embeddings", normalize_embeddings=False)
        expected = torch.nn.functional.normalize(expected.float(), dim=-1)
        point = plain.tokenizer.convert_tokens_to_ids(".")
        rows = [row for row, token in enumerate(tokens) if kept or token != point]
        assert len(rows) == (6 if kept else 4)
        same(found, [expected[rows]])
    assert encoder.encode(["storm " * 50], "document").lengths.tolist() == [min(52, plain.max_seq_length)]
    short = MultiEncoder(str(tiny_model), untrained=True, max_length=7, device="cpu")
    assert short.encode(["storm " * 50], "document").lengths.tolist() == [7]
    assert encoder.identity != short.identity
    assert encoder.identity["untrained"]


def test_a_dense_model_is_taken_for_late_interaction_only_where_asked(tiny_model, tiny_colbert):
    with pytest.raises(InputError, match="is a SentenceTransformer, expected a MultiVectorEncoder; `untrained: true`"):
        MultiEncoder(str(tiny_model))
    with pytest.raises(InputError, match="is a MultiVectorEncoder, expected a SentenceTransformer"):
        MultiEncoder(str(tiny_colbert), untrained=True)
