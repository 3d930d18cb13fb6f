import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from retrodistill.candidates import Candidate, Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging
from retrodistill.teachers.cross_encoder import CrossEncoder, CrossEncoderJudge

QUERIES = {"q1": "storm wind", "q2": "bread", "q3": "a knight takes a bishop and a rook"}
DOCUMENTS = {
    "short": "storm",
    "empty": "",
    "long": "the wind and the rain " * 40,
    "bread": "bread flour yeast oven",
    "comet": "comet ice",
}


@pytest.fixture(scope="module")
def toy():
    corpus = Texts.documents("toy", [(key, "", text) for key, text in DOCUMENTS.items()])
    return Collection("toy", corpus, Texts.queries("toy", list(QUERIES.items())), {})


@pytest.fixture(scope="module")
def model(tiny_cross_encoder, tmp_path_factory):
    """The tiny cross-encoder with greater weights: its logits lie far apart, so that a wrong one shows."""
    folder = Path(shutil.copytree(tiny_cross_encoder, tmp_path_factory.mktemp("sharp") / "model"))
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight * 8 if weight.ndim == 2 else weight for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def copy(model, tmp_path):
    return Path(shutil.copytree(model, tmp_path / "copy"))


PAIRS = [(query, doc) for query in QUERIES for doc in DOCUMENTS]


def predicted(folder, **options):
    """sentence-transformers' own logits, one pair at a time."""
    import sentence_transformers

    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", **options)
    texts = [(QUERIES[query], DOCUMENTS[doc]) for query, doc in PAIRS]
    return model.predict(texts, batch_size=1, activation_fn=torch.nn.Identity(), show_progress_bar=False)


def test_logits_are_those_of_sentence_transformers(model, toy):
    scores = CrossEncoder(model=str(model)).open(toy).score(*zip(*PAIRS, strict=True))
    assert (scores.shape, scores.dtype) == ((15,), np.float32)
    np.testing.assert_allclose(scores, predicted(model), atol=1e-5)
    assert np.ptp(scores) > 0.3


def test_logits_are_raw(copy, toy):
    """No sigmoid: a greater head gives logits that no probability can be."""
    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"] += 5
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    scores = CrossEncoder(model=str(copy)).open(toy).score(*zip(*PAIRS, strict=True))
    assert (scores > 3).all()
    np.testing.assert_allclose(scores, predicted(copy), atol=1e-5)


def test_neither_order_nor_other_pairs_nor_batches_matter(model, toy, monkeypatch):
    judge = CrossEncoder(model=str(model)).open(toy)
    scores = judge.score(*zip(*PAIRS, strict=True))
    np.testing.assert_allclose(judge.score(*zip(*PAIRS[::-1], strict=True))[::-1], scores, atol=1e-5)
    np.testing.assert_allclose(judge.score(*zip(*PAIRS[4:6], strict=True)), scores[4:6], atol=1e-5)
    monkeypatch.setattr("retrodistill.teachers.cross_encoder.TOKENS_A_BATCH", {"cpu": 70, "cuda": 70})
    np.testing.assert_allclose(judge.score(*zip(*PAIRS, strict=True)), scores, atol=1e-5)


def test_texts_are_those_that_the_store_files_under(model, toy):
    judge = CrossEncoder(model=str(model)).open(toy)
    assert (judge.query_text("q1"), judge.document_text("comet")) == ("storm wind", "comet ice")


def test_max_length(model, toy):
    cut = CrossEncoder(model=str(model), max_length=12).open(toy).score(*zip(*PAIRS, strict=True))
    np.testing.assert_allclose(cut, predicted(model, max_length=12), atol=1e-5)
    whole = CrossEncoder(model=str(model)).open(toy).score(*zip(*PAIRS, strict=True))
    assert np.abs(cut - whole).max() > 0.01


def test_max_length_beyond_the_positions_is_refused(model, toy):
    with pytest.raises(InputError, match=r"max_length: 65 is longer than the 64 positions of .*; use <= 64"):
        CrossEncoder(model=str(model), max_length=65).open(toy).score(["q1"], ["short"])


