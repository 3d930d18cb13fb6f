import json
import shutil
import string

import numpy as np
import pytest
import torch
from elsewhere import printed
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from retrodistill import models
from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.students.colbert import ColBERTStudent

TEXTS = ["storm wind rain.", "the bread and the flour of the oven", "chess", "a comet-tail of ice", "", "42 violins."]
MASK = 4  # of the tiny tokenizer


def encoded(model, role):
    """Vectors of the model's own encode, packed, and how many each text has."""
    found = (model.encode_query if role == "query" else model.encode_document)(TEXTS)
    return torch.cat(found), [len(vectors) for vectors in found]


def embedded(student, model, role, texts=TEXTS):
    return student.embed(model, student.tokenize(model, texts, role), role)


def plain(*folders):
    """Vectors by sentence-transformers in another process, where nothing of ours can be imported."""
    code = f"""
from sentence_transformers import MultiVectorEncoder
for folder in {[str(folder) for folder in folders]!r}:
    model = MultiVectorEncoder(folder, device="cpu")
    found = [model.encode_query({TEXTS!r}), model.encode_document({TEXTS!r})]
    print(json.dumps([[vectors.tolist() for vectors in side] for side in found]))
"""
    done = printed(code)
    return [[list(map(np.array, side)) for side in json.loads(line)] for line in done.splitlines()]


EVERYTHING = {
    "dimensions": 8, "expansion": "fixed", "query_length": 12, "document_length": 20, "query_prefix": "[Q]",
    "document_prefix": "[D]", "skip_punctuation": True, "pooling": 2.0, "dropout": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, EVERYTHING])
@pytest.mark.parametrize("role", ["query", "document"])
def test_embed_is_encode_with_gradients(tiny_model, options, role):
    student = ColBERTStudent(model=str(tiny_model), **options)
    model = student.load("cpu")
    found = embedded(student, model, role)
    assert found.values.requires_grad
    vectors, lengths = encoded(model, role)
    assert found.lengths.tolist() == lengths
    torch.testing.assert_close(found.values.detach(), vectors, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.values.norm(dim=-1), torch.ones(sum(lengths)), rtol=0, atol=1e-5)


def test_scores_are_those_of_sentence_transformers(tiny_colbert):
    student = ColBERTStudent(model=str(tiny_colbert))
    model = student.load("cpu")
    sides = [embedded(student, model, role) for role in ("query", "document")]
    expected = model.similarity(model.encode_query(TEXTS), model.encode_document(TEXTS))
    torch.testing.assert_close(student.score(*sides).detach(), expected, rtol=0, atol=1e-5)
    model.similarity_fn_name = "meanmaxsim"
    sides[0] = embedded(student, model, "query")
    torch.testing.assert_close(student.score(*sides).detach(), expected / 8, rtol=0, atol=1e-5)


def test_a_saved_student_is_plain_sentence_transformers(tiny_model, tmp_path):
    students = [ColBERTStudent(model=str(tiny_model), **options) for options in ({}, EVERYTHING)]
    trained = [student.load("cpu") for student in students]
    folders = [tmp_path / str(number) for number in range(2)]
    for student, model, folder in zip(students, trained, folders, strict=True):
        student.save(model, folder)
    assert not list(tmp_path.rglob("*.bin"))
    for student, model, folder, sides in zip(students, trained, folders, plain(*folders), strict=True):
        again = ColBERTStudent(model=str(folder))
        loaded = again.load("cpu")
        for role, found in zip(("query", "document"), sides, strict=True):
            own = embedded(student, model, role)
            assert [len(vectors) for vectors in found] == own.lengths.tolist()
            np.testing.assert_allclose(np.concatenate(found), own.values.detach().numpy(), atol=1e-5)
            torch.testing.assert_close(embedded(again, loaded, role).values, own.values)


# What a new one is made of


