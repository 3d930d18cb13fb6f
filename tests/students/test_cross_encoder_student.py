import json

import numpy as np
import pytest
import torch
from elsewhere import printed
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from small_decoder import CHAT, decoder

from retrodistill.encoders.pairs import PairTemplate, _kept
from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.students.cross_encoder import CrossEncoderStudent
from retrodistill.students.lora import Lora

QUERIES = ["storm wind rain", "the bread and the flour of the oven and the crust", "", "chess"]
DOCUMENTS = ["a comet's tail of ice", "storm " * 90, "42 violins", ""]
WORDS = st.lists(st.sampled_from(["storm", "wind", "the", "bread", "42", "comet's", "violin-bow"]), max_size=60)


@pytest.fixture(scope="module")
def student(tiny_cross_encoder):
    return CrossEncoderStudent(model=str(tiny_cross_encoder), dropout=0)


@pytest.fixture(scope="module")
def model(student):
    return student.load("cpu")


def logits_of(student, model, queries, documents, own=None):
    """The student's score matrix, as training computes it."""
    own = np.ones((len(queries), len(documents)), dtype=bool) if own is None else own
    tokens = [student.tokenize(model, texts, role) for role, texts in (("query", queries), ("document", documents))]
    items = student.items(model, *tokens, own)
    return student.scores({"pair": student.embed(model, items["pair"], "pair")}, own)


def predicted(folder, pairs):
    """By sentence-transformers in another process, where nothing of ours can be imported: default and raw."""
    code = f"""
from sentence_transformers import CrossEncoder
model = CrossEncoder({str(folder)!r}, device="cpu")
pairs = {pairs!r}
print(json.dumps([model.predict(pairs, activation_fn=torch.nn.Identity()).tolist(), model.predict(pairs).tolist()]))
"""
    done = printed(code)
    return np.array(json.loads(done))


@settings(max_examples=40, deadline=None)
@given(query=WORDS, document=WORDS, length=st.integers(4, 64), side=st.sampled_from(["right", "left"]))
def test_pairs_are_what_the_tokenizer_itself_makes_of_them(student, model, query, document, length, side):
    tokenizer = model.tokenizer
    before = tokenizer.model_max_length, tokenizer.truncation_side
    tokenizer.model_max_length, tokenizer.truncation_side = length, side
    try:
        query, document = " ".join(query), " ".join(document)
        expected = model.preprocess([(query, document)])
        tokens = student.tokenize(model, [query], "query"), student.tokenize(model, [document], "document")
        (pair,) = student.items(model, *tokens, np.ones((1, 1), dtype=bool))["pair"]
    finally:
        tokenizer.model_max_length, tokenizer.truncation_side = before
    assert pair[0].tolist() == expected["input_ids"][0].tolist()
    assert pair[1].tolist() == expected["token_type_ids"][0].tolist()


@pytest.mark.parametrize(
    ("query", "document", "room", "kept"),
    [(3, 4, 7, (3, 4)), (3, 9, 7, (3, 4)), (9, 2, 7, (5, 2)), (9, 8, 7, (4, 3)), (8, 9, 7, (3, 4)), (9, 9, 7, (3, 4)), (5, 5, 0, (0, 0))],
)  # fmt: skip
def test_the_longer_is_cut_first(query, document, room, kept):
    assert _kept(query, document, room) == kept


@pytest.mark.parametrize("pair", ["[CLS] $A [SEP] [SEP] $B [SEP]", "$A $B", "$A:2 [SEP]:2 $B:1", "[CLS] $A [SEP] $B:1"])
def test_whatever_special_tokens_stand_around_a_pair(tiny_cross_encoder, pair):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_cross_encoder, model_max_length=12)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    template = PairTemplate.of(tokenizer)
    for query, document in (("storm wind", "bread"), ("storm " * 20, "wind " * 30), ("", "rain " * 20)):
        alone = [
            np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
            for text in (query, document)
        ]
        expected = tokenizer(query, document, truncation="longest_first", return_token_type_ids=True)
        assert template.join(*alone).tolist() == [expected["input_ids"], expected["token_type_ids"]]


def test_a_tokenizer_that_reads_otherwise_in_a_pair_is_refused(tiny_cross_encoder):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_cross_encoder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$B:1 $A", special_tokens=[])
    with pytest.raises(InputError, match="reads a text in a pair otherwise than alone"):
        PairTemplate.of(tokenizer)


def test_logits_are_those_of_predict_whatever_the_lengths(student, model):
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    expected = model.predict(pairs, activation_fn=torch.nn.Identity()).reshape(4, 4)
    scores = logits_of(student, model, QUERIES, DOCUMENTS)
    assert scores.requires_grad
    np.testing.assert_allclose(scores.detach().numpy(), expected, atol=1e-6)


def test_only_a_querys_own_documents_are_read(student, model):
    own = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], dtype=bool)
    scores, full = logits_of(student, model, QUERIES, DOCUMENTS, own), logits_of(student, model, QUERIES, DOCUMENTS)
    assert (scores.detach().numpy()[~own] == 0).all()
    np.testing.assert_allclose(scores.detach().numpy()[own], full.detach().numpy()[own], atol=1e-6)
    tokens = student.tokenize(model, QUERIES, "query"), student.tokenize(model, DOCUMENTS, "document")
    items = student.items(model, *tokens, own)
    lengths = np.zeros((4, 4), dtype=int)
    lengths[own] = [pair.shape[1] for pair in items["pair"]]
    expected = lengths.sum(axis=1).tolist()
    assert student.costs(items, own).tolist() == expected


