"""Every format reads what it wrote, says which line is wrong, and has the layout that other tools expect."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.errors import InputError
from retrodistill.formats.format import LABELS, NO_POSITIVE, SCORES, JudgedList, Listed, Written
from retrodistill.recipe import part
from retrodistill.registry import table

LISTS = [
    JudgedList("1", (Listed("11", 2.5, 1), Listed("12", -0.5, 0), Listed("13", 0.25, 0))),
    JudgedList("2", (Listed("21", 1.0, 1), Listed("22", 1e-7, 0))),
]


def opened(kind):
    return part("format", kind)


def read(kind, path):
    return list(opened(kind).read(path))


def joined(lists):
    """By query, each document's score and label."""
    found: dict[str, dict[str, tuple]] = {}
    for query, documents, _ in lists:
        found.setdefault(query, {}).update({doc.document: (doc.score, doc.label) for doc in documents})
    return found


def without(lists, *, scores=False, labels=False):
    return [
        JudgedList(
            query,
            tuple(
                d._replace(**({"score": None} if scores else {}), **({"label": None} if labels else {}))
                for d in documents
            ),
        )
        for query, documents, _ in lists
    ]


EXPECTED = {
    "colbert": LISTS,
    "margin_mse": LISTS,
    "pylate": without(LISTS, labels=True),
    "trec": without(LISTS, labels=True),
    "flagembedding": LISTS,
    "triplets": without(LISTS, scores=True),
    "dataset": LISTS,
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_was_written_is_read(kind, tmp_path):
    path = tmp_path / "lists"
    written = opened(kind).write(iter(LISTS), path)
    assert written.lines > 0
    lost = {"pylate": {LABELS: 2}, "trec": {LABELS: 2}, "triplets": {SCORES: 5}}
    assert written.left == lost.get(kind, {})
    got, wanted = joined(read(kind, path)), joined(EXPECTED[kind])
    assert got.keys() == wanted.keys()
    for query, documents in wanted.items():
        assert got[query].keys() == documents.keys()
        for doc, (score, label) in documents.items():
            assert got[query][doc] == (score if score is None else pytest.approx(score, rel=1e-6), label)


def test_every_format_is_tested():
    others = {"tevatron", "ntuples", "msmarco_hard_negatives"}  # below: they lose ids, width or are read only
    assert set(table("format")) == EXPECTED.keys() | others


def test_colbert_has_whole_numbers_as_ids_and_a_line_a_positive(tmp_path):
    two = [JudgedList("1", (Listed("11", 2.0, 1), Listed("x9", 0.5, 0), Listed("012", 1.0, 1)))]
    opened("colbert").write(two, tmp_path / "a")
    lines = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert lines == [[1, [11, 2.0], ["x9", 0.5]], [1, ["012", 1.0], ["x9", 0.5]]]


def test_colbert_never_mixes_scores_and_bare_ids(tmp_path):
    half = (Listed("1", 1.0, 1), Listed("2", None, 1), Listed("3", 0.5, 0), Listed("4", None, 0))
    opened("colbert").write([JudgedList("9", half)], tmp_path / "a")
    lines = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert lines == [[9, [1, 1.0], [3, 0.5]], [9, 2, 3, 4]]


def test_colbert_without_scores(tmp_path):
    (tmp_path / "a").write_text("[7, 3, 4]\n\n")
    assert read("colbert", tmp_path / "a") == [JudgedList("7", (Listed("3", None, 1), Listed("4", None, 0)))]


def test_margin_mse_is_positive_negative_query_positive_negative(tmp_path):
    opened("margin_mse").write(LISTS[1:], tmp_path / "a")
    assert (tmp_path / "a").read_text() == "1.0\t1e-07\t2\t21\t22\n"


def test_hard_negatives_of_several_systems_are_joined(tmp_path):
    row = {"qid": 3, "pos": [5], "neg": {"bm25": [6, 7], "msmarco-distilbert": [7, 8, 5]}}
    scored = {"qid": 4, "pos": [{"pid": 1, "ce-score": 9.5}], "neg": {"bm25": [{"pid": 2, "ce-score": -3}]}}
    (tmp_path / "a").write_text(f"{json.dumps(row)}\n{json.dumps(scored)}\n")
    first, second = read("msmarco_hard_negatives", tmp_path / "a")
    assert [(doc.document, doc.label) for doc in first.documents] == [("5", 1), ("6", 0), ("7", 0), ("8", 0)]
    assert second.documents == (Listed("1", 9.5, 1), Listed("2", -3.0, 0))
    with pytest.raises(InputError, match="only read"):
        opened("msmarco_hard_negatives").write(LISTS, tmp_path / "b")


def test_tevatron_joins_title_and_text(tmp_path):
    passage = {"docid": 9, "title": "Storms", "text": "Wind."}
    row = {"query_id": "1", "query": "wind", "positive_passages": [passage], "negative_passages": [{"text": "Rain."}]}
    (tmp_path / "a").write_text(json.dumps(row) + "\n")
    assert read("tevatron", tmp_path / "a") == [
        JudgedList("wind", (Listed("Storms Wind.", None, 1, "9"), Listed("Rain.", None, 0)), "1")
    ]
    opened("tevatron").write([*LISTS, JudgedList("3", (Listed("a", None, 0),))], tmp_path / "b")
    assert joined(read("tevatron", tmp_path / "b")) == joined(without(LISTS, scores=True))


def test_ntuples_have_one_width(tmp_path):
    assert opened("ntuples").write(LISTS, tmp_path / "a") == Written(
        2, Counter({SCORES: 4, "negatives behind the first 1 of their query": 1})
    )
    rows = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert rows == [
        {"anchor": "1", "positive": "11", "negative_1": "12"},
        {"anchor": "2", "positive": "21", "negative_1": "22"},
    ]
    assert read("ntuples", tmp_path / "a")[0].documents == (Listed("11", None, 1), Listed("12", None, 0))
    with pytest.raises(InputError, match="no negative"):
        opened("ntuples").write([JudgedList("1", (Listed("11", None, 1),))], tmp_path / "b")
    assert not (tmp_path / "b").exists()
    wide = part("format", {"kind": "ntuples", "negatives": 2})
    written = wide.write([*LISTS, JudgedList("3", (Listed("31", None, 0),))], tmp_path / "b")
    assert written == (1, {SCORES: 3, "documents of queries with fewer than 2 negatives": 2, NO_POSITIVE: 1})
    assert json.loads((tmp_path / "b").read_text())["negative_2"] == "13"


@pytest.mark.parametrize("kind", ["triplets", "ntuples"])
def test_columns_of_data_sets_may_have_other_names(kind, tmp_path):
    named = part("format", {"kind": kind, "query": "question", "positive": "answer", "negative": "wrong"})
    named.write(LISTS[1:], tmp_path / "a")
    row = json.loads((tmp_path / "a").read_text())
    assert row == {"question": "2", "answer": "21", "wrong" if kind == "triplets" else "wrong_1": "22"}
    assert list(named.read(tmp_path / "a")) == without(LISTS[1:], scores=True)
    with pytest.raises(InputError, match="must differ"):
        part("format", {"kind": kind, "query": "positive"})


NOT_WRITTEN = [
    ("colbert", {"documents of queries without a positive": 1, "documents without a score": 1}, 1),
    ("margin_mse", {"documents without a score": 1, "documents of queries without a scored positive and a scored negative": 1}, 1),
    ("pylate", {"documents without a score": 1, "labels of positives, which have no place in it": 1}, 2),
    ("trec", {"documents without a score": 1, "labels of positives, which have no place in it": 1}, 3),
    (
        "flagembedding",
        {"documents of queries without a positive": 1, "scores, as not every document of their query has one": 2},
        1,
    ),
    ("tevatron", {"documents of queries without a positive": 1, "scores, which have no place in it": 2}, 1),
    ("triplets", {"documents of queries without a positive and a negative": 1, "scores, which have no place in it": 2}, 2),
    ("dataset", {}, 2),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "left", "lines"), NOT_WRITTEN)