def test_a_new_one_has_the_encoders_own_vectors(tiny_model):
    from sentence_transformers import SentenceTransformer

    student = ColBERTStudent(model=str(tiny_model))
    found = embedded(student, student.load("cpu"), "document")
    expected = SentenceTransformer(str(tiny_model), device="cpu").encode(TEXTS, output_value="token_embeddings")
    torch.testing.assert_close(
        found.values.detach(), torch.nn.functional.normalize(torch.cat(expected), dim=-1), rtol=0, atol=1e-5
    )


def test_a_projection_is_drawn_by_its_seed_alone_and_keeps_angles(tiny_model):
    def vectors(**options):
        torch.manual_seed(len(options))  # whatever was drawn before
        student = ColBERTStudent(model=str(tiny_model), **options)
        return embedded(student, student.load("cpu"), "document").values.detach()

    own, first, other = vectors(), vectors(dimensions=8), vectors(dimensions=8, seed=1)
    assert first.shape == (len(own), 8)
    assert torch.equal(vectors(dimensions=8), first)
    assert not torch.allclose(other, first, atol=0.1)
    turned = vectors(dimensions=32)  # as wide as the encoder: a rotation
    torch.testing.assert_close(turned @ turned.T, own @ own.T, rtol=0, atol=1e-5)


