from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retrodistill.errors import InputError
from retrodistill.runs import cut, id_order, ranked, read_run, top_rows, write_run

IDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Z"]), min_size=1, max_size=6)
SCORES = st.floats(allow_nan=False, allow_infinity=False)


def test_the_best_score_comes_first_and_ties_go_to_the_greater_id():
    assert ranked({"a": 1.0, "c": 1.0, "b": 2.0, "d": -1.0}) == ["b", "c", "a", "d"]


def test_ids_are_compared_as_text_not_as_numbers():
    assert ranked({"10": 0.0, "9": 0.0, "100": 0.0}) == ["9", "100", "10"]


def test_scores_that_are_equal_as_32_bit_floats_are_ties():
    assert ranked({"a": 20.00000001, "b": 20.0}) == ["b", "a"]
    assert ranked({"a": 20.001, "b": 20.0}) == ["a", "b"]


def test_cut_keeps_the_best_in_order_and_the_scores_as_they_are():
    scores = {"a": 0.1, "b": 0.3, "c": 0.3, "d": 0.2}
    assert list(cut(scores, 3).items()) == [("c", 0.3), ("b", 0.3), ("d", 0.2)]
    assert cut(scores, 10) == scores
    assert list(scores) == ["a", "b", "c", "d"]


@settings(deadline=None)
@given(st.data())
def test_top_rows_are_the_head_of_the_full_order(data):
    scores = data.draw(hnp.arrays(np.float32, st.integers(0, 40), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])))
    ids = data.draw(st.lists(IDS, min_size=len(scores), max_size=len(scores), unique=True))
    depth = data.draw(st.integers(0, 45))
    expected = ranked(dict(zip(ids, scores.tolist(), strict=True)))[:depth]
    assert [ids[row] for row in top_rows(scores, depth, id_order(ids))] == expected


def test_top_rows_refuse_scores_that_have_no_order():
    with pytest.raises(InputError, match="1 of 3 scores are NaN"):
        top_rows(np.array([0.0, np.nan, 1.0], dtype=np.float32), 2, np.arange(3))


@settings(max_examples=50, deadline=None)
@given(run=st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=5), min_size=1, max_size=4))
def test_a_run_comes_back_as_it_was_written(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.trec"
    write_run(path, run, "tag")
    assert read_run(path) == run


def test_a_run_file_has_six_fields_and_ranks_from_one(tmp_path):
    write_run(tmp_path / "run.trec", {"q": {"a": 1.0, "b": 2.5}}, "my system")
    assert (tmp_path / "run.trec").read_text() == "q Q0 b 1 2.5 my_system\nq Q0 a 2 1.0 my_system\n"


def test_numpy_scores_are_written_as_numbers(tmp_path):
    write_run(tmp_path / "run.trec", {"q": {"a": np.float32(0.1), "b": np.float64(0.2)}}, "t")
    run = read_run(tmp_path / "run.trec")
    assert run["q"]["a"] == float(np.float32(0.1))
    assert run["q"]["b"] == 0.2


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_are_read(tmp_path):
    path = tmp_path / "run.trec"
    path.write_bytes(b"\xef\xbb\xbfq Q0 d1 1 2.0 t\r\n\r\nq\tQ0\td2\t2\t1e-1\tt\r\n")
    assert read_run(path) == {"q": {"d1": 2.0, "d2": 0.1}}


@pytest.mark.parametrize("name", ["a b", "", "a\tb", " a", "a\u00a0b", "a\n"])
def test_ids_that_the_format_cannot_carry_are_refused_and_nothing_is_left(tmp_path, name):
    for run in ({name: {"d": 1.0}}, {"q": {name: 1.0}}):
        with pytest.raises(InputError, match="white space"):
            write_run(tmp_path / "run.trec", run, "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_cannot_be_read_back_are_refused(tmp_path, score):
    with pytest.raises(InputError, match=r"document 'd'.*no finite number"):
        write_run(tmp_path / "run.trec", {"q": {"d": score}}, "t")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"q Q0 my doc 2 1.0 t", "line 2: got 7 fields, expected the 6"),
        (b"q Q0 e 2 1.0", "line 2: got 5 fields"),
        (b"q Q0 e 2 high t", "line 2: the score 'high' is no finite number"),
        (b"q Q0 e 2 nan t", "line 2: the score 'nan' is no finite number"),
        (b"q Q0 e 2 inf t", "line 2: the score 'inf' is no finite number"),
        (b"q Q0 d 2 1.0 t", "line 2: document 'd' stands twice under query 'q'"),
        (b"q Q0 \xff 2 1.0 t", "not UTF-8 text"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = tmp_path / "run.trec"
    path.write_bytes(b"q Q0 d 1 2.0 t\n" + line + b"\n")
    with pytest.raises(InputError, match=message) as caught:
        read_run(path)
    assert str(path) in str(caught.value)


def test_a_missing_an_empty_and_an_unreadable_run_are_told_apart(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="no such run file"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="the run file is empty"):
        read_run(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot be read"):
        read_run(tmp_path)
