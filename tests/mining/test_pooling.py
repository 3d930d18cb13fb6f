import numpy as np
import pyarrow as pa
import pytest

from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.mining import mine
from retrodistill.mining.pooling import CET, Cells, _ranks, estimate
from retrodistill.mining.samplers import Top
from retrodistill.registry import build
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.others import Random
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging

NAN = float("nan")


def test_by_hand():
    # One trait, a constant: rank 1 has 2 labels among 4 rows, rank 2 one among 8. With all selected at rank 1 half of
    # all are relevant, of which a quarter is selected at rank 2.
    ranks = np.array([1] * 4 + [2] * 8)
    labels = np.full(12, NAN)
    labels[[0, 1, 4]] = 1
    found = estimate(labels, np.ones((12, 1)), Cells.of(["bm25"], np.zeros(12, dtype=int), ranks), 1.0, 5000)
    np.testing.assert_allclose(found.relevant, 0.5, atol=2e-3)
    np.testing.assert_allclose(found.selected, [1, 0.25], atol=2e-3)
    np.testing.assert_allclose(found.irrelevant[:4], 1)
    np.testing.assert_allclose(found.irrelevant[4:], 0.5 / (1 - 0.125), atol=2e-3)
    # Where half is missed at rank 1 too, all are relevant: 1 is the most that 2 * .5 can be.
    half = estimate(labels, np.ones((12, 1)), Cells.of(["bm25"], np.zeros(12, dtype=int), ranks), 0.6, 5000)
    np.testing.assert_allclose(half.relevant, 0.5 / 0.6, atol=5e-3)
    np.testing.assert_allclose(half.selected, [0.6, 0.15], atol=5e-3)


def test_cells_are_sources_and_powers_of_two():
    names = ["a", "a+b", "b+a", "b", "nobody"]
    cells = Cells.of(names, np.array([0, 1, 2, 3, 1, 1, 1, 0]), np.array([1, 1, 1, 7, 4, 3, 9, 2]))
    assert [chain.tolist() for chain in cells.chains] == [[0, 1, 2], [3, 4], [5]]
    assert cells.cell.tolist() == [3, 0, 0, 5, 1, 1, 2, 4]


def test_the_pool_is_ranked_by_its_own_scores():
    scores = np.array([3.0, 9, 3, 1, 5, 7, 7, 7])
    assert _ranks(scores, np.array([0, 0, 0, 0, 1, 1, 2, 2])).tolist() == [2, 1, 2, 4, 2, 1, 1, 1]


def known(rows: int, seed: int = 0):
    """Labels of a pool whose propensities are known: all of rank 1, less below, little of what one source alone found."""
    random = np.random.default_rng(seed)
    traits = np.stack([np.ones(rows), random.normal(size=rows)], axis=1)
    relevant = 1 / (1 + np.exp(-(traits @ [-1.5, 2.0])))
    ranks, sources = random.integers(1, 9, rows), random.integers(0, 2, rows)
    cells = Cells.of(["a", "a+b"], sources, ranks)
    selected = np.array([1.0, 0.8, 0.5, 0.2, 0.4, 0.3, 0.1, 0.05])  # "a+b" at 1, 2, to 4, to 8, then "a"
    is_relevant = random.random(rows) < relevant
    labelled = is_relevant & (random.random(rows) < selected[cells.cell])
    return np.where(labelled, 1.0, NAN), traits, cells, selected, relevant, is_relevant


def test_known_propensities_are_recovered():
    labels, traits, cells, selected, relevant, is_relevant = known(200_000)
    found = estimate(labels, traits, cells, 1.0, 500)
    np.testing.assert_allclose(found.selected, selected, atol=0.04)
    np.testing.assert_allclose(found.relevant, relevant, atol=0.04)
    unlabelled = np.isnan(labels)
    # of those with a weight from .4 to .6 about half are relevant
    middle = unlabelled & (abs(found.irrelevant - 0.5) < 0.1)
    assert middle.sum() > 500 and is_relevant[middle].mean() == pytest.approx(0.5, abs=0.06)
    assert found.irrelevant[unlabelled].sum() == pytest.approx((~is_relevant).sum(), rel=0.02)


def test_the_likelihood_never_falls():
    labels, traits, cells, *_ = known(3_000)
    labels[:200] = np.where(np.isnan(labels[:200]), 0, labels[:200])  # some are known not to be relevant
    found = estimate(labels, traits, cells, 0.9, 100)
    assert len(found.likelihoods) > 5
    assert (np.diff(found.likelihoods) > -1e-9).all()
    assert found.selected.max() == found.selected[0] == 0.9
    for chain in cells.chains[1:]:
        assert (np.diff(found.selected[chain]) <= 1e-12).all()


def pooled(queries: int = 150, seed: int = 0):
    """Candidates found by one source, and a teacher who knows; relevant documents below rank 4 are rarely labelled."""
    random = np.random.default_rng(seed)
    rows, scores = {}, []
    for query in range(queries):
        documents = []
        for rank in range(1, 13):
            relevant = random.random() < 0.25
            labelled = relevant and random.random() < (1 if rank <= 4 else 0.1)
            documents.append((f"d{rank}", "bm25", rank, 20.0 - rank, 1 if labelled else None))
            scores.append(random.normal() + 3 * relevant)
        rows[f"q{query}"] = documents
    return Candidates.of(rows), np.array(scores, dtype=np.float32)[None]


