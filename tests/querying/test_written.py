"""Queries of a language model: what it is shown, how its answers are read, and that none is asked for twice."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.querying import make_queries
from retrodistill.querying.written import Written, lines_of
from retrodistill.registry import Part

DOCUMENTS = [(f"d{n}", f"Title {n}", f"Words of document number {n} and more.") for n in range(6)]


class Author(Part):
    """Says what `says` has for the number of the document, and remembers what it was asked."""

    kind: Literal["author"] = "author"
    says: str = "1. What is number {n}?"
    mark: str = ""

    def open(self):
        return Opened(self)


class Opened:
    local = True
    asked: list[Any] = []  # noqa: RUF012 - shared, and emptied by the fixture

    def __init__(self, options):
        self.options = options
        self.identity = {"kind": "author", "says": options.says, "mark": options.mark}

    def generate(self, prompts, max_tokens):
        said = []
        for prompt in prompts:
            text = prompt.messages if isinstance(prompt.messages, str) else prompt.messages[-1].content
            Opened.asked.append(text)
            number = text.rsplit("document number ", 1)[1].split()[0]
            said.append(None if self.options.says == "FAIL" else self.options.says.replace("{n}", number))
        return said


@pytest.fixture
def collection():
    Opened.asked.clear()
    queries = Texts.queries("c", [("q1", "asked one"), ("q2", "asked two")])
    return Collection("c", Texts.documents("c", DOCUMENTS), queries, {"train": {"q1": {"d1": 1}, "q2": {"d2": 2}}})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))


def made(collection, says="1. What is number {n}?", seed=0, **options):
    maker = Written(model=Author(says=says), **{"shots": 0, **options})
    return make_queries([maker], collection, seed)


def test_a_query_a_document_with_its_source(collection):
    found = made(collection)
    assert [(query.id, query.text, query.source) for query in found] == [
        (f"written-question-0-d{n}", f"What is number {n}?", f"d{n}") for n in range(6)
    ]


def test_what_is_shown_ends_with_the_document_and_begins_the_same_for_all(collection):
    made(collection, shots=2, form="claim")
    assert len(Opened.asked) == 6
    common = Opened.asked[0].split("\n\nDocument: Title")[0]
    assert "claim in one sentence" in common
    assert all(text.startswith(common) and text.endswith(" and more.\nClaim:") for text in Opened.asked)
    assert all("Claim: asked one" in text and "Claim: asked two" in text for text in Opened.asked)
    Opened.asked.clear()
    made(collection, examples=[{"document": "my doc", "query": "my query"}], chat=False)
    assert all("Document: my doc\nQuestion: my query" in text and "asked one" not in text for text in Opened.asked)


def test_answers_are_asked_for_once_also_after_a_crash(collection, monkeypatch):
    monkeypatch.setattr("retrodistill.language.kept._AT_ONCE", 2)
    whole = Opened.generate

    def killed(self, prompts, max_tokens):
        if len(Opened.asked) >= 4:
            raise KeyboardInterrupt
        return whole(self, prompts, max_tokens)

    monkeypatch.setattr(Opened, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        made(collection)
    monkeypatch.setattr(Opened, "generate", whole)
    assert len(made(collection)) == 6
    assert len(Opened.asked) == 6 == len(set(Opened.asked))
    made(collection)
    assert len(Opened.asked) == 6
    made(collection, form="keywords")  # another question
    assert len(Opened.asked) == 12


def test_a_limit_asks_about_few_documents_and_more_keep_the_same(collection, monkeypatch):
    monkeypatch.setattr("retrodistill.querying.written._AT_ONCE", 1)
    few = made(collection, limit=2)
    assert len(few) == 2 == len(Opened.asked)
    assert set(few) < set(made(collection, limit=4))
    drawn = {tuple(query.id for query in made(collection, limit=2, seed=seed)) for seed in range(5)}
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ('Question: "Is zinc good?"', ["Is zinc good?"]),
        ("1) first one\n2. second one\n- third one\n\n**fourth**", ["first one", "second one", "third one", "fourth"]),
        ("Query 1: what  is\tthis", ["what is this"]),
        ("2 grams of salt are enough", ["2 grams of salt are enough"]),
        ("", []),
    ],
)
def test_answers_are_read_line_by_line(answer, lines):
    assert lines_of(answer) == lines


@given(st.text())
def test_lines_are_never_empty_and_on_one_line(answer):
    assert all(line.strip() and "\n" not in line for line in lines_of(answer))


@pytest.mark.parametrize(
    "says",
    ["I'm sorry, I cannot do that.", "Title {n}", "Document: words of number {n}", "short", "x" * 301, "FAIL", "- "],
)
def test_what_is_no_query_is_dropped(collection, says):
    with pytest.raises(InputError, match="makes none of the documents"):
        made(collection, says=says)


def test_repeated_queries_are_kept_once(collection):
    assert len(made(collection, says="What is in this document?")) == 1


def test_several_a_document(collection):
    found = made(collection, says="1. What is {n}, then?\n2. Why is {n} so?\n3. How is {n} done?", each=2)
    assert len(found) == 12
    assert [query.text for query in found[:2]] == ["What is 0, then?", "Why is 0 so?"]
