"""Dense students of any transformer: pooling, similarity, prompts, shorter vectors, decoders, adapters."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_decoder import CHAT, decoder

from retrodistill.emissions import pair_scores
from retrodistill.encoders import DenseEncoder
from retrodistill.errors import InputError
from retrodistill.losses.batch import ScoreBatch
from retrodistill.registry import build
from retrodistill.students.dense import DenseStudent
from retrodistill.students.embedded import Embedded
from retrodistill.students.lora import Lora

TEXTS = ["storm wind rain", "the bread and the flour of the oven", "chess", "a comet's tail of ice", "42 violins"]
UNIT = torch.ones(len(TEXTS))


@pytest.fixture(scope="module")
def bare(tiny_model, tmp_path_factory):
    """A BertModel as transformers saves it: no pooling, no sentence-transformers' configuration."""
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path_factory.mktemp("bare")
    AutoModel.from_pretrained(tiny_model).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llama(tiny_model, tmp_path_factory):
    return decoder(tiny_model, tmp_path_factory.mktemp("llama"))


def embedded(student, model, texts=TEXTS, role="document"):
    return student.embed(model, student.tokenize(model, texts, role), role).values


def saved(student, model, folder):
    """What sentence-transformers makes of the student's folder."""
    from sentence_transformers import SentenceTransformer

    student.save(model, folder)
    return SentenceTransformer(str(folder), device="cpu")


def hidden(model, text):
    """The transformer's own token vectors of one text that stands alone."""
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model[0].model(input_ids=ids).last_hidden_state[0]


def weighted(tokens):
    weights = torch.arange(1.0, len(tokens) + 1)[:, None]
    return (tokens * weights).sum(0) / weights.sum()


POOLS = {
    "mean": lambda tokens: tokens.mean(0),
    "cls": lambda tokens: tokens[0],
    "lasttoken": lambda tokens: tokens[-1],
    "weightedmean": weighted,
    "max": lambda tokens: tokens.max(0).values,
}


@pytest.mark.parametrize("pooling", POOLS)
@pytest.mark.parametrize("source", ["bare", "llama", "tiny"])
def test_texts_are_pooled_as_asked_whatever_stands_beside_them(request, tiny_model, tmp_path, source, pooling):
    name = str(tiny_model) if source == "tiny" else request.getfixturevalue(source)
    student = DenseStudent(model=name, pooling=pooling, similarity="dot")
    model = student.load("cpu")
    expected = torch.stack([POOLS[pooling](hidden(model, text)) for text in TEXTS])
    vectors = embedded(student, model).detach()
    torch.testing.assert_close(vectors, expected, atol=2e-6, rtol=0)
    np.testing.assert_allclose(saved(student, model, tmp_path / "m").encode(TEXTS), expected, atol=2e-6)


@pytest.mark.parametrize(("source", "pooling"), [("bare", "mean"), ("llama", "lasttoken")])
def test_a_bare_model_gives_unit_vectors_pooled_by_custom(request, tmp_path, source, pooling):
    student = DenseStudent(model=request.getfixturevalue(source), max_length=16)
    model = student.load("cpu")
    expected = torch.stack([POOLS[pooling](hidden(model, text)) for text in TEXTS])
    vectors = embedded(student, model).detach()
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(expected), atol=2e-6, rtol=0)
    again = saved(student, model, tmp_path / "m")
    assert [type(module).__name__ for module in again] == ["Transformer", "Pooling", "Normalize"]
    assert again.max_seq_length == 16
    np.testing.assert_allclose(again.encode(TEXTS), vectors, atol=2e-6)


def test_similarity_is_the_models_own_or_the_one_asked_for(tiny_model, tmp_path):
    own, dot = DenseStudent(model=str(tiny_model)), DenseStudent(model=str(tiny_model), similarity="dot")
    assert (own.compares, dot.compares) == ("cosine", "dot")
    vectors = embedded(dot, model := dot.load("cpu")).detach()
    assert (vectors.norm(dim=-1) - 1).abs().min() > 0.1
    assert saved(dot, model, tmp_path / "dot").similarity_fn_name == "dot"
    back = DenseStudent(model=str(tmp_path / "dot"), similarity="cosine")
    assert DenseStudent(model=str(tmp_path / "dot")).compares == "dot"
    units = embedded(back, back.load("cpu")).detach()
    torch.testing.assert_close(units, torch.nn.functional.normalize(vectors), atol=1e-6, rtol=0)