def test_a_bare_encoder_will_do(tiny_model, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    for part in (AutoModel, AutoTokenizer):
        part.from_pretrained(tiny_model).save_pretrained(tmp_path)
    found, expected = (ColBERTStudent(model=str(folder)) for folder in (tmp_path, tiny_model))
    torch.testing.assert_close(
        embedded(found, found.load("cpu"), "query").values, embedded(expected, expected.load("cpu"), "query").values
    )


def test_a_projection_of_the_whole_text_becomes_one_of_each_token(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    modules = [Transformer(str(tiny_model)), Pooling(32, "mean"), Dense(32, 6)]
    SentenceTransformer(modules=modules, device="cpu", prompts={"query": "storm "}).save_pretrained(str(tmp_path))
    student = ColBERTStudent(model=str(tmp_path))
    model = student.load("cpu")
    assert (model.get_embedding_dimension(), model.prompts["query"]) == (6, "storm ")
    assert torch.equal(model[1].linear.weight, modules[2].linear.weight)
    assert embedded(student, model, "query").values.shape[1] == 6


def test_a_model_without_a_transformer_is_refused(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save_pretrained(
        str(tmp_path / "m")
    )
    with pytest.raises(InputError, match="begins with a StaticEmbedding, which has no vector a token"):
        ColBERTStudent(model=str(tmp_path / "m")).load("cpu")


def test_what_cannot_be_made_one_is_refused(tiny_cross_encoder):
    student = ColBERTStudent(model=str(tiny_cross_encoder))
    for action in (student.check, lambda: student.load("cpu")):
        with pytest.raises(InputError, match="is a CrossEncoder, expected a MultiVectorEncoder, or"):
            action()


# Options


def tokens_of(student, role, texts=TEXTS):
    return student.tokenize(student.load("cpu"), texts, role)


def test_expansion_fills_or_cuts_queries_and_leaves_documents(tiny_model):
    texts = ["storm", "storm wind rain thunder lightning cloud coast"]
    fixed = ColBERTStudent(model=str(tiny_model), expansion="fixed", query_length=6)
    assert tokens_of(fixed, "query", texts)[0].tolist()[3:] == [~MASK] * 3
    assert [len(row) for row in tokens_of(fixed, "query", texts)] == [6, 6]
    assert [len(row) for row in tokens_of(fixed, "document", texts)] == [3, 9]
    least = ColBERTStudent(model=str(tiny_model), expansion="min", query_length=6)
    assert [len(row) for row in tokens_of(least, "query", texts)] == [6, 9]
    plain = ColBERTStudent(model=str(tiny_model), expansion="none", query_length=6)
    assert [len(row) for row in tokens_of(plain, "query", texts)] == [3, 6]
    default = ColBERTStudent(model=str(tiny_model), expansion="fixed")
    assert [len(row) for row in tokens_of(default, "query", texts)] == [32, 32]


@pytest.mark.parametrize("attend", [False, True])
def test_expansion_tokens_are_scored_and_seen_only_where_the_model_has_it_so(tiny_colbert, tmp_path, attend):
    folder = shutil.copytree(tiny_colbert, tmp_path / "model")
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    settings["query_expansion"]["attend"] = attend
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    student = ColBERTStudent(model=str(folder))
    model = student.load("cpu")
    short = embedded(student, model, "query", ["storm wind"]).values
    assert short.shape == (8, 16)
    vectors, _ = encoded(model, "query")
    torch.testing.assert_close(embedded(student, model, "query").values.detach(), vectors.clone(), rtol=0, atol=1e-6)
    without = ColBERTStudent(model=str(folder), expansion="none")
    bare = embedded(without, without.load("cpu"), "query", ["storm wind"]).values
    assert torch.allclose(short[:4], bare, atol=1e-5) == (not attend)


def test_a_model_keeps_what_nobody_asked_to_change(tiny_colbert):
    model = ColBERTStudent(model=str(tiny_colbert)).load("cpu")
    assert model[0].query_expansion == {"strategy": "fixed", "attend": False, "token": None, "length": 8}
    assert (model[0].document_length, model.get_embedding_dimension(), model[2].skiplist_words) == (24, 16, [".", "-"])
    longer = ColBERTStudent(model=str(tiny_colbert), query_length=10).load("cpu")
    assert longer[0].query_expansion["strategy"] == "fixed"
    assert longer[0].query_expansion["length"] == 10
    other = ColBERTStudent(model=str(tiny_colbert), expansion="min").load("cpu")
    assert (other[0].query_expansion["strategy"], other[0].query_expansion["length"]) == ("min", 8)
    off = ColBERTStudent(model=str(tiny_colbert), expansion="none", skip_punctuation=False).load("cpu")
    assert (off[0].query_expansion, off[0].query_length, off[2].skiplist_words) == (None, 8, [])


def test_a_document_may_be_longer_than_the_sentences_that_the_encoder_was_cut_to(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "short")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 16
    model.save_pretrained(str(folder))
    assert len(tokens_of(ColBERTStudent(model=str(folder)), "document", ["storm " * 50])[0]) == 16
    longer = ColBERTStudent(model=str(folder), document_length=40)
    assert len(tokens_of(longer, "document", ["storm " * 50])[0]) == 40
    assert embedded(longer, longer.load("cpu"), "document", ["storm " * 50]).lengths.tolist() == [40]


def test_prefixes_are_one_token_each_and_join_the_vocabulary(tiny_model, tmp_path):
    student = ColBERTStudent(model=str(tiny_model), query_prefix="[Q]", document_prefix="storm")
    model = student.load("cpu")
    size = len(model.tokenizer)
    (query,), (document,) = (student.tokenize(model, ["wind"], role) for role in ("query", "document"))
    assert query.tolist()[:2] == [2, size - 1]
    assert document.tolist()[:2] == [2, model.tokenizer.convert_tokens_to_ids("storm")]
    assert model[0].auto_model.get_input_embeddings().num_embeddings == size
    again = student.load("cpu")
    assert torch.equal(
        model[0].auto_model.get_input_embeddings().weight, again[0].auto_model.get_input_embeddings().weight
    )
    student.save(model, tmp_path / "saved")
    saved = ColBERTStudent(model=str(tmp_path / "saved"))
    assert saved.tokenize(saved.load("cpu"), ["wind"], "query")[0].tolist() == query.tolist()


def test_punctuation_of_documents_has_no_vectors(tiny_model):
    student = ColBERTStudent(model=str(tiny_model), skip_punctuation=True)
    model = student.load("cpu")
    assert model[1].skiplist_words == list(string.punctuation)
    texts = ["storm . - wind", "..", "storm wind"]
    assert embedded(student, model, "document", texts).lengths.tolist() == [4, 2, 4]
    assert embedded(student, model, "query", texts).lengths.tolist() == [6, 4, 4]


def test_pooling_merges_a_documents_like_vectors(tiny_model):
    texts = ["storm wind rain thunder lightning cloud coast flood", "storm"]
    for factor, lengths in ((1.0, [10, 3]), (2.0, [1 + 4, 1 + 1]), (4.5, [1 + 2, 1 + 1])):
        student = ColBERTStudent(model=str(tiny_model), pooling=factor)
        model = student.load("cpu")
        found = embedded(student, model, "document", texts)
        assert found.lengths.tolist() == lengths
        torch.testing.assert_close(found.values.norm(dim=-1), torch.ones(sum(lengths)))
        assert embedded(student, model, "query", texts).lengths.tolist() == [10, 3]
    found.values.sum().backward()
    assert model[0].auto_model.get_input_embeddings().weight.grad.to_dense().abs().max() > 0


def test_pooling_of_a_model_that_pools_already_is_set_anew(tiny_model, tmp_path):
    first = ColBERTStudent(model=str(tiny_model), pooling=2.0)
    first.save(first.load("cpu"), tmp_path / "saved")
    model = ColBERTStudent(model=str(tmp_path / "saved"), pooling=3.0).load("cpu")
    assert [getattr(module, "pool_factor", None) for module in model] == [None, None, None, 3.0]


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.3, False)])
def test_dropout_acts_in_training_alone(tiny_model, dropout, same):
    student = ColBERTStudent(model=str(tiny_model), dropout=dropout)
    model = student.load("cpu")
    still = embedded(student, model, "query").values
    model.train()
    torch.manual_seed(0)
    assert torch.allclose(embedded(student, model, "query").values, still, atol=1e-6) == same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 8}, "dimensions: .* has vectors of 16 already; leave it out"),
        ({"document_length": 65}, "document_length: 65 is longer than the 64 positions"),
        ({"expansion": "fixed", "query_length": 100}, "query_length: 100 is longer than the 64 positions"),
    ],
)
def test_options_that_the_model_cannot_have(tiny_colbert, options, message):
    with pytest.raises(InputError, match=message):
        ColBERTStudent(model=str(tiny_colbert), **options).load("cpu")