def test_what_a_format_has_no_place_for_is_told(kind, left, lines, tmp_path):
    lists = [
        JudgedList("1", (Listed("11", 2.0, 1), Listed("12", 3.0, 0), Listed("13", None, 0))),
        JudgedList("2", (Listed("21", 0.5, 0),)),
    ]
    assert opened(kind).write(lists, tmp_path / "a") == (lines, left)


def test_colbert_tells_of_scores_behind_a_positive_without_one(tmp_path):
    bare = [JudgedList("1", (Listed("11", None, 1), Listed("12", 3.0, 0)))]
    assert opened("colbert").write(bare, tmp_path / "a") == (1, {SCORES: 1})


@pytest.mark.parametrize("kind", ["pylate", "trec"])
def test_documents_stand_by_their_scores(kind, tmp_path):
    some = [JudgedList("1", (Listed("a", 0.5), Listed("b", 2.0), Listed("c", 0.5), Listed("d", 1.0)))]
    opened(kind).write(some, tmp_path / "a")
    assert [doc.document for row in read(kind, tmp_path / "a") for doc in row.documents] == ["b", "d", "a", "c"]


def test_flagembedding_leaves_scores_out_where_one_is_missing(tmp_path):
    some = [JudgedList("q", (Listed("a", 1.0, 1), Listed("b", None, 0)))]
    opened("flagembedding").write(some, tmp_path / "a")
    assert json.loads((tmp_path / "a").read_text()) == {"query": "q", "pos": ["a"], "neg": ["b"]}


