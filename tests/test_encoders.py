import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from retrodistill.encoders import TOKENS_A_BATCH, DenseEncoder, autocast, device_of, load_model, token_batches
from retrodistill.errors import InputError

TEXTS = [
    "storm",
    "the wind and the rain of the coast",
    "",
    "bread " * 100,
    "a knight takes a bishop",
    "comet",
    "rain",
    "Storm",
    "violin and bow and string " * 4,
    "the steel arch of the bridge",
    "unknownword 42",
    "chess castle king mate",
]


@pytest.fixture(scope="module")
def reference(tiny_model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu")


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return DenseEncoder(str(tiny_model), device="cpu")


@pytest.fixture
def copy(tiny_model, tmp_path):
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def configure(folder: Path, **options) -> None:
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def test_vectors_are_those_of_sentence_transformers(encoder, reference):
    for role in ("query", "document"):
        vectors = encoder.encode(TEXTS, role)
        assert (vectors.shape, vectors.dtype) == ((len(TEXTS), 32), np.float32)
        # One at a time: no padding at all.
        alone = np.stack([reference.encode(text) for text in TEXTS])
        np.testing.assert_allclose(vectors, alone, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_tiny_model_tells_texts_apart(encoder):
    vectors = encoder.encode(TEXTS[:6], "document")
    assert np.unique(vectors.round(4), axis=0).shape[0] == 6


def test_neither_order_nor_other_texts_matter(encoder):
    vectors = encoder.encode(TEXTS, "document")
    backwards = encoder.encode(TEXTS[::-1], "document")[::-1]
    np.testing.assert_allclose(backwards, vectors, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS[:2], "document"), vectors[:2], atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode([*TEXTS, "storm " * 60] * 3, "document")[: len(TEXTS)], vectors, atol=1e-5
    )


def test_the_same_call_gives_the_same_bits(encoder):
    np.testing.assert_array_equal(encoder.encode(TEXTS, "query"), encoder.encode(TEXTS, "query"))


def test_however_small_the_batches(encoder, monkeypatch):
    whole = encoder.encode(TEXTS, "document")
    done = []
    monkeypatch.setitem(TOKENS_A_BATCH, "cpu", 16)
    np.testing.assert_allclose(encoder.encode(TEXTS, "document", done.append), whole, atol=1e-5)
    assert sum(done) == len(TEXTS)
    assert len(done) > 4


def test_no_texts(encoder):
    assert encoder.encode([], "query").shape == (0, 32)


# Prompts


def test_asked_prompts(tiny_model, reference):
    encoder = DenseEncoder(str(tiny_model), query_prompt="storm ", document_prompt="bread ", device="cpu")
    np.testing.assert_allclose(
        encoder.encode(TEXTS, "query"), reference.encode(["storm " + t for t in TEXTS]), atol=1e-5
    )
    np.testing.assert_allclose(
        encoder.encode(TEXTS, "document"), reference.encode(["bread " + t for t in TEXTS]), atol=1e-5
    )


def test_the_models_own_prompts(copy, reference):
    configure(copy, prompts={"query": "storm ", "document": "bread "})
    own = DenseEncoder(str(copy), device="cpu")
    np.testing.assert_allclose(own.encode(["comet"], "query")[0], reference.encode("storm comet"), atol=1e-5)
    np.testing.assert_allclose(own.encode(["comet"], "document")[0], reference.encode("bread comet"), atol=1e-5)
    none = DenseEncoder(str(copy), query_prompt="", document_prompt="oven ", device="cpu")
    np.testing.assert_allclose(none.encode(["comet"], "query")[0], reference.encode("comet"), atol=1e-5)
    np.testing.assert_allclose(none.encode(["comet"], "document")[0], reference.encode("oven comet"), atol=1e-5)


# Lengths


def test_lengths_are_counted_and_cut(encoder, reference):
    lengths = encoder.lengths(TEXTS)
    assert lengths == [min(len(reference.tokenizer(text)["input_ids"]), 64) for text in TEXTS]
    assert lengths[0] == 3  # [CLS] storm [SEP]
    assert max(lengths) == 64


def test_max_length_cuts_texts(tiny_model, reference):
    short = DenseEncoder(str(tiny_model), max_length=5, device="cpu")
    assert max(short.lengths(TEXTS)) == 5
    long = "storm wind rain thunder lightning cloud"
    np.testing.assert_allclose(short.encode([long], "query")[0], reference.encode("storm wind rain"), atol=1e-5)


def test_max_length_beyond_the_positions_is_refused(tiny_model):
    assert load_model(str(tiny_model), "SentenceTransformer", 64, "cpu").max_seq_length == 64
    with pytest.raises(InputError, match=r"max_length: 65 is longer than the 64 positions of .*; use <= 64"):
        _ = DenseEncoder(str(tiny_model), max_length=65, device="cpu").model


def test_positions_that_begin_behind_the_paddings(copy):
    from transformers import RobertaConfig, RobertaModel

    config = json.loads((copy / "config.json").read_text())
    sizes = {key: config[key] for key in ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size")}
    RobertaModel(
        RobertaConfig(**sizes, num_hidden_layers=1, max_position_embeddings=64, pad_token_id=0)
    ).save_pretrained(copy)
    with pytest.raises(InputError, match=r"max_length: 64 is longer than the 63 positions of .*; use <= 63"):
        _ = DenseEncoder(str(copy), max_length=64, device="cpu").model
    encoder = DenseEncoder(str(copy), max_length=63, device="cpu")
    assert encoder.lengths(["storm " * 100]) == [63]
    assert encoder.encode(["storm " * 100], "document").shape == (1, 32)


# Similarity


def test_a_dot_product_model_keeps_its_lengths(copy, reference):
    configure(copy, similarity_fn_name="dot")
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(json.dumps(modules[:2]))
    encoder = DenseEncoder(str(copy), device="cpu")
    assert encoder.similarity == "dot"
    vectors = encoder.encode(TEXTS, "document")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert not np.allclose(norms, 1, atol=0.1)
    np.testing.assert_allclose(vectors / norms, reference.encode(TEXTS), atol=1e-5)


def test_a_cosine_model_without_a_normalising_module_is_normalised(copy, encoder):
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(json.dumps(modules[:2]))
    vectors = DenseEncoder(str(copy), device="cpu").encode(TEXTS, "document")
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS, "document"), atol=1e-5)


