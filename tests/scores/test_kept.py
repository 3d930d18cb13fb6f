"""Combined scores of many candidates: mapped where nothing that decides them changed."""

import numpy as np
import pytest
from toy_models import Plain

from retrodistill import steps
from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.scores.combine import Mean
from retrodistill.scores.keys import text_keys
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(steps, "IN_MEMORY", 3)
    corpus = Texts.documents("c", [(f"d{n}", "", f"text {n}") for n in range(4)])
    collection = Collection("c", corpus, Texts.queries("c", [("q", "query")]), {})
    candidates = Candidates.of({"q": [(f"d{n}", "s", n + 1, 0.0, None) for n in range(4)]})
    read = []
    whole = judging.read
    monkeypatch.setattr(judging, "read", lambda *given: read.append(1) or whole(*given))
    return collection, candidates, ScoreStore(tmp_path / "store"), read


def write(store, documents, scores):
    keys = text_keys(["query"] * len(documents)), text_keys([f"text {n}" for n in documents])
    store.table({"kind": "plain"}).append(*keys, np.array(scores, dtype=np.float32))


def test_scores_are_joined_again_only_where_something_changed(setting):
    collection, candidates, store, read = setting

    def scores(combine=None, candidates=candidates):
        return steps.teacher_scores(candidates, collection, [Plain()], ScoreStore(store.root), combine)

    write(store, [0, 1, 2], [1, 2, 3])
    for _ in range(3):
        np.testing.assert_array_equal(scores(), np.array([1, 2, 3, np.nan], dtype=np.float32))
    assert len(read) == 1
    assert type(scores()) is np.ndarray and scores().dtype == np.float32
    np.testing.assert_array_equal(scores(Mean(normalise="rank")), np.array([0, 0.5, 1, np.nan], dtype=np.float32))
    assert len(read) == 2
    write(store, [3], [7])
    np.testing.assert_array_equal(scores(), np.array([1, 2, 3, 7], dtype=np.float32))
    assert len(read) == 3
    turned = Candidates(candidates.table.take([3, 2, 1, 0]))
    np.testing.assert_array_equal(scores(candidates=turned), np.array([7, 3, 2, 1], dtype=np.float32))
    assert len(read) == 4


def test_what_a_damaged_part_lacks_does_not_outlive_its_repair(setting):
    collection, candidates, store, read = setting
    write(store, [0, 1, 2, 3], [1, 2, 3, 4])
    (part,) = store.root.glob("*/part-*.parquet")
    good = part.read_bytes()
    part.write_bytes(good[:-20] + b"x" * 20)
    assert np.isnan(steps.teacher_scores(candidates, collection, [Plain()], ScoreStore(store.root))).all()
    part.write_bytes(good)
    np.testing.assert_array_equal(
        steps.teacher_scores(candidates, collection, [Plain()], ScoreStore(store.root)), [1, 2, 3, 4]
    )
    assert len(read) == 2


def test_a_torn_file_is_made_again(setting, tmp_path):
    collection, candidates, store, _ = setting
    write(store, [0, 1, 2, 3], [1, 2, 3, 4])
    first = steps.teacher_scores(candidates, collection, [Plain()], store)
    (file,) = (tmp_path / "cache" / "combined").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    np.testing.assert_array_equal(steps.teacher_scores(candidates, collection, [Plain()], store), first)


def test_few_candidates_are_joined_every_time(setting, monkeypatch, tmp_path):
    collection, candidates, store, read = setting
    monkeypatch.setattr(steps, "IN_MEMORY", 4)
    for _ in range(2):
        steps.teacher_scores(candidates, collection, [Plain()], store)
    assert len(read) == 2
    assert not (tmp_path / "cache" / "combined").exists()