def test_a_saved_student_is_a_plain_cross_encoder_that_gives_logits(tiny_cross_encoder, tmp_path):
    student = CrossEncoderStudent(model=str(tiny_cross_encoder), layers=2, max_length=32, dropout=0.3)
    model = student.load("cpu")
    student.save(model, tmp_path / "saved")
    assert not list((tmp_path / "saved").rglob("*.bin"))
    with torch.no_grad():
        scores = logits_of(student, model.eval(), QUERIES, DOCUMENTS).numpy().ravel()
    raw, default = predicted(tmp_path / "saved", [(query, document) for query in QUERIES for document in DOCUMENTS])
    np.testing.assert_allclose(raw, scores, atol=1e-5)
    np.testing.assert_array_equal(default, raw)


def test_a_bi_encoder_gets_a_head_that_the_seed_draws(tiny_model, tmp_path):
    def head(seed):
        torch.rand(1)  # what was drawn before does not matter
        return CrossEncoderStudent(model=str(tiny_model), seed=seed).load("cpu")[0].model.classifier.weight

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))
    state = torch.get_rng_state()
    student = CrossEncoderStudent(model=str(tiny_model), seed=3)
    model = student.load("cpu")
    assert torch.equal(torch.get_rng_state(), state)
    student.save(model, tmp_path / "saved")
    again = CrossEncoderStudent(model=str(tmp_path / "saved"), seed=4)
    scores = [logits_of(part, part.load("cpu"), QUERIES, DOCUMENTS).detach() for part in (student, again)]
    assert torch.allclose(*scores, atol=1e-6)


def test_a_language_model_answers_yes_or_no(tiny_model, tmp_path):
    student = CrossEncoderStudent(model=decoder(tiny_model, tmp_path / "llm"), layers=2, dropout=0)
    model = student.load("cpu")
    scores = logits_of(student, model, QUERIES[:2], DOCUMENTS[:3]).detach()
    ids = model.tokenizer(QUERIES[0], DOCUMENTS[2], return_tensors="pt")["input_ids"]
    last = model[0].model(input_ids=ids).logits[0, -1]
    assert scores[0, 2].item() == pytest.approx((last[3] - last[4]).item(), abs=1e-5)
    student.save(model, tmp_path / "saved")
    raw = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(
        [(query, document) for query in QUERIES[:2] for document in DOCUMENTS[:3]]
    )
    np.testing.assert_allclose(raw, scores.numpy().ravel(), atol=1e-5)


def test_a_chat_template_is_not_put_around_a_language_models_pairs(tiny_model, tmp_path):
    folder = decoder(tiny_model, tmp_path / "llm", CHAT)
    student = CrossEncoderStudent(model=folder)
    plain = decoder(tiny_model, tmp_path / "plain")
    scores = [
        logits_of(part, part.load("cpu"), QUERIES[:1], DOCUMENTS[:2]).detach()
        for part in (student, CrossEncoderStudent(model=plain))
    ]
    assert torch.allclose(*scores, atol=1e-6)
    CrossEncoder(folder, device="cpu").save_pretrained(str(tmp_path / "chat"))
    with pytest.raises(InputError, match="puts pairs into a chat template"):
        CrossEncoderStudent(model=str(tmp_path / "chat")).load("cpu")


def test_adapters_learn_with_the_head_alone_and_are_merged_when_saved(tiny_model, tmp_path):
    pytest.importorskip("peft")
    student = CrossEncoderStudent(model=str(tiny_model), lora=Lora(rank=2), dropout=0)
    model = student.load("cpu")
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {("lora" in name, "classifier" in name) for name in learning} == {(True, False), (False, True)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in learning:
                weight.normal_(std=0.3)
    scores = logits_of(student, model.eval(), QUERIES, DOCUMENTS).detach().numpy().ravel()
    student.save(model, tmp_path / "saved")
    raw = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(
        [(query, document) for query in QUERIES for document in DOCUMENTS]
    )
    np.testing.assert_allclose(raw, scores, atol=1e-5)


def test_several_outputs_are_refused(tiny_cross_encoder, tmp_path):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(tiny_cross_encoder)
    config.num_labels = 3
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_cross_encoder).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has 3 outputs; a cross_encoder student has one logit a pair"):
        CrossEncoderStudent(model=str(tmp_path)).load("cpu")


def test_losses_that_look_at_other_queries_documents_do_not_fit(student, tiny_model):
    from retrodistill.students.dense import DenseStudent
    from retrodistill.training.fit import misfit

    across, own = build("loss", "infonce"), build("loss", {"kind": "infonce", "in_batch_negatives": False})
    said = misfit(student, across)
    assert said.startswith("infonce looks at other queries' documents")
    assert said.endswith("set in_batch_negatives: false")
    assert misfit(student, own) is None
    assert misfit(DenseStudent(model=str(tiny_model)), across) is None


def test_texts_read_apart_have_no_score(student, model):
    with pytest.raises(TypeError, match="read together"):
        student.score(None, None)


def test_short_form_and_what_it_emits():
    student = build("student", "cross_encoder:some/model")
    assert (student.model, student.emits, student.label) == ("some/model", "pairs", "cross_encoder:some/model")