def test_lengths_are_checked_before_a_weight_is_read(tiny_colbert):
    with pytest.raises(InputError, match="document_length: 65 is longer than the 64 positions"):
        ColBERTStudent(model=str(tiny_colbert), document_length=65).check()


def test_a_model_without_a_scoring_mask_cannot_expand(tiny_colbert, tmp_path):
    folder = shutil.copytree(tiny_colbert, tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([m for m in modules if "Mask" not in m["type"]]))
    with pytest.raises(InputError, match="has no MultiVectorMask, which expansion and skip_punctuation need"):
        ColBERTStudent(model=str(folder), query_length=9).load("cpu")


@pytest.mark.parametrize(
    "options", [{"pooling": 0.5}, {"query_prefix": "two words"}, {"expansion": "maybe"}, {"dimensions": 0}]
)
def test_options_that_cannot_be(options):
    with pytest.raises(ValidationError):
        ColBERTStudent(model="m", **options)


def test_identity_is_weights_and_options(tiny_colbert, tmp_path):
    identity = ColBERTStudent(model=str(tiny_colbert)).identity
    copy = shutil.copytree(tiny_colbert, tmp_path / "copy")
    assert ColBERTStudent(model=str(copy)).identity == identity
    for options in ({"pooling": 2.0}, {"query_length": 9}, {"dropout": 0.0}):
        assert ColBERTStudent(model=str(tiny_colbert), **options).identity != identity


