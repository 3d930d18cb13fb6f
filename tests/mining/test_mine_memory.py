"""Mining within a memory that the user states."""

import sys

import pytest

from retrodistill import mining
from retrodistill.errors import InputError
from retrodistill.indexing.dense import Flat
from retrodistill.indexing.mapped import Mapped, _Mapped
from retrodistill.memory import Budget, resident
from retrodistill.mining import fitting
from retrodistill.mining.margins import Margin
from retrodistill.mining.pool import judges_of
from retrodistill.mining.samplers import Uniform
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.indexed import Indexed, write_index
from retrodistill.retrieval.multi import ColBERT
from retrodistill.retrieval.others import Random
from retrodistill.retrieval.rerank import Rerank
from retrodistill.retrieval.sparse import Splade


def test_memory_does_not_change_what_is_mined(collection, tiny_model, monkeypatch):
    used = []
    monkeypatch.setattr(fitting, "queries_at_once", lambda *_: 5)
    monkeypatch.setattr(sys.modules["retrodistill.mining.mine"], "queries_at_once", lambda *_: 5)
    nearest = _Mapped.nearest
    monkeypatch.setattr(_Mapped, "nearest", lambda self, q, depth: used.append(len(q)) or nearest(self, q, depth))
    sources = [Dense(model=str(tiny_model)), BM25(), Random()]
    options = {"depth": 6, "sampler": Uniform(n=3)}
    free, account = mining.mine(collection, "train", sources, **options)
    assert used == [12]
    bound, same = mining.mine(collection, "train", sources, memory=resident() + 10**9, **options)
    assert used == [12, 5, 5, 2]
    assert same == account
    assert bound.digest == free.digest


@pytest.mark.parametrize("kind", ["bm25", "splade", "colbert", "run"])
def test_what_cannot_fit_is_refused_before_it_is_tried(
    kind, collection, tiny_splade, tiny_colbert, tmp_path, monkeypatch
):
    from retrodistill.retrieval.others import RunFile

    path = tmp_path / "run.trec"
    path.write_text("q-storm0 Q0 bread0 1 2.5 x\n")
    source = {
        "bm25": BM25(),
        "splade": Splade(model=str(tiny_splade)),
        "colbert": ColBERT(model=str(tiny_colbert)),
        "run": RunFile(path=path),
    }[kind]
    monkeypatch.setattr("retrodistill.memory.Budget.left", property(lambda self: 20))
    with pytest.raises(InputError, match=rf"is not enough: .*{kind}.* takes about .*; grant"):
        mining.mine(collection, "train", [source], memory=10**12)


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def test_what_rules_and_sources_open_counts_before_it_is_opened(
    collection, tiny_model, tiny_cross_encoder, tmp_path, monkeypatch
):
    opened = []
    monkeypatch.setattr(Rerank, "open", lambda *_: opened.append("rerank"))
    monkeypatch.setattr(Indexed, "open", lambda *_: opened.append("index"))
    monkeypatch.setattr(sys.modules["retrodistill.memory"], "resident", lambda: 0)
    write_index(Dense(model=str(tiny_model)), Flat(), collection, tmp_path / "index")
    write_index(Dense(model=str(tiny_model)), Mapped(), collection, tmp_path / "mapped")
    weights, judge = bytes_of(tiny_model), bytes_of(tiny_cross_encoder)
    teacher = {"kind": "cross_encoder", "model": str(tiny_cross_encoder)}
    files = sum(path.stat().st_size for path in (tmp_path / "index").iterdir())
    assert Indexed(path=tmp_path / "mapped").held_bytes == weights
    text = 8 * sum(len(text) for text in collection.corpus.texts())
    for sources, filters, expected, later in [
        ([Indexed(path=tmp_path / "index")], [], files + weights, 0),
        ([Rerank(sources=("bm25",), teacher=teacher)], [], text + judge, judge),
        ([Random()], [Margin(teacher=teacher)], judge, judge),
        ([Indexed(path=tmp_path / "mapped")], [Margin(teacher=teacher)], weights + judge, judge),
    ]:
        budget = Budget(expected)
        fitting.foresee(sources, judges_of(filters), collection, budget)
        assert (budget.promised, budget.left) == (later, expected - later)
        with pytest.raises(InputError, match=r"is not enough: .*takes about"):
            mining.mine(collection, "train", sources, filters=filters, memory=expected - 1)
    assert not opened


def test_more_taken_than_granted_is_told(collection):
    with pytest.raises(InputError, match=r"memory: 1 MB is not enough"):
        mining.mine(collection, "train", [Random()], memory=10**6)


def test_queries_are_mined_in_blocks_that_fit(monkeypatch):
    class Left:
        left = 10**8

        def claim(self, needed, what):
            assert needed < self.left

    fits = (10**8 - 1_000 * 10 * 120) // (2 * 100 * 1_000)
    assert fitting.queries_at_once(Left(), 1_000, 100, 10, 8_192) == fits - fits % 32 == 480
    assert fitting.queries_at_once(Left(), 1_000, 1, 1, 8_192) == 8_192
