"""Queries drawn from an encoder-decoder: the same ones in whatever batches, and none drawn twice."""

from __future__ import annotations

import pytest
from small_decoder import decoder, encoder_decoder

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.language.local import LocalModel
from retrodistill.language.sampling import Sampling
from retrodistill.querying import make_queries
from retrodistill.querying.doc2query import Doc2Query

DOCUMENTS = [
    ("d0", "Storm", "The wind and the rain of the coast."), ("d1", "Bread", "Flour and yeast."), ("d2", "", "chess"),
    ("d3", "Bridge", "steel and arch and river " * 6), ("d4", "Comet", "orbit tail ice"),
]  # fmt: skip


@pytest.fixture(scope="module")
def llama(tiny_model, tmp_path_factory):
    return decoder(tiny_model, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def t5(llama, tmp_path_factory):
    return encoder_decoder(llama, tmp_path_factory.mktemp("t5"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch):
    """How many answers the model was asked for."""
    counts = []
    generate = LocalModel.generate
    monkeypatch.setattr(
        LocalModel,
        "generate",
        lambda self, prompts, *rest: counts.append(len(prompts)) or generate(self, prompts, *rest),
    )
    return counts


def collection(documents=DOCUMENTS):
    return Collection("c", Texts.documents("c", documents), Texts.queries("c", []), {})


def texts_of(maker, documents=DOCUMENTS, seed=0):
    return {query.id: query.text for query in maker.make(collection(documents).corpus, seed)}


def test_the_same_queries_whatever_the_batches_and_the_other_documents(t5, tmp_path, monkeypatch):
    found = texts_of(Doc2Query(model=t5, each=3, max_tokens=6))
    assert len(found) > 8
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "other"))
    assert texts_of(Doc2Query(model=t5, each=3, max_tokens=6, batch_tokens=1)) == found
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "third"))
    few = texts_of(Doc2Query(model=t5, each=1, max_tokens=6), DOCUMENTS[3:])
    assert few == {name: found[name] for name in few}
    assert few


def test_seed_and_sampling_decide(t5):
    first = texts_of(Doc2Query(model=t5, max_tokens=6))
    assert texts_of(Doc2Query(model=t5, max_tokens=6), seed=1) != first
    greedy = Doc2Query(model=t5, max_tokens=6, sampling=Sampling(temperature=0))
    # which document keeps a query that several have is by chance still
    assert set(texts_of(greedy).values()) == set(texts_of(greedy, seed=1).values())


def test_the_likeliest_are_transformers_own(t5):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(t5), AutoTokenizer.from_pretrained(t5)
    found = texts_of(Doc2Query(model=t5, max_tokens=6, prefix="storm ", sampling=Sampling(temperature=0)))
    for name, text in found.items():
        document = collection().corpus.text(name.removeprefix("doc2query-0-"))
        ids = tokenizer("storm " + document, return_tensors="pt")["input_ids"]
        expected = model.generate(ids, max_new_tokens=6, do_sample=False)[0, 1:]  # behind the start
        assert text == " ".join(tokenizer.decode(expected, skip_special_tokens=True).split())


def test_no_query_is_drawn_twice(t5, asked):
    maker = Doc2Query(model=t5, each=2, max_tokens=4)
    first = make_queries([maker], collection(), 0)
    assert sum(asked) == 10
    assert make_queries([maker], collection(), 0) == first
    assert sum(asked) == 10
    make_queries([Doc2Query(model=t5, each=3, max_tokens=4)], collection(), 0)  # the third of each document alone
    assert sum(asked) == 15


def test_empty_and_repeated_ones_are_counted(t5, monkeypatch, capsys):
    said = iter(["a query", " ", "A  query", "another", ""])
    monkeypatch.setattr(LocalModel, "generate", lambda self, prompts, *_: [next(said) for _ in prompts])
    found = make_queries([Doc2Query(model=t5)], collection(), 0)
    assert sorted(query.text.casefold() for query in found) == ["a query", "another"]
    assert {query.role for query in found} == {"relevant"}
    assert "dropped 2 empty, 1 repeated" in capsys.readouterr().err


def test_what_is_no_encoder_decoder_is_refused(t5, llama):
    with pytest.raises(InputError, match=r"needs an encoder-decoder such as a T5; .* is a llama; .*kind: written"):
        Doc2Query(model=llama).check()
    with pytest.raises(InputError, match="not GGUF files"):
        Doc2Query(model="some.gguf").check()
    with pytest.raises(InputError, match="at temperature 0 a document has one query; got each: 2"):
        Doc2Query(model=t5, each=2, sampling=Sampling(temperature=0)).check()
    Doc2Query(model=t5).check()
