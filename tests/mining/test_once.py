"""What was found for a split that is measured is found once."""

import pytest

from retrodistill.collections import Collection
from retrodistill.mining import mine, once
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.others import Random


@pytest.fixture
def mined(monkeypatch, tmp_path):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(once, "mine", lambda *given, **options: asked.append(1) or mine(*given, **options))
    return asked


def test_it_is_what_mining_finds_and_is_searched_once(collection, mined):
    expected, _ = mine(collection, "test", [BM25(), Random()], depth=4, positives=False)
    for _ in range(3):
        found = once.found_once(collection, "test", [BM25(), Random()], 4)
        assert found.table.to_pylist() == expected.table.to_pylist() and found.digest == expected.digest
    assert len(mined) == 1


def test_whatever_decides_it_is_searched_anew(collection, mined):
    judged = {query: {**grades, "bread1": 3} for query, grades in collection.qrels("test").items()}
    fewer = dict(list(collection.qrels("test").items())[1:])
    other = [
        Collection("other", collection.corpus, collection.queries, {"test": qrels, "train": collection.qrels("train")})
        for qrels in (judged, fewer)
    ]
    for given in (
        (collection, "test", [BM25()], 4),
        (collection, "test", [BM25()], 5),
        (collection, "train", [BM25()], 4),
        (collection, "test", [BM25(k1=2)], 4),
        (collection, "test", [BM25(), Random()], 4),
        (collection, "test", [Random(seed=1)], 4),
        (other[0], "test", [BM25()], 4),
        (other[1], "test", [BM25()], 4),
    ):
        before = len(mined)
        found = once.found_once(*given)
        assert len(mined) == before + 1
        expected, _ = mine(*given[:3], depth=given[3], positives=False)
        assert found.table.to_pylist() == expected.table.to_pylist()


def test_a_changed_rule_makes_it_again(collection, mined, monkeypatch):
    for version, times in ((1, 1), (2, 2), (1, 2)):
        monkeypatch.setattr(once, "VERSION", version)
        once.found_once(collection, "test", [BM25()], 4)
        assert len(mined) == times


def test_a_damaged_file_is_made_again(collection, mined, tmp_path):
    first = once.found_once(collection, "test", [BM25()], 4)
    (file,) = (tmp_path / "cache" / "candidates").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert once.found_once(collection, "test", [BM25()], 4).digest == first.digest
    assert len(mined) == 2


def test_what_is_kept_is_had_without_a_search(collection, mined):
    assert once.kept_once(collection, "test", [BM25()], 4) is None
    first = once.found_once(collection, "test", [BM25()], 4)
    assert once.kept_once(collection, "test", [BM25()], 4).digest == first.digest
    assert len(mined) == 1
