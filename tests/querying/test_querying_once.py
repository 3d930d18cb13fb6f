"""Queries made of a corpus are made once, and again when anything that decides them changes."""

from __future__ import annotations

import json
import shutil
from typing import Literal

import pytest
from small_decoder import decoder, encoder_decoder

from retrodistill.collections import Collection, Texts
from retrodistill.language.local import LocalModel, Transformers
from retrodistill.querying import made_by, make_queries, once
from retrodistill.querying.excerpts import Sentence, Title
from retrodistill.querying.round_trip import RoundTrip
from retrodistill.registry import Part, build

DOCUMENTS = [
    (
        "zinc",
        "Zinc and colds",
        "Zinc lozenges shorten the common cold of many by days. It was not found of iron before.",
    ),
    (
        "iron",
        "Iron",
        "Iron tablets help against anaemia, as it is widely known. They help against little else as well.",
    ),
    (
        "odd",
        "A study of many things",
        "Quartz watches keep the time of day as well as others. Some keep it very badly.",
    ),
]
QUERIES = [("q1", "what shortens a cold"), ("q2", "what helps against anaemia")]
TRAIN, TEST = {"q1": {"zinc": 1}}, {"q2": {"iron": 1}}


class Author(Part):
    """Says a question of the document's first word; fails where it is told to."""

    kind: Literal["author"] = "author"
    mark: str = ""
    fails: str = "nothing"

    def open(self):
        return Opened(self)


class Other(Author):
    """Says another question."""

    kind: Literal["other"] = "other"

    def open(self):
        return Seller(self)


class Opened:
    local = True

    def __init__(self, options):
        self.options, self.identity = options, {"kind": "author", "mark": options.mark}

    def generate(self, prompts, max_tokens):
        documents = [prompt.messages[-1].content.rsplit("Document: ", 1)[1] for prompt in prompts]
        return [None if self.options.fails in text else f"What is {text.split()[0]} for?" for text in documents]