@pytest.mark.parametrize("packed", [True, False])
def test_of_several_outputs_one_is_read_against_the_others(copy, toy, packed, monkeypatch):
    config = json.loads((copy / "config.json").read_text())
    labels = {str(number): f"LABEL_{number}" for number in range(3)}
    config |= {"id2label": labels, "label2id": {name: int(number) for number, name in labels.items()}}
    (copy / "config.json").write_text(json.dumps(config))
    weights = load_file(copy / "model.safetensors")
    torch.manual_seed(0)
    width = weights["classifier.weight"].shape[1]
    weights["classifier.weight"], weights["classifier.bias"] = torch.randn(3, width), torch.ones(3)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    for output in (None, 3):
        with pytest.raises(
            InputError, match=r"has 3 outputs, 0 LABEL_0, 1 LABEL_1, 2 LABEL_2; name that of a relevant"
        ):
            CrossEncoder(model=str(copy), output=output).open(toy).score(["q1"], ["short"])
    judge = CrossEncoder(model=str(copy), output=1).open(toy)
    if not packed:
        monkeypatch.setattr(type(judge), "packed", None)
    network = judge.model[0].model
    read = judge.model.tokenizer([judge.query_text("q1")], [judge.document_text("short")], return_tensors="pt")
    with torch.no_grad():
        chances = network(**read).logits[0].softmax(0)
    assert judge.score(["q1"], ["short"])[0] == pytest.approx(float(torch.logit(chances[1])), abs=1e-4)
    assert judge.identity != CrossEncoder(model=str(copy), output=2).open(toy).identity


def test_an_output_of_a_model_that_has_one_is_refused(model, toy):
    with pytest.raises(InputError, match="has one output; leave out output: 1"):
        CrossEncoder(model=str(model), output=1).open(toy).score(["q1"], ["short"])


def test_the_golden_pair_is_judged_before_many_pairs(copy, toy, tmp_path, monkeypatch):
    """Of a model and its opposite one prefers the absurd document."""
    monkeypatch.setattr(CrossEncoderJudge, "pairs_a_part", 3)
    few, many = (Candidates.of({"q1": rows(docs)}) for docs in (["short"], list(toy.corpus.ids)[:4]))
    weights, refused = load_file(copy / "model.safetensors"), []
    for sign in (1, -1):
        turned = {name: sign * tensor if name.startswith("classifier") else tensor for name, tensor in weights.items()}
        save_file(turned, copy / "model.safetensors", metadata={"format": "pt"})
        store, teacher = ScoreStore(tmp_path / f"{sign}"), CrossEncoder(model=str(copy))
        judging.judge(few, toy, [teacher], store)
        try:
            judging.judge(many, toy, [teacher], store)
        except InputError as error:
            refused.append(str(error))
            assert np.isnan(judging.read(many, toy, [teacher], store)).any()
            judging.judge(many, toy, [CrossEncoder(model=str(copy), golden=False)], store)
        assert not np.isnan(judging.read(many, toy, [teacher], store)).any()
    assert len(refused) == 1 and "railings" in refused[0] and "golden: false" in refused[0]


def rows(docs):
    return [Candidate(doc, "bm25", rank, 0.0, None) for rank, doc in enumerate(docs, start=1)]


def test_a_bi_encoder_is_refused_before_any_work(tiny_model, toy):
    with pytest.raises(InputError, match="is a SentenceTransformer, expected a CrossEncoder"):
        CrossEncoder(model=str(tiny_model)).check()
    with pytest.raises(InputError, match="is a SentenceTransformer, expected a CrossEncoder"):
        CrossEncoder(model=str(tiny_model)).open(toy)


def test_damaged_weights_are_told_with_the_folder(copy, toy):
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"model '{copy}' cannot be loaded from {copy}: "):
        CrossEncoder(model=str(copy)).open(toy).score(["q1"], ["short"])


def test_weights_saved_in_16_bits_are_computed_with_in_32(copy, toy):
    weights = {name: weight.half() for name, weight in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    judge = CrossEncoder(model=str(copy)).open(toy)
    assert {weight.dtype for weight in judge.model.parameters()} == {torch.float32}


def test_identity_is_what_decides_a_score(model, copy, toy, collection):
    plain = CrossEncoder(model=str(model)).open(toy).identity
    assert CrossEncoder(model=str(copy)).open(collection).identity == plain
    for options in ({"max_length": 12}, {"precision": "bf16"}):
        assert CrossEncoder(model=str(copy), **options).open(toy).identity != plain
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert CrossEncoder(model=str(copy)).open(toy).identity != plain


def test_no_pairs(model, toy):
    assert CrossEncoder(model=str(model)).open(toy).score([], []).shape == (0,)
