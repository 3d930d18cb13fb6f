"""Files of other tools become candidates of a collection, and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from retrodistill.candidates import Candidates
from retrodistill.errors import InputError
from retrodistill.formats.exchange import imported, lists_of
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
    candidates, scores, repeated = imported(part("format", "colbert"), path, collection)
    assert repeated == 1
    assert candidates.queries == ["q-storm0", "q-bread0"]
    assert candidates.doc_ids == ["storm0", "bread0", "storm1", "bread0"]
    np.testing.assert_array_equal(scores, np.float32([3, 1, 2.5, 2]))
    np.testing.assert_array_equal(candidates.labels, [1, 0, 1, 1])


@pytest.mark.parametrize("turned", [False, True])
def test_a_positive_that_is_once_a_negative_stays_positive(collection, tmp_path, turned):
    rows = ["9\t1\tq-storm0\tstorm0\tstorm1\n", "5\t2\tq-storm0\tstorm1\tbread0\n"]
    (tmp_path / "a").write_text("".join(rows[::-1] if turned else rows))
    candidates, _, repeated = imported(part("format", "margin_mse"), tmp_path / "a", collection)
    assert repeated == 1
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
    assert [tuple(doc) for doc in lists[0].documents] == [("storm0", 1.5, 1), ("bread1", None, 0), ("chess0", -2.0, 0)]
    (texts,) = lists_of(part("format", "dataset"), Candidates.of(rows), None, collection)
    assert texts.query == collection.queries.text("q-storm0")
    assert texts.documents[0].document == collection.corpus.text("storm0")