class Seller(Opened):
    def generate(self, prompts, max_tokens):
        said = super().generate(prompts, max_tokens)
        return [answer.replace("What is", "Who sells").replace(" for?", "?") for answer in said]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Labels of makers that made something, not those whose queries were kept."""
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    labels, make = [], once._made
    monkeypatch.setattr(once, "_made", lambda maker, *rest: labels.append(maker.label) or make(maker, *rest))
    return labels


@pytest.fixture(scope="module")
def t5(tiny_model, tmp_path_factory):
    first = encoder_decoder(decoder(tiny_model, tmp_path_factory.mktemp("llama")), tmp_path_factory.mktemp("t5"))
    second = shutil.copytree(first, tmp_path_factory.mktemp("other") / "t5")
    config = second / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    return first, str(second)


def collection(documents=DOCUMENTS, queries=QUERIES, train=TRAIN, name="c"):
    texts = Texts.documents(name, documents), Texts.queries(name, queries)
    return Collection(name, *texts, {"train": train, "test": TEST})


def title(**options):
    return build("queries", {"kind": "title", **options})


def written(says=None, **options):
    return build("queries", {"kind": "written", "model": says or Author(), **options})


def test_what_was_kept_is_what_would_be_made(made, capsys):
    makers = [title(round_trip={}), Sentence(limit=2), written(shots=1)]
    first = make_queries(makers, collection(), 0)
    assert len(first) == 8 and "unchanged" not in capsys.readouterr().err
    assert make_queries(makers, collection(), 0) == first
    assert made == ["title", "sentence:1", "written:question:author"]
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(", skipped")[0] for line in told] == [
        "title: 3 queries, unchanged", "sentence:1: 2 queries, unchanged", "written:question:author: 3 queries, unchanged",
    ]  # fmt: skip


def test_what_is_kept_wants_no_model_and_no_search(made, monkeypatch):
    makers = [written(round_trip={})]
    first = make_queries(makers, collection(), 0)
    monkeypatch.setattr(Opened, "generate", None)
    monkeypatch.setattr(RoundTrip, "_found", None)
    assert make_queries(makers, collection(), 0) == first


MOVED = [
    (doc, "Zinc and colds Zinc", text[5:]) if doc == "zinc" else (doc, head, text) for doc, head, text in DOCUMENTS
]


@pytest.mark.parametrize(
    ("maker", "other"),
    [
        (title(), {"documents": [*DOCUMENTS, ("new", "New", "Something.")]}),
        (title(), {"documents": DOCUMENTS[::-1]}),
        (title(), {"documents": [("tin", *DOCUMENTS[0][1:]), *DOCUMENTS[1:]]}),
        (title(), {"documents": MOVED}),  # what a model reads of it is the same
        (title(limit=2), {"seed": 1}),
        (title(limit=2), {"maker": title(limit=1)}),
        (title(), {"maker": Sentence()}),
        (title(), {"maker": title(round_trip={})}),
        (title(round_trip={}), {"maker": title(round_trip={"depth": 1})}),
        (title(round_trip={}), {"maker": title(round_trip={"sources": ["random"]})}),
        (title(round_trip={}), {"maker": title(round_trip={"sources": ["bm25", "random"]})}),
        (title(round_trip={}), {"maker": title(round_trip={"sources": [{"kind": "bm25", "k1": 2}]})}),
        (Sentence(), {"maker": Sentence(each=2)}),
        (Sentence(), {"maker": Sentence(where="last")}),
        (Sentence(), {"maker": Sentence(shortest=50)}),
        (Sentence(), {"maker": Sentence(longest=57)}),
        (written(), {"maker": written(Author(mark="x"))}),
        (written(), {"maker": written(form="claim")}),
        (written(), {"maker": written(each=2)}),
        (written(), {"maker": written(shots=0)}),
        (written(), {"maker": written(examples=[{"document": "a", "query": "b"}])}),
        (written(), {"maker": written(max_words=5)}),
        (written(), {"maker": written(shortest=11)}),
        (written(), {"maker": written(longest=299)}),
        (written(), {"train": {"q2": {"iron": 1}}}),
        (written(), {"train": {"q1": {"iron": 1}}}),
        (written(), {"queries": [("q1", "another"), QUERIES[1]]}),
    ],
)
def test_whatever_decides_them_makes_them_anew(made, tmp_path, monkeypatch, maker, other):
    changed = {"maker": maker, "seed": 0, **other}
    maker_then, seed = changed.pop("maker"), changed.pop("seed")
    make_queries([maker], collection(), 0)
    found = make_queries([maker_then], collection(**changed), seed)
    assert len(made) == 2
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "empty"))
    assert make_queries([maker_then], collection(**changed), seed) == found


@pytest.mark.parametrize(
    ("maker", "other"),
    [
        (title(), {"maker": title(source="unlabelled")}),
        (title(), {"name": "another"}),
        (title(), {"train": {"q1": {"odd": 1}}}),  # it looks at no label
        (written(), {"train": TRAIN | {"q1": {"zinc": 2}}}),  # what is shown is the same
        (written(examples=[{"document": "a", "query": "b"}]), {"train": {"q2": {"iron": 1}}}),
    ],
)
def test_what_decides_nothing_leaves_them(made, maker, other):
    then = other.get("maker", maker)
    first = make_queries([maker], collection(), 0)
    found = make_queries([then], collection(**{key: value for key, value in other.items() if key != "maker"}), 0)
    assert len(made) == 1
    assert [query._replace(role=then.source) for query in first] == found


def test_a_models_options_decide_what_it_draws(made, t5, monkeypatch):
    def drawn(model=t5[0], **options):
        make_queries([build("queries", {"kind": "doc2query", "model": model, "max_tokens": 4, **options})], c, 0)
        return len(made)

    c = collection()
    assert drawn() == drawn(batch_tokens=7) == 1
    different = [
        {"each": 2}, {"prefix": "ask: "}, {"sampling": {"top_k": 3}}, {"sampling": {"temperature": 2}},
        {"max_words": 3}, {"max_tokens": 5}, {"precision": "bf16"}, {"model": t5[1]},
    ]  # fmt: skip
    assert [drawn(**options) for options in different] == list(range(2, 2 + len(different)))
    monkeypatch.setattr(LocalModel, "generate", None)
    assert drawn() == drawn(**different[0]) == 1 + len(different)


def test_a_language_models_weights_decide_and_its_batches_do_not(t5):
    def told(model, **options):
        return written(Transformers(model=model, **options)).decided_by(collection(), 0)

    assert told(t5[0]) == told(t5[0], batch_tokens=1)
    assert len({json.dumps(one) for one in (told(t5[0]), told(t5[1]), told(t5[0], precision="bf16"))}) == 3


@pytest.mark.parametrize(("of", "name"), [(once, "VERSION"), (Title, "version")])
def test_a_changed_rule_makes_them_anew(made, monkeypatch, of, name):
    for version, times in ((1, 1), (2, 2), (1, 2)):
        monkeypatch.setattr(of, name, version)
        make_queries([title()], collection(), 0)
        assert len(made) == times


def test_a_class_without_a_version_of_its_own_makes_them_each_time(made, tmp_path):
    class Loud(Title):
        """Titles, cried."""

        def make(self, corpus, seed):
            return (query._replace(text=f"{query.text}!") for query in super().make(corpus, seed))

    assert title() != Loud()
    make_queries([title()], collection(), 0)
    for _ in range(2):
        assert make_queries([Loud()], collection(), 0)[0].text == "Zinc and colds!"
    assert len(made) == 3
    assert len(list((tmp_path / "cache" / "queries").iterdir())) == 1


def test_what_failed_is_asked_for_again(made):
    found = make_queries([written(Author(fails="Iron"), shots=0)], collection(), 0)
    assert [query.source for query in found] == ["zinc", "odd"]
    found = make_queries([written(shots=0)], collection(), 0)  # it answers now
    assert [query.source for query in found] == ["zinc", "iron", "odd"]
    assert len(made) == 2


@pytest.mark.parametrize(
    "damage",
    [lambda told: told[:50], lambda told: told.replace(b"colds", b"golds"), lambda _: b"[]", lambda _: b"\xff"],
    ids=["cut", "changed", "another", "no text"],
)
def test_a_damaged_file_is_made_again(made, tmp_path, damage):
    first = make_queries([title()], collection(), 0)
    (file,) = (tmp_path / "cache" / "queries").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert make_queries([title()], collection(), 0) == first
    assert make_queries([title()], collection(), 0) == first
    assert len(made) == 2


def test_makers_of_one_kind_stand_beside_each_other(capsys):
    """Names of their own for other queries; what both make is there once."""
    makers = [written(shots=0), written(Author(mark="!"), shots=0), written(Other(mark="seller"), shots=0)]
    first, second, third = made_by(makers, collection(), 0)
    assert [query.id for query in first] == [f"written-question-0-{doc}" for doc in ("zinc", "iron", "odd")]
    assert second == []
    assert "3 queries left out, which an earlier maker made" in capsys.readouterr().err
    assert [query.id for query in third] == [f"{query.id}~3" for query in first]
    assert third[0].text == "Who sells Zinc?"
    asked = collection().with_queries([*first, *second, *third], "train")
    assert asked.queries.text("written-question-0-iron~3") == "Who sells Iron?"
    assert make_queries(makers, collection(), 0) == first + third