def test_flagembedding_equals_its_documented_row(tmp_path):
    opened("flagembedding").write(LISTS[:1], tmp_path / "a")
    assert json.loads((tmp_path / "a").read_text()) == {
        "query": "1",
        "pos": ["11"],
        "neg": ["12", "13"],
        "pos_scores": [2.5],
        "neg_scores": [-0.5, 0.25],
    }


def test_data_sets_open_as_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    opened("dataset").write(without(LISTS, scores=True), tmp_path / "a.parquet")
    rows = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert rows[0] == {"query": "1", "documents": ["11", "12", "13"], "labels": [1, 0, 0], "scores": [None] * 3}


BROKEN = [
    ("colbert", "[1, [2, 3]]\n{}\n", "line 2: expected a list"),
    ("colbert", "[1]\n", "line 1"),
    ("colbert", "[1, [2, 3, 4]]\n", r"expected \[pid, score\]"),
    ("colbert", '[1, [2, "x"]]\n', "'x', expected a finite number"),
    ("colbert", "[1, [2, NaN]]\n", "finite"),
    ("colbert", "[1, [2, true]]\n", "finite"),
    ("colbert", "[1, [2,\n", "line 1: not JSON"),
    ("margin_mse", "1.0\t2.0\t3\t4\n", "got 4 columns"),
    ("margin_mse", "1.0\tinf\t3\t4\t5\n", "line 1: got 'inf'"),
    ("trec", "1 Q0 d 1 0.5\n", "got 5 columns"),
    ("pylate", '{"query_id": 1, "document_ids": [1, 2], "scores": [0.5]}\n', "2 document_ids and 1 scores"),
    ("pylate", '{"query_id": 1, "scores": [0.5]}\n', "has no 'document_ids'"),
    ("msmarco_hard_negatives", '{"qid": 1, "pos": [2], "neg": [3]}\n', "'neg' is list, expected dict"),
    ("flagembedding", '{"query": 1, "pos": [], "neg": []}\n', "'query' is int, expected str"),
    ("flagembedding", '{"query": "a", "pos": ["b"], "neg": [], "pos_scores": [1, 2]}\n', "2 pos_scores for 1 texts"),
    ("tevatron", '{"query": "a", "positive_passages": ["b"], "negative_passages": []}\n', "holds str"),
    ("triplets", '["a", "b", "c"]\n', "got list, expected a JSON object"),
    ("ntuples", '{"anchor": "a", "negative_1": "b"}\n', "has no 'positive'"),
    ("dataset", "no parquet", "cannot be read as Parquet"),
]


@pytest.mark.parametrize(("kind", "text", "message"), BROKEN)
def test_broken_lines_are_named(kind, text, message, tmp_path):
    (tmp_path / "file").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read(kind, tmp_path / "file")
    assert str(tmp_path / "file") in str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in EXPECTED if kind != "dataset"])
@given(st.binary(max_size=60))
def test_nothing_but_input_errors(kind, tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    try:
        for query, documents, _ in opened(kind).read(path):
            assert isinstance(query, str) and all(isinstance(doc.document, str) for doc in documents)
    except InputError as error:
        assert str(path) in str(error)


def test_columns_are_checked(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "a")
    with pytest.raises(InputError, match="has no column 'documents'; got question"):
        read("dataset", tmp_path / "a")
    pq.write_table(pa.table({"query": ["a"], "documents": [["b", "c"]], "scores": [[1.0]]}), tmp_path / "b")
    with pytest.raises(InputError, match="row 1: labels and scores must be one for each of the 2"):
        read("dataset", tmp_path / "b")


def test_ids_with_spaces_are_no_trec_run(tmp_path):
    with pytest.raises(InputError, match="no spaces"):
        opened("trec").write([JudgedList("q 1", (Listed("d", 1.0),))], tmp_path / "a")
