import numpy as np
import pytest

from retrodistill import steps
from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.retrieval.rerank import Rerank
from retrodistill.runs import ranked

QUERIES = ["q-storm0", "q-bread1", "q-chess2"]


@pytest.fixture
def rerank(tiny_cross_encoder):
    return Rerank(
        sources=["bm25", {"kind": "random", "seed": 3}], teacher=f"cross_encoder:{tiny_cross_encoder}", depth=4
    )


def test_what_the_sources_find_stands_in_the_teachers_order(rerank, collection, tiny_cross_encoder):
    from sentence_transformers import CrossEncoder
    from torch import nn

    run = rerank.open(collection).search(QUERIES, 100)
    found = [source.open(collection).search(QUERIES, 4) for source in rerank.sources]
    model = CrossEncoder(str(tiny_cross_encoder), device="cpu")
    for query in QUERIES:
        documents = sorted({doc for source in found for doc in source[query]})
        assert sorted(run[query]) == documents
        pairs = [(collection.queries.text(query), collection.corpus.text(doc)) for doc in documents]
        scores = model.predict(pairs, activation_fn=nn.Identity())
        np.testing.assert_allclose([run[query][doc] for doc in documents], scores, atol=1e-5)
        assert list(run[query]) == ranked(run[query])


def test_a_shallow_search_is_the_top_of_a_deep_one(rerank, collection):
    deep, shallow = (rerank.open(collection).search(QUERIES, depth) for depth in (100, 2))
    assert {query: list(found)[:2] for query, found in deep.items()} == {q: list(found) for q, found in shallow.items()}


def test_a_retriever_can_be_the_teacher(collection):
    bm25, again = build("retriever", "bm25"), Rerank(teacher="bm25", depth=5)
    assert again.sources == (bm25,)
    run = again.open(collection).search(QUERIES, 5)
    expected = bm25.open(collection).search(QUERIES, 5)
    assert {query: list(found) for query, found in run.items()} == {q: list(found) for q, found in expected.items()}


def test_a_query_without_candidates_has_none(collection, tmp_path):
    (tmp_path / "some.trec").write_text("q-storm0 Q0 storm0 1 1.0 x\n")
    run = Rerank(sources=f"run:{tmp_path / 'some.trec'}", teacher="bm25").open(collection).search(QUERIES[:2], 10)
    assert run["q-bread1"] == {}
    assert list(run["q-storm0"]) == ["storm0"]


def test_parts_are_checked_and_a_score_must_be_a_number(collection, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Rerank(teacher=f"cross_encoder:{tmp_path / 'absent'}").check()
    with pytest.raises(InputError, match="no such file"):
        Rerank(sources=f"run:{tmp_path / 'absent'}", teacher="bm25").check()
    searcher = Rerank(teacher="bm25").open(collection)
    monkeypatch.setattr(searcher.judge, "score", lambda queries, docs: np.full(len(docs), np.nan, dtype=np.float32))
    with pytest.raises(InputError, match="bm25 gives nan for query 'q-storm0'"):
        searcher.search(QUERIES, 5)


def test_it_is_evaluated_like_any_other_and_says_what_it_is(rerank, collection, tiny_cross_encoder):
    evaluation, _ = steps.evaluate(rerank, collection, metrics=("nDCG@10",))
    assert evaluation.system == rerank.label == f"cross_encoder:{tiny_cross_encoder} over bm25 + random"
    details = evaluation.details
    assert (details["sources"], details["depth"], details["system"]) == (["bm25", "random"], 4, "re-ranking")
    assert details["pairs_per_second"] > 0


def test_identity_is_that_of_its_parts(rerank, collection):
    def identity(**changed):
        return rerank.model_copy(update=changed).open(collection).identity

    assert identity() == identity()
    for changed in ({"depth": 5}, {"sources": rerank.sources[:1]}, {"teacher": build("teacher", "bm25")}):
        assert identity(**changed) != identity()
