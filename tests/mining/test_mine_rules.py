"""Rules inside mining: what they are told, what they cost, what becomes of what they lack."""

import sys

import numpy as np
import pytest

from retrodistill import mining
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.mining.filters import DuplicatesOfPositives, Length
from retrodistill.mining.judged import Balanced, Disagreement, Quantile, SimANS
from retrodistill.mining.margins import Margin, ScoreWindow
from retrodistill.mining.samplers import LogUniform, Stratified, Top, TopAndRandom, Uniform, Window
from retrodistill.mining.spread import MMR, Clusters
from retrodistill.retrieval.bm25 import BM25, BM25Searcher
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.others import Random, RunFile
from retrodistill.scores.store import ScoreStore


@pytest.fixture
def store(tmp_path):
    return ScoreStore(tmp_path / "scores")


def mine(collection, sources, **options):
    return mining.mine(collection, "train", sources, **options)


def negatives(candidates):
    """By query the unlabelled documents, in order."""
    table = candidates.table.to_pydict()
    found = {}
    for query, doc, label in zip(table["query_id"], table["doc_id"], table["label"], strict=True):
        if label is None:
            found.setdefault(query, []).append(doc)
    return found


# Every sampler, as a user has it


def everything(model):
    dense = {"kind": "dense", "model": str(model)}
    return [
        Top(n=4),
        Window(n=4, skip=2, take="random"),
        Uniform(n=4),
        LogUniform(n=4),
        TopAndRandom(n=4, top=2),
        Stratified(n=4, take="random"),
        SimANS(n=4, teacher=dense),
        Quantile(n=4, teacher="bm25"),
        Disagreement(n=4, student=dense, teacher="bm25"),
        Balanced(n=4, teacher=dense),
        MMR(n=4, space=dense),
        Clusters(n=4, clusters=3, space=dense),
    ]


@pytest.mark.parametrize("number", range(12))
def test_a_draw_is_the_same_in_any_order_and_company_of_queries(number, collection, tiny_model, store, monkeypatch):
    sampler, sources = everything(tiny_model)[number], [BM25(), Random(seed=1)]
    whole, account = mine(collection, sources, sampler=sampler, store=store, seed=3)
    assert account.kept == len(whole)
    assert all(len(found) <= 4 for found in negatives(whole).values())
    queries = collection.query_ids("train")
    texts = [(query, collection.queries.text(query)) for query in reversed(queries)]
    some = {query: collection.qrels("train")[query] for query in queries[2:9]}
    part = Collection("part", collection.corpus, Texts.queries("part", texts), {"train": some})
    monkeypatch.setattr(sys.modules["retrodistill.mining.mine"], "QUERIES_AT_ONCE", 3)
    again, _ = mine(part, sources, sampler=sampler, store=store, seed=3)
    assert negatives(again) == {query: found for query, found in negatives(whole).items() if query in some}
    other, _ = mine(collection, sources, sampler=sampler, store=store, seed=4)
    certain = isinstance(sampler, Top | Disagreement | MMR)
    assert (negatives(other) == negatives(whole)) == certain


# Teachers


def test_a_teacher_judges_the_pool_through_the_store_and_never_twice(collection, store, monkeypatch):
    asked = []
    score = BM25Searcher.score

    def counting(self, query_ids, doc_ids):
        asked.extend(zip(query_ids, doc_ids, strict=True))
        return score(self, query_ids, doc_ids)

    monkeypatch.setattr(BM25Searcher, "score", counting)
    rules = {"filters": [Margin(teacher="bm25")], "sampler": SimANS(n=3, teacher="bm25")}
    first, account = mine(collection, [Random()], depth=10, store=store, **rules)
    relevant = {(query, doc) for query, grades in collection.qrels("train").items() for doc in grades}
    pool, _ = mine(collection, [Random()], depth=10)
    # Positives are judged too, found or not, and each pair once: what the filter asked for, the sampler reads.
    assert set(asked) == relevant | set(zip(pool.query_ids, pool.doc_ids, strict=True))
    assert len(asked) == len(set(asked))
    again, _ = mine(collection, [Random()], depth=10, store=store, **rules)
    assert again.digest == first.digest
    assert len(asked) == len(set(asked))
    assert account.dropped["filter margin by bm25"] > 0


def test_a_teacher_judges_only_what_filters_before_it_left(collection, store, monkeypatch):
    asked = []
    score = BM25Searcher.score
    monkeypatch.setattr(
        BM25Searcher, "score", lambda self, queries, docs: asked.extend(docs) or score(self, queries, docs)
    )
    filters = [Length(min=1_000), ScoreWindow(teacher="bm25", max=5.0)]
    candidates, account = mine(collection, [Random()], filters=filters, store=store)
    assert asked == [] and negatives(candidates) == {}
    assert account.without == collection.query_ids("train")