def test_a_model_that_joins_poolings_or_has_none_keeps_them(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    whole = SentenceTransformer(str(tiny_model), device="cpu")
    whole[1] = Pooling(32, ("mean", "cls"))
    whole.save_pretrained(str(tmp_path / "two"))
    with pytest.raises(InputError, match=r"joins .*'mean', 'cls'.*leave `pooling` out"):
        DenseStudent(model=str(tmp_path / "two"), pooling="max").load("cpu")
    del whole[1:]
    whole.save_pretrained(str(tmp_path / "none"))
    with pytest.raises(InputError, match="has no token vectors to pool"):
        DenseStudent(model=str(tmp_path / "none"), pooling="max").load("cpu")


def test_prompts_are_used_later_without_being_repeated(tiny_model, tmp_path):
    student = DenseStudent(model=str(tiny_model), query_prompt="storm wind ", document_prompt="bread ")
    model = student.load("cpu")
    plain = DenseStudent(model=str(tiny_model))
    for role, prompt in (("query", "storm wind "), ("document", "bread ")):
        expected = embedded(plain, plain.load("cpu"), [prompt + text for text in TEXTS])
        torch.testing.assert_close(embedded(student, model, role=role), expected, atol=1e-6, rtol=0)
    again = saved(student, model, tmp_path / "m")
    np.testing.assert_allclose(again.encode_query(TEXTS), embedded(student, model, role="query").detach(), atol=1e-6)
    encoder = DenseEncoder(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS, "document"), embedded(student, model).detach(), atol=1e-6)
    silent = DenseStudent(model=str(tmp_path / "m"), query_prompt="")
    expected = embedded(plain, plain.load("cpu"))
    torch.testing.assert_close(embedded(silent, silent.load("cpu"), role="query"), expected, atol=1e-6, rtol=0)


def test_every_text_of_a_decoder_ends_in_eos_when_asked(llama, tmp_path):
    student = DenseStudent(model=llama, append_eos=True, max_length=4)
    model = student.load("cpu")
    tokens = student.tokenize(model, ["storm", "storm wind rain bread", ""], "query")
    assert [(len(ids), ids[-1]) for ids in tokens] == [(2, 2), (4, 2), (1, 2)]
    assert DenseStudent(model=llama).load("cpu").tokenizer("storm")["input_ids"] == [tokens[0][0]]
    vectors = embedded(student, model).detach()
    again = DenseStudent(model=str(tmp_path / "m"), append_eos=True)
    np.testing.assert_allclose(saved(student, model, tmp_path / "m").encode(TEXTS), vectors, atol=1e-6)
    twice = again.tokenize(again.load("cpu"), ["storm"], "query")  # it has one already
    assert twice[0].tolist() == tokens[0].tolist()


def test_a_tokenizer_without_eos_cannot_append_it(tiny_model):
    with pytest.raises(InputError, match="has no end-of-sequence token; leave append_eos out"):
        DenseStudent(model=str(tiny_model), append_eos=True).load("cpu")