def test_what_is_read_decides_which_tokens_are_shared(tiny_colbert):
    def reading(**options):
        student = ColBERTStudent(model=str(tiny_colbert), **options)
        return student.reading(student.load("cpu"))

    assert reading(pooling=2.0, dropout=0.0) == reading()
    for options in ({"query_length": 9}, {"expansion": "min"}, {"document_length": 9}, {"query_prefix": "[Q]"}):
        assert reading(**options) != reading()


def test_short_form_and_what_it_emits():
    student = build("student", "colbert:some/model")
    assert (student.model, student.emits, student.label) == ("some/model", "multi", "colbert:some/model")


# Checkpoints of others


@pytest.fixture
def pylate(tiny_colbert, tmp_path):
    """The tiny model as PyLate writes it: its own class for the projection, options at the top, no mask."""
    folder = shutil.copytree(tiny_colbert, tmp_path / "pylate")
    modules = json.loads((folder / "modules.json").read_text())[:2]
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    for name in ("query_expansion", "document_length"):
        settings.pop(name)
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps(
            {
                "model_type": "ColBERT", "query_prefix": "", "document_prefix": "", "query_length": 8,
                "document_length": 24, "attend_to_expansion_tokens": False, "skiplist_words": [".", "-"],
            }
        )
    )  # fmt: skip
    return folder


def test_a_pylate_model_is_the_same_student(pylate, tiny_colbert, tmp_path):
    assert models.model_type(str(pylate)) == "MultiVectorEncoder"
    theirs, ours = ColBERTStudent(model=str(pylate)), ColBERTStudent(model=str(tiny_colbert))
    model, expected = theirs.load("cpu"), ours.load("cpu")
    for role in ("query", "document"):
        one, other = embedded(theirs, model, role), embedded(ours, expected, role)
        assert one.lengths.tolist() == other.lengths.tolist()
        torch.testing.assert_close(one.values, other.values)
    theirs.save(model, tmp_path / "saved")
    again = ColBERTStudent(model=str(tmp_path / "saved"))
    torch.testing.assert_close(
        embedded(again, again.load("cpu"), "query").values, embedded(ours, expected, "query").values
    )


@pytest.fixture
def stanford(tiny_colbert, tmp_path):
    """The tiny model as Stanford's ColBERT writes it: the projection beside the encoder, options in their own file."""
    folder = tmp_path / "stanford"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_colbert / name, folder)
    weights = {f"bert.{name}": weight for name, weight in load_file(tiny_colbert / "model.safetensors").items()}
    projection = load_file(tiny_colbert / "1_Dense" / "model.safetensors")
    save_file({**weights, **projection}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tiny_colbert / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    (folder / "artifact.metadata").write_text(
        json.dumps({"query_maxlen": 8, "doc_maxlen": 24, "query_token_id": "storm", "doc_token_id": "wind"})
    )
    return folder


def test_stanfords_colbert_is_the_same_student(stanford, tiny_colbert):
    assert models.model_type(str(stanford)) == "MultiVectorEncoder"
    theirs, ours = ColBERTStudent(model=str(stanford)), ColBERTStudent(model=str(tiny_colbert))
    model, expected = theirs.load("cpu"), ours.load("cpu")
    one = embedded(theirs, model, "query", ["rain"])
    torch.testing.assert_close(one.values, embedded(ours, expected, "query", ["storm rain"]).values)
    one = embedded(theirs, model, "document", ["rain."])
    torch.testing.assert_close(one.values, embedded(ours, expected, "document", ["wind rain."]).values)


def test_its_options_decide_what_it_is(stanford):
    identity = ColBERTStudent(model=str(stanford)).identity
    (stanford / "artifact.metadata").write_text(json.dumps({"query_maxlen": 9}))
    assert ColBERTStudent(model=str(stanford)).identity != identity


@pytest.mark.parametrize("part", ["", "1_Dense"])
def test_pickled_weights_are_refused(pylate, part):
    weights = pylate / part / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle, which can run code; only safetensors"):
        ColBERTStudent(model=str(pylate)).load("cpu")
