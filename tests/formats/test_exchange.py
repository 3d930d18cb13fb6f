"""Files of other tools become candidates of a collection, and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.formats.exchange import EMPTY, REPEATED, SHARED, imported, lists_of
from retrodistill.recipe import part


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pieces_of_a_query_are_joined_and_repeats_counted(collection, tmp_path):
    path = write(
        tmp_path / "a",
        ["q-storm0", ["storm0", 3.0], ["bread0", 1.0]],
        ["q-bread0", ["bread0", 2.0]],
        ["q-storm0", ["storm1", 2.5], ["bread0", 9.0]],
    )
    candidates, scores, told = imported(part("format", "colbert"), path, collection)
    assert told == {REPEATED: 1}
    assert candidates.queries == ["q-storm0", "q-bread0"]
    assert candidates.doc_ids == ["storm0", "bread0", "storm1", "bread0"]
    np.testing.assert_array_equal(scores, np.float32([3, 1, 2.5, 2]))
    np.testing.assert_array_equal(candidates.labels, [1, 0, 1, 1])


@pytest.mark.parametrize("turned", [False, True])
def test_a_positive_that_is_once_a_negative_stays_positive(collection, tmp_path, turned):
    rows = ["9\t1\tq-storm0\tstorm0\tstorm1\n", "5\t2\tq-storm0\tstorm1\tbread0\n"]
    (tmp_path / "a").write_text("".join(rows[::-1] if turned else rows))
    candidates, _, told = imported(part("format", "margin_mse"), tmp_path / "a", collection)
    assert told == {REPEATED: 1}
    labels = dict(zip(candidates.doc_ids, candidates.labels.tolist(), strict=True))
    assert labels == {"storm0": 1, "storm1": 1, "bread0": 0}


def test_texts_find_their_ids(collection, tmp_path):
    text = collection.corpus.text("chess2")
    path = write(tmp_path / "a", {"query": f"  {collection.queries.text('q-chess1')}", "pos": [text], "neg": []})
    candidates, scores, _ = imported(part("format", "flagembedding"), path, collection)
    assert candidates.queries == ["q-chess1"] and candidates.doc_ids == ["chess2"]
    assert np.isnan(scores).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["nobody", ["storm0", 1.0]], "query 'nobody' is not in"),
        (["q-storm0", ["void", 1.0]], "document 'void' is not in"),
    ],
)
def test_another_collections_ids_are_refused(row, message, collection, tmp_path):
    with pytest.raises(InputError, match=message):
        imported(part("format", "colbert"), write(tmp_path / "a", row), collection)


def test_an_empty_file_is_refused(collection, tmp_path):
    with pytest.raises(InputError, match="there is no list"):
        imported(part("format", "colbert"), write(tmp_path / "a"), collection)


def test_unlabelled_candidates_are_negatives_and_missing_scores_none(collection):
    rows = {
        "q-storm0": [("storm0", "bm25", 1, 9.0, 2), ("bread1", "bm25", 2, 8.0, None), ("chess0", "bm25", 3, 7.0, 0)]
    }
    lists = list(lists_of(part("format", "colbert"), Candidates.of(rows), np.float32([1.5, np.nan, -2]), collection))
    assert [tuple(doc[:3]) for doc in lists[0].documents] == [
        ("storm0", 1.5, 1),
        ("bread1", None, 0),
        ("chess0", -2.0, 0),
    ]
    (texts,) = lists_of(part("format", "dataset"), Candidates.of(rows), None, collection)
    assert texts.query == collection.queries.text("q-storm0")
    assert texts.documents[0].document == collection.corpus.text("storm0")


def twins():
    """Two documents and two queries of equal text, and one of each that is alone."""
    corpus = Texts.documents("toy", [("a", "Wind", "blows"), ("b", "", "Wind blows"), ("c", "", "rain")])
    return Collection("toy", corpus, Texts.queries("toy", [("q", "wind?"), ("r", "wind?"), ("s", "rain?")]), {})


def test_tevatron_tells_documents_of_one_text_apart_by_their_ids(tmp_path):
    rows = {
        "r": [("b", "bm25", 1, 9.0, 1), ("a", "bm25", 2, 8.0, None), ("c", "bm25", 3, 7.0, None)],
        "q": [("c", "bm25", 1, 9.0, 1)],
    }
    collection, form = twins(), part("format", "tevatron")
    form.write(lists_of(form, Candidates.of(rows), None, collection), tmp_path / "a")
    line = json.loads((tmp_path / "a").read_text().splitlines()[0])
    assert line["query_id"] == "r" and line["positive_passages"][0]["docid"] == "b"
    candidates, _, told = imported(form, tmp_path / "a", collection)
    assert list(zip(candidates.query_ids, candidates.doc_ids, strict=True)) == [
        ("r", "b"),
        ("r", "a"),
        ("r", "c"),
        ("q", "c"),
    ]
    assert candidates.labels.tolist() == [1, 0, 0, 1]
    assert not told


def test_ids_that_are_not_the_collections_are_passed_over(tmp_path):
    """A file may number its passages, and the collection may have these numbers for others."""
    row = {"query_id": "s", "query": "wind?", "positive_passages": [{"docid": "a", "text": "rain"}]}
    path = write(tmp_path / "a", {**row, "negative_passages": [{"docid": "17", "text": "Wind blows"}]})
    candidates, _, told = imported(part("format", "tevatron"), path, twins())
    assert (candidates.queries, candidates.doc_ids) == (["q"], ["c", "a"])
    assert told == {SHARED: 2}  # the query, and the negative


def test_texts_that_several_have_and_lists_without_documents_are_counted(tmp_path):
    path = write(
        tmp_path / "a",
        {"query": "rain?", "pos": ["rain"], "neg": ["Wind blows", " Wind blows"]},
        {"query": "wind?", "pos": [], "neg": []},
    )
    candidates, _, told = imported(part("format", "flagembedding"), path, twins())
    assert (candidates.query_ids, candidates.doc_ids) == (["s", "s"], ["c", "a"])
    assert told == {SHARED: 3, REPEATED: 1, EMPTY: 1}