def test_what_a_teacher_likes_and_nobody_looked_at_weighs_little():
    candidates, scores = pooled()
    weights = CET(teachers=("bm25",)).weights(candidates, scores)
    assert weights.dtype == np.float32 and (weights > 0).all() and (weights <= 1).all()
    unlabelled = np.isnan(candidates.labels)
    assert (weights[~unlabelled] == 1).all()
    liked = unlabelled & (scores[0] > 2.5)
    assert weights[liked & (candidates.ranks > 4)].mean() < 0.5 < 0.8 < weights[liked & (candidates.ranks == 1)].mean()
    assert weights[unlabelled & (scores[0] < 0)].min() > 0.9


def test_a_pool_may_be_another_system_than_the_sources():
    candidates, scores = pooled()
    shuffled = candidates.table.set_column(3, "rank", pa.array([1] * len(candidates), pa.int32()))
    told = CET(teachers=("bm25",), pool="bm25").weights(Candidates(shuffled), np.stack([scores[0], candidates.scores]))
    np.testing.assert_allclose(told, CET(teachers=("bm25",)).weights(candidates, scores), atol=1e-6)


def test_a_teachers_unit_and_the_order_of_rows_do_not_matter():
    candidates, scores = pooled(60)
    rule = CET(teachers=("bm25",), rounds=30)
    weights = rule.weights(candidates, scores)
    np.testing.assert_allclose(rule.weights(candidates, scores * 7 - 40), weights, atol=1e-4)
    order = np.random.default_rng(0).permutation(60)
    rows = np.concatenate([np.arange(12 * query, 12 * query + 12)[::-1] for query in order])
    moved = Candidates(candidates.table.take(rows))
    np.testing.assert_allclose(rule.weights(moved, scores[:, rows]), weights[rows], atol=1e-4)


def test_what_was_not_found_or_scored_weighs_one_and_moves_nothing():
    candidates, scores = pooled(40)
    rule = CET(teachers=("bm25",), rounds=30)
    more = candidates.table.to_pylist()
    more += [{"query_id": "q3", "doc_id": "x", "source": "qrels", "rank": 0, "score": NAN, "label": 2}]
    more += [{"query_id": "q4", "doc_id": "y", "source": "bm25", "rank": 13, "score": 1.0, "label": None}]
    by_query = {}
    for row in more:
        by_query.setdefault(row["query_id"], []).append(tuple(row.values())[1:])
    wider = Candidates.of(by_query)
    added = np.isin(wider.doc_ids, ["x", "y"])
    given = np.full((1, len(wider)), NAN, dtype=np.float32)
    given[:, ~added] = scores
    given[:, np.array(wider.doc_ids) == "x"] = 5
    weights = rule.weights(wider, given)
    assert (weights[added] == 1).all()
    np.testing.assert_allclose(weights[~added], rule.weights(candidates, scores), atol=1e-6)


def test_mining_weighs(collection, tiny_model, tmp_path):
    store = ScoreStore(tmp_path / "scores")
    dense = Dense(model=str(tiny_model))
    rule = CET(teachers=(dense, "bm25"))
    plain, _ = mine(collection, "train", [BM25(), Random()], depth=8)
    found, _ = mine(collection, "train", [BM25(), Random()], depth=8, weigh=rule, store=store)
    assert found.table.select(plain.table.column_names).equals(plain.table)
    scores = judging.read(found, collection, [dense, BM25()], store)
    np.testing.assert_array_equal(found.weights, rule.weights(plain, scores))
    told = CET(teachers=(dense,), pool="bm25")
    pooled_by, _ = mine(collection, "train", [BM25(), Random()], depth=8, weigh=told, store=store)
    np.testing.assert_array_equal(pooled_by.weights, told.weights(plain, scores))
    own, _ = mine(collection, "train", [BM25()], depth=8, weigh=CET())  # the one source's scores
    alone, _ = mine(collection, "train", [BM25()], depth=8)
    np.testing.assert_array_equal(own.weights, CET().weights(alone, alone.scores[None]))


def test_what_it_cannot_do(collection, tmp_path):
    store = ScoreStore(tmp_path / "scores")
    with pytest.raises(InputError, match="top:3 would leave a part of it; leave the sampler out"):
        mine(collection, "train", [BM25()], weigh=CET(), sampler=Top(n=3))
    with pytest.raises(InputError, match="cet: scores of 2 sources are on scales of their own"):
        mine(collection, "train", [BM25(), Random()], weigh=CET())
    with pytest.raises(InputError, match="mine with labels"):
        mine(collection, "train", [BM25()], weigh=CET(), labels=False)
    with pytest.raises(InputError, match="go through a score store"):
        mine(collection, "train", [BM25()], weigh=CET(teachers=("bm25",)))
    unlabelled = Collection("t", collection.corpus, Texts.queries("t", [("q", "storm wind")]), {"train": {"q": {}}})
    with pytest.raises(InputError, match="none of the 4 documents that were found and scored is labelled relevant"):
        mine(unlabelled, "train", [BM25()], depth=4, weigh=CET(teachers=("bm25",)), store=store)


def test_from_a_recipe():
    made = build("weigher", "cet:bm25")
    assert made == CET(teachers=("bm25",)) and made.label == "cet:bm25"
    both = build("weigher", {"kind": "cet", "teachers": ["bm25", "dense:m"], "first": 0.5})
    assert both.label == "cet:bm25+dense:m" and CET().label == "cet"
