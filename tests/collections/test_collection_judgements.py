import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrodistill.collections import Collection, Texts, read_qrels
from retrodistill.errors import InputError, Problems

HEADER = "query-id\tcorpus-id\tscore"


def written(tmp_path, *lines, end="\n"):
    path = tmp_path / "test.tsv"
    path.write_bytes(end.join(lines).encode() if all(isinstance(line, str) for line in lines) else b"\n".join(lines))
    return path


@pytest.mark.parametrize(
    "lines",
    [
        [HEADER, "q1\td1\t2", "q1\td2\t-1", "q2\td1\t0"],
        ["q1\td1\t2", "q1\td2\t-1", "q2\td1\t0"],
        ["q1 0 d1 2", "q1 0 d2 -1", "q2 Q0 d1 0"],
        ["q1\t0\td1\t2", "q1  0  d2  -1", "q2 0 d1 +0"],
        ["query_id\t0\tdoc\tgrade", "q1\t0\td1\t2", "", "q1 0 d2 -1", "q2 0 d1 0", ""],
        ["\ufeff" + HEADER, "q1\td1\t2", "q1\td1\t2", "q1\td2\t-1", "q2\td1\t0"],
    ],
    ids=["BEIR", "BEIR without header", "TREC", "TREC with tabs", "TREC with header", "BOM, same judgement twice"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_formats(tmp_path, lines, end):
    assert read_qrels(written(tmp_path, *lines, end=end)) == {"q1": {"d1": 2, "d2": -1}, "q2": {"d1": 0}}


def test_beir_ids_may_hold_spaces(tmp_path):
    assert read_qrels(written(tmp_path, HEADER, "my query\ta document\t1")) == {"my query": {"a document": 1}}


BROKEN = {
    "two columns": ([HEADER, "q1\td1"], "line 2: got 2 columns, expected 3 separated by tabs"),
    "spaces for tabs": (["q1 d1 1"], "line 1: got 3 without tabs, expected 3 separated by tabs"),
    "five columns": ([HEADER, "q1\td1\t1", "q1\td2\t1\tx\ty"], "line 3: got 5 columns"),
    "formats mixed": ([HEADER, "q1\td1\t1", "q1 0 d2 1"], "line 3: got 4 columns, expected 3 as in the first line"),
    "word for a grade": ([HEADER, "q1\td1\tyes"], "line 2: the grade 'yes' is no integer"),
    "fraction for a grade": ([HEADER, "q1\td1\t0.5"], "line 2: the grade '0.5' is no integer"),
    "underscore in a grade": ([HEADER, "q1\td1\t1_0"], "line 2: the grade '1_0' is no integer"),
    "empty grade": ([HEADER, "q1\td1\t"], "line 2: the grade '' is no integer"),
    "empty id": ([HEADER, "\td1\t1"], "line 2: the query id or the document id is empty"),
    "header twice": ([HEADER, HEADER, "q1\td1\t1"], "line 2: the grade 'score' is no integer"),
    "first judgement is no header": (["q1\td1\tx", "q1\td2\t1"], "line 1: the grade 'x' is no integer"),
    "two grades": (
        [HEADER, "q1\td1\t1", "q1\td1\t2"],
        "line 3: query 'q1' and document 'd1' have grade 2 here and 1 in line 2",
    ),
    "empty file": ([""], "there are no judgements"),
    "header alone": ([HEADER], "there are no judgements"),
    "latin-1": ([HEADER.encode(), b"q\xe9\td1\t1"], "line 2: not UTF-8 text"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_qrels_name_file_and_line(tmp_path, case):
    lines, message = BROKEN[case]
    path = written(tmp_path, *lines)
    with pytest.raises(InputError, match=message) as caught:
        read_qrels(path)
    assert str(path) in str(caught.value)


def test_mistakes_are_told_together(tmp_path):
    with pytest.raises(Problems) as caught:
        read_qrels(written(tmp_path, HEADER, "q1\td1\tx", "q1\td2\t1", "q1\td3"))
    assert [problem[:6] for problem in caught.value.problems] == ["line 2", "line 4"]


def test_unknown_names_are_counted_and_the_first_three_shown(tmp_path):
    lines = [HEADER, "q1\td1\t1", "q1\td8\t1", "q8\td1\t0", "q9\td9\t1", "q1\td7\t1"]
    path = written(tmp_path, *lines)
    with pytest.raises(InputError) as caught:
        read_qrels(path, queries={"q1"}, documents={"d1"})
    message = str(caught.value)
    assert "4 judgements name" in message and "and 1 more" in message
    assert "line 3: document 'd8'; line 4: query 'q8'; line 5: query 'q9' and document 'd9'" in message
    assert "d7" not in message
    assert len(read_qrels(path)) == 3, "without a collection any name goes"
    with pytest.raises(InputError, match=r"1 judgement names .*line 2: document 'd1'"):
        read_qrels(written(tmp_path, *lines[:2]), documents={"d2"})


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv: there is no such file"):
        read_qrels(tmp_path / "none.tsv")


ids = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    qrels=st.dictionaries(
        ids, st.dictionaries(ids, st.integers(-3, 10), min_size=1, max_size=4), min_size=1, max_size=4
    ),
    trec=st.booleans(),
)
def test_both_formats_give_back_what_was_written(tmp_path, qrels, trec):
    pairs = [(query, document, grade) for query, row in qrels.items() for document, grade in row.items()]
    lines = [f"{q} 0 {d} {g}" if trec else f"{q}\t{d}\t{g}" for q, d, g in pairs]
    path = written(tmp_path, *([] if trec else [HEADER]), *lines)
    found = read_qrels(path, qrels.keys(), {d for _, d, _ in pairs})
    assert found == qrels and list(found) == list(qrels)


def judged(*queries):
    texts = Texts.queries("c", [(query, f"text of {query}") for query in queries])
    corpus = Texts.documents("c", [("d", "", "a document")])
    return Collection("c", corpus, texts, {"train": {query: {"d": 1} for query in queries}})


def test_queries_held_out_leave_the_split_and_stay_where_they_are_when_more_come():
    queries = [f"q{number}" for number in range(400)]
    whole = judged(*queries)
    made = whole.hold_out("train", 0.25)
    assert made.splits == ["train", "dev"]
    held = set(made.qrels("dev"))
    assert held.isdisjoint(made.qrels("train"))
    assert held | set(made.qrels("train")) == set(queries)
    assert 70 <= len(held) <= 130
    assert len(whole.qrels("train")) == 400  # the collection that was asked is as it was
    assert set(judged(*queries[::-1], "more").hold_out("train", 0.25).qrels("dev")) - {"more"} == held
    assert set(whole.hold_out("train", 0.1).qrels("dev")) < held
    assert made.digest == whole.digest


def test_what_cannot_be_held_out():
    with pytest.raises(InputError, match="leaves 0 to train on and 1 to measure on; choose another share"):
        judged("only").hold_out("train", 0.999999)
    with pytest.raises(InputError, match="c has a split 'train' of its own; use it, and hold nothing out"):
        judged("a", "b").hold_out("train", 0.5, "train")