def test_a_similarity_that_cannot_be_searched_is_refused(copy):
    configure(copy, similarity_fn_name="euclidean")
    with pytest.raises(InputError, match="compares vectors by 'euclidean'; only cosine and dot can be searched"):
        DenseEncoder(str(copy), device="cpu").encode(["x"], "query")


# What decides a vector


def test_identity(tiny_model, copy):
    plain = DenseEncoder(str(tiny_model), device="cpu").identity
    assert DenseEncoder(str(copy)).identity == plain
    for options in ({"max_length": 9}, {"precision": "bf16"}, {"query_prompt": ""}, {"document_prompt": "x"}):
        assert DenseEncoder(str(tiny_model), **options).identity != plain
    assert json.loads(json.dumps(plain)) == plain


def test_a_model_is_not_loaded_before_it_is_needed(tiny_model):
    encoder = DenseEncoder(str(tiny_model), device="cpu")
    _ = encoder.identity
    assert "model" not in vars(encoder)
    assert encoder.parameters == sum(weight.numel() for weight in encoder.model.parameters()) > 0


# Broken models


def test_another_kind_of_model_is_refused_at_once(tiny_cross_encoder):
    with pytest.raises(InputError, match="is a CrossEncoder, expected a SentenceTransformer"):
        DenseEncoder(str(tiny_cross_encoder))


def test_nan_in_the_weights(copy):
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][0, 0] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"copy' gives no finite vector for the document '.*'; its weights are damaged"
    ):
        DenseEncoder(str(copy), device="cpu").encode(TEXTS, "document")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "modules.json"])
def test_damaged_files_are_told_with_the_folder(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"model '{copy}' cannot be loaded from {copy}: "):
        _ = DenseEncoder(str(copy), device="cpu").model


def test_code_of_a_model_is_not_run(copy, tmp_path):
    (copy / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    modules = json.loads((copy / "modules.json").read_text())
    modules[0]["type"] = "modeling_evil.Evil"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="cannot be loaded"):
        _ = DenseEncoder(str(copy), device="cpu").model
    assert not (tmp_path / "ran").exists()


# Devices and precision


def test_devices():
    assert device_of("cpu") == "cpu"
    assert device_of(None) == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="device 'tpu-ish' is not known to torch; use cpu, cuda or cuda:N"):
        device_of("tpu-ish")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(InputError, match="device 'cuda:1' was asked for, but torch sees no GPU here; use cpu"):
        device_of("cuda:1")


def test_weights_saved_in_16_bits_are_computed_with_in_32(copy):
    weights = {name: weight.half() for name, weight in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    (copy / "config.json").write_text(
        json.dumps({**json.loads((copy / "config.json").read_text()), "dtype": "float16"})
    )
    halves = DenseEncoder(str(copy), device="cpu")
    assert {weight.dtype for weight in halves.model.parameters()} == {torch.float32}
    vectors = halves.encode(TEXTS, "query")
    halves.model.double()
    np.testing.assert_allclose(vectors, halves.encode(TEXTS, "query"), atol=1e-6)


def test_bf16_is_near_and_comes_out_as_float32(tiny_model, encoder):
    with autocast("cpu", "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast("cpu", "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    rough = DenseEncoder(str(tiny_model), precision="bf16", device="cpu").encode(TEXTS, "query")
    exact = encoder.encode(TEXTS, "query")
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.05


# Batches


@given(lengths=st.lists(st.integers(0, 600), max_size=200), budget=st.integers(1, 5_000))
def test_token_batches_cover_every_row_once_within_the_budget(lengths, budget):
    batches = list(token_batches(lengths, budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch, length in zip(batches, longest, strict=True):
        assert len(batch) == 1 or len(batch) * length <= budget
        assert min(lengths[row] for row in batch) <= length
    for batch, length, following in zip(batches, longest, batches[1:], strict=False):
        assert (len(batch) + 1) * max(length, 1) > budget, f"{following[0]} would have fitted"


def test_rows_of_one_length_keep_their_order():
    assert [batch.tolist() for batch in token_batches([3, 5, 3, 5, 3], 10)] == [[1, 3], [0, 2, 4]]
