import numpy as np
import pytest

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.registry import build

LINES = "q Q0 b 1 1.0 t\nq Q0 a 2 9.0 t\nq Q0 c 3 5.0 t\n"


@pytest.fixture
def collection():
    corpus = Texts.documents("c", [(doc, "", f"text {doc}") for doc in "abcd"])
    return Collection("c", corpus, Texts.queries("c", [("q", "what?"), ("r", "who?")]), {})


@pytest.mark.parametrize(("by", "expected"), [("line", [-2, -1, -3]), ("score", [-1, -3, -2])])
def test_a_score_is_less_the_rank_by_lines_or_by_scores(collection, tmp_path, by, expected):
    (tmp_path / "run.trec").write_text(LINES)
    judge = build("teacher", {"kind": "run_order", "path": tmp_path / "run.trec", "by": by}).open(collection)
    assert judge.score(["q"] * 3, ["a", "b", "c"]).tolist() == expected
    assert np.isnan(judge.score(["q", "r"], ["d", "a"])).all()


def test_a_missing_file_is_told():
    with pytest.raises(
        InputError, match="no such file; expected a run file with lines `query Q0 document rank score tag`"
    ):
        build("teacher", "run_order:nowhere.trec").check()
