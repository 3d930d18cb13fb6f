"""Labelled queries are dealt into folds: together what tells each other's labels, and none twice."""

from __future__ import annotations

from collections import Counter

import pytest

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.folds import Folds


def made(relevant, texts=None):
    """A collection of queries with these relevant documents."""
    documents = sorted({doc for docs in relevant.values() for doc in docs}) or ["d"]
    queries = [(query, (texts or {}).get(query, f"text of {query}")) for query in relevant]
    qrels = {query: dict.fromkeys(docs, 1) for query, docs in relevant.items()}
    corpus = Texts.documents("made", [(doc, "", f"document {doc}") for doc in documents])
    return Collection("made", corpus, Texts.queries("made", queries), {"train": qrels})


def folds_of(collection, count):
    folds = Folds.of(collection, "train", count)
    return folds, {query: folds.fold_of(collection.queries.text(query)) for query in collection.queries.ids}


def test_folds_are_of_one_size_and_hold_every_labelled_query():
    collection = made({f"q{number}": [f"d{number}"] for number in range(31)})
    folds, found = folds_of(collection, 3)
    assert sorted(Counter(found.values()).values()) == [10, 10, 11]
    for fold in range(3):
        unseen = folds.unseen(fold, collection, collection.queries.ids)
        assert {query for query in found if found[query] != fold} == set(unseen)


def test_queries_that_share_a_document_or_a_text_stay_together():
    relevant = {f"q{number}": [f"d{number}"] for number in range(20)}
    relevant |= {"a": ["shared", "x"], "b": ["shared"], "c": ["x"]}
    collection = made(relevant, {"q0": "The same  question", "q1": "the same question"})
    _, found = folds_of(collection, 4)
    assert found["a"] == found["b"] == found["c"]
    assert found["q0"] == found["q1"]


def test_where_all_are_joined_only_texts_count():
    collection = made({f"q{number}": ["everyone", f"d{number}"] for number in range(10)})
    _, found = folds_of(collection, 2)
    assert sorted(Counter(found.values()).values()) == [5, 5]


def test_only_what_is_too_large_for_a_fold_is_split(capsys):
    relevant = {f"q{number}": ["everyone", f"d{number}"] for number in range(10)}
    relevant |= {"a": ["shared"], "b": ["shared"], "c": ["other"], "d": ["other"]}
    _, found = folds_of(made(relevant), 2)
    assert found["a"] == found["b"] and found["c"] == found["d"]
    assert sorted(Counter(found.values()).values()) == [7, 7]
    assert "10 of 14 queries are joined by relevant documents" in capsys.readouterr().err


def test_no_order_of_files_decides():
    relevant = {f"q{number}": [f"d{number % 7}"] for number in range(30)}
    _, one = folds_of(made(relevant), 3)
    _, other = folds_of(made(dict(reversed(relevant.items()))), 3)
    assert one == other


def test_they_are_kept_and_read(tmp_path):
    collection = made({f"q{number}": [f"d{number}"] for number in range(9)} | {"unlabelled": []})
    folds, found = folds_of(collection, 3)
    folds.write(tmp_path)
    again = Folds.read(tmp_path)
    assert again.digest == folds.digest and again.count == 3
    assert {query: again.fold_of(collection.queries.text(query)) for query in found} == found
    assert found["unlabelled"] is None and again.fold_of("another question") is None
    with pytest.raises(InputError, match="holds no folds"):
        Folds.read(tmp_path / "elsewhere")


def test_too_many_folds_are_refused():
    with pytest.raises(InputError, match=r"3 labelled queries make 3 groups .* too few for 4 folds"):
        Folds.of(made({"a": ["1"], "b": ["2"], "c": ["3"]}), "train", 4)