def test_one_sources_own_scores_need_no_store(collection, tmp_path):
    bm25 = BM25()
    candidates, account = mine(collection, [bm25], depth=4, filters=[Margin(absolute=0.1)])
    searcher = bm25.open(collection)
    for query, found in negatives(candidates).items():
        positives = [doc for doc, grade in collection.qrels("train")[query].items() if grade > 0]
        least = searcher.score([query] * len(positives), positives).min()
        assert searcher.score([query] * len(found), found).max() < least - 0.1
    assert account.dropped["filter margin:0.1"] > 0
    # A run file knows no score of a positive that it does not hold: nothing is dropped, and that is told.
    path = tmp_path / "run.trec"
    path.write_text("q-storm0 Q0 bread0 1 2.5 x\nq-storm0 Q0 bread1 2 1.5 x\n")
    candidates, account = mine(collection, [RunFile(path=path)], filters=[Margin()])
    assert negatives(candidates) == {"q-storm0": ["bread0", "bread1"]}
    assert account.unjudged == {"margin": 2}


def test_what_a_rule_needs_is_asked_for_before_anything_is_searched(collection):
    with pytest.raises(InputError, match=r"margin: scores of 2 sources are on scales of their own; name a teacher"):
        mine(collection, [BM25(), Random()], filters=[Margin()])
    with pytest.raises(InputError, match=r"margin by bm25 reads a teacher's scores, which go through a score store"):
        mine(collection, [BM25(), Random()], filters=[Margin(teacher="bm25")])
    with pytest.raises(InputError, match=r"simans:3 is held against labelled positives; leave it out, or mine with"):
        mine(collection, [BM25()], sampler=SimANS(n=3), labels=False)
    with pytest.raises(InputError, match=r"refill makes up for what a sampler lacks"):
        mine(collection, [BM25()], refill=True)


def test_a_score_window_needs_no_label(collection):
    candidates, _ = mine(collection, [BM25()], filters=[ScoreWindow(max=2.0)], labels=False)
    assert 0 < candidates.scores.max() <= 2.0


# Shortfalls


@pytest.fixture
def ten(tmp_path):
    """A collection of one query and a source that finds d1 to d9, of which d0 is relevant and d3 says the same."""
    corpus = Texts.documents(
        "ten", [(f"d{row}", "", "the storm" if row in (0, 3) else f"text {row}") for row in range(10)]
    )
    collection = Collection("ten", corpus, Texts.queries("ten", [("q", "storm")]), {"train": {"q": {"d0": 1}}})
    path = tmp_path / "run.trec"
    path.write_text("".join(f"q Q0 d{row} {row} {10 - row} x\n" for row in range(1, 10)))
    return collection, RunFile(path=path)


def test_what_a_filter_drops_the_next_in_rank_takes_the_place_of(ten):
    collection, source = ten
    candidates, account = mine(collection, [source], filters=[Length(min=2)], sampler=Top(n=3))
    assert negatives(candidates) == {"q": ["d1", "d2", "d3"]}
    candidates, account = mine(collection, [source], filters=[DuplicatesOfPositives()], sampler=Top(n=3))
    assert negatives(candidates) == {"q": ["d1", "d2", "d4"]}
    assert account.short == {} and account.refilled == 0


def test_what_lacks_is_told_or_made_up_from_behind_and_then_from_before(ten):
    collection, source = ten
    candidates, account = mine(collection, [source], sampler=Uniform(n=4, first=4, last=5))
    assert negatives(candidates) == {"q": ["d4", "d5"]}
    assert account.short == {"q": 2}
    candidates, account = mine(collection, [source], sampler=Uniform(n=4, first=4, last=5), refill=True)
    assert negatives(candidates) == {"q": ["d4", "d5", "d6", "d7"]}
    assert (account.short, account.refilled) == ({}, 2)
    candidates, account = mine(collection, [source], sampler=Top(n=4, skip=7), refill=True)
    assert negatives(candidates) == {"q": ["d6", "d7", "d8", "d9"]}
    candidates, account = mine(collection, [source], sampler=Top(n=12), refill=True)
    assert len(negatives(candidates)["q"]) == 9
    assert account.short == {"q": 3}


# Vectors


def test_clusters_are_those_of_the_collection(collection, tiny_model):
    sampler = Clusters(n=6, clusters=6, space=Dense(model=str(tiny_model)))
    candidates, _ = mine(collection, [Random()], depth=24, sampler=sampler)
    vectors = np.asarray(sampler.space.open(collection).document_vectors, dtype=np.float32)
    spread = []
    for found in negatives(candidates).values():
        chosen = vectors[[collection.corpus.row(doc) for doc in found]]
        spread.append((chosen @ chosen.T).mean())
    plain, _ = mine(collection, [Random()], depth=24, sampler=Uniform(n=6))
    usual = []
    for found in negatives(plain).values():
        chosen = vectors[[collection.corpus.row(doc) for doc in found]]
        usual.append((chosen @ chosen.T).mean())
    assert np.mean(spread) < np.mean(usual)