def test_an_instruction_models_chat_is_not_put_around_texts(tiny_model, tmp_path, llama):
    chatty = DenseStudent(model=decoder(tiny_model, tmp_path / "chat", CHAT))
    model, plain = chatty.load("cpu"), DenseStudent(model=llama)
    expected = embedded(plain, plain.load("cpu")).detach()
    torch.testing.assert_close(embedded(chatty, model).detach(), expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(saved(chatty, model, tmp_path / "m").encode(TEXTS), expected, atol=1e-6)


def test_a_decoder_can_be_cut(llama, tmp_path):
    student = DenseStudent(model=llama, layers=(0, 2))
    model = student.load("cpu")
    np.testing.assert_allclose(
        saved(student, model, tmp_path / "m").encode(TEXTS), embedded(student, model).detach(), atol=1e-6
    )


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_losses_see_shorter_vectors_as_matryoshka_has_it(tiny_model, similarity):
    from sentence_transformers import util
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    student = DenseStudent(model=str(tiny_model), dimensions=(16, 4), similarity=similarity)
    model = student.load("cpu")
    queries, documents = (torch.randn(5, 32, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    if similarity == "cosine":
        queries, documents = (torch.nn.functional.normalize(part) for part in (queries, documents))
    own = np.eye(5, dtype=bool)
    matrices = student.all_scores({"query": Embedded(queries), "document": Embedded(documents)}, own)
    assert [weight for weight, _ in matrices] == [pytest.approx(1 / 3)] * 3
    torch.testing.assert_close(matrices[0][1], student.score(Embedded(queries), Embedded(documents)))
    infonce = build("loss", {"kind": "infonce", "temperature": 0.05})
    full = torch.ones(5, 5, dtype=torch.bool)
    mask = torch.from_numpy(own)
    value = sum(
        weight * infonce(ScoreBatch(scores, scores.detach(), full, mask, mask.float(), mask, full))
        for weight, scores in matrices
    )
    compared = util.cos_sim if similarity == "cosine" else util.dot_score
    inner = MultipleNegativesRankingLoss(model, scale=20.0, similarity_fct=compared)
    losses = []
    for width in (32, 16, 4):
        cut = [part[:, :width] for part in (queries, documents)]
        losses.append(inner.compute_loss_from_embeddings(cut, None))
    assert MatryoshkaLoss(model, inner, [32, 16, 4]).matryoshka_weights == (1, 1, 1)
    assert value.item() == pytest.approx((sum(losses) / 3).item(), rel=1e-5)


def test_shorter_vectors_cannot_be_longer(tiny_model, bare):
    for model in (str(tiny_model), bare):
        with pytest.raises(InputError, match=r"dimensions: \[8, 33\] are wider than the 32"):
            DenseStudent(model=model, dimensions=(8, 33)).check()
    DenseStudent(model=bare, dimensions=(8, 32)).check()
    for dimensions in ([8, 0], [8, 8]):
        with pytest.raises(ValidationError, match="widths of 1 or more, each once"):
            build("student", {"kind": "dense", "model": "m", "dimensions": dimensions})


@pytest.mark.parametrize("source", ["bare", "llama"])
def test_adapters_alone_learn_and_the_saved_model_is_plain(request, tmp_path, source):
    from safetensors.torch import load_file

    pytest.importorskip("peft")
    name = request.getfixturevalue(source)
    plain, student = DenseStudent(model=name), DenseStudent(model=name, lora=Lora(rank=2, dropout=0.5), dropout=0)
    model = student.load("cpu")
    torch.testing.assert_close(embedded(student, model), embedded(plain, plain.load("cpu")), atol=1e-6, rtol=0)
    learning = [(part, weight) for part, weight in model.named_parameters() if weight.requires_grad]
    assert learning
    assert all("lora_" in part for part, _ in learning)
    with torch.no_grad():
        for _, weight in learning:
            weight.normal_(std=0.3)
    vectors = embedded(student, model.eval()).detach()
    assert not torch.allclose(vectors, embedded(plain, plain.load("cpu")).detach(), atol=0.05)
    np.testing.assert_allclose(saved(student, model, tmp_path / "m").encode(TEXTS), vectors, atol=1e-5)
    assert not any("lora" in part for part in load_file(tmp_path / "m/model.safetensors"))
    assert not (tmp_path / "m/adapter_config.json").exists()


def test_targets_that_are_not_there(bare):
    pytest.importorskip("peft")
    with pytest.raises(InputError, match=r"lora.targets: \('q_proj',\)"):
        DenseStudent(model=bare, lora=Lora(targets=("q_proj",))).load("cpu")


def test_adapters_without_peft(bare, monkeypatch):
    monkeypatch.setattr("retrodistill.students.lora.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'retrodistill\[lora\]'"):
        DenseStudent(model=bare, lora=Lora()).check()


def test_options_change_the_identity(bare):
    plain = DenseStudent(model=bare).identity
    for options in (
        {"pooling": "max"},
        {"similarity": "dot"},
        {"query_prompt": "q"},
        {"dimensions": (4,)},
        {"lora": Lora()},
    ):
        assert DenseStudent(model=bare, **options).identity != plain
    assert json.dumps(plain)


def test_pair_scores_of_a_saved_student_are_its_scores(llama, tmp_path):
    student = DenseStudent(model=llama, similarity="dot", append_eos=True, query_prompt="storm ")
    model = student.load("cpu")
    queries, documents = (Embedded(embedded(student, model, role=role)) for role in ("query", "document"))
    student.save(model, tmp_path / "m")
    encoder = DenseEncoder(str(tmp_path / "m"), device="cpu")
    left, right = np.divmod(np.arange(25), 5)
    found = pair_scores(encoder.encode(TEXTS, "query"), encoder.encode(TEXTS, "document"), left, right)
    np.testing.assert_allclose(found.reshape(5, 5), student.score(queries, documents).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("modes", [("mean",), ("mean", "cls")])
def test_how_long_vectors_are_is_seen_before_a_weight_is_read(tiny_model, tmp_path, modes):
    from sentence_transformers import SentenceTransformer, models

    base = models.Transformer(str(tiny_model))
    pooling = models.Pooling(32, pooling_mode=modes if len(modes) > 1 else modes[0])
    layers = [base, pooling] if len(modes) > 1 else [base, pooling, models.Dense(32, 48)]
    model = SentenceTransformer(modules=layers)
    model.save_pretrained(str(tmp_path))
    width = model.get_embedding_dimension()
    assert width > 32
    DenseStudent(model=str(tmp_path), dimensions=(8, width)).check()
    with pytest.raises(InputError, match=f"wider than the {width}"):
        DenseStudent(model=str(tmp_path), dimensions=(8, width + 1)).check()
