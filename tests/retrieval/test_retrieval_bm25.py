import numpy as np
import pytest

from retrodistill.collections import Collection, Texts
from retrodistill.indexing.bm25 import BM25Index
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.retriever import grouped
from retrodistill.runs import ranked


def made(documents: dict[str, str], queries: dict[str, str]) -> Collection:
    corpus = Texts.documents("toy", [(key, "", text) for key, text in documents.items()])
    return Collection("toy", corpus, Texts.queries("toy", list(queries.items())), {})


@pytest.fixture(scope="module")
def searcher(collection):
    return BM25().open(collection)


def test_scores_are_those_of_the_index(collection, searcher):
    built = BM25Index().build(collection.corpus.texts())
    found = searcher.search(collection.queries.ids, 1000)
    for query in collection.queries.ids:
        scores = dict(zip(collection.corpus.ids, built.scores(collection.queries.text(query)).tolist(), strict=True))
        assert found[query] == {doc: score for doc, score in scores.items() if score > 0}
        assert list(found[query]) == ranked(found[query])


def test_title_and_text_are_searched_together():
    corpus = Texts.documents("toy", [("a", "Storm", "wind"), ("b", "", "rain")])
    toy = Collection("toy", corpus, Texts.queries("toy", [("q", "storm")]), {})
    assert list(BM25().open(toy).search(["q"], 5)["q"]) == ["a"]


def test_documents_without_a_shared_word_are_not_found():
    toy = made({"a": "storm", "b": "bread", "c": "storm bread", "d": ""}, {"q": "storm", "none": "zebra", "empty": ""})
    found = BM25().open(toy).search(["q", "none", "empty"], 10)
    assert set(found["q"]) == {"a", "c"}
    assert (found["none"], found["empty"]) == ({}, {})


@pytest.mark.parametrize("method", ["lucene", "bm25l", "bm25+"])
def test_ties_fall_by_descending_id_at_every_cut(method):
    toy = made({f"d{number}": "storm wind" for number in (3, 1, 2, 10)} | {"x": "bread"}, {"q": "storm"})
    searcher = BM25(method=method).open(toy)
    for depth in range(1, 6):
        assert list(searcher.search(["q"], depth)["q"]) == ["d3", "d2", "d10", "d1"][:depth]


def test_pairs_score_as_the_search_does(collection, searcher):
    found = searcher.search(collection.queries.ids, 1000)
    pairs = [(query, doc) for query in collection.queries.ids[::-1] for doc in collection.corpus.ids]
    np.random.default_rng(0).shuffle(pairs)
    scores = searcher.score(*zip(*pairs, strict=True))
    assert (scores.shape, scores.dtype) == ((len(pairs),), np.float32)
    assert scores.tolist() == [found[query].get(doc, 0.0) for query, doc in pairs]


def test_no_pairs_and_no_queries(searcher):
    assert searcher.score([], []).shape == (0,)
    assert searcher.search([], 10) == {}


def test_a_query_does_not_depend_on_the_others(collection, searcher):
    whole = searcher.search(collection.queries.ids, 10)
    for query in collection.queries.ids:
        assert searcher.search([query], 10) == {query: whole[query]}


def test_identity_holds_the_options_and_the_corpus(collection):
    plain = BM25().open(collection).identity
    assert BM25().open(collection).identity == plain
    others = [BM25(k1=1.2), BM25(b=0.5), BM25(method="atire"), BM25(stemmer=None), BM25(stopwords=None)]
    assert all(other.open(collection).identity != plain for other in others)
    assert BM25().open(made({"a": "storm"}, {})).identity != plain


def test_speed_is_known_after_a_search(collection):
    searcher = BM25().open(collection)
    assert "search_queries_per_second" not in searcher.details
    searcher.search(collection.queries.ids, 5)
    assert searcher.details["search_queries_per_second"] > 0
    assert searcher.details["options"]["k1"] == 0.9


def test_grouped_keeps_the_order_of_first_appearance():
    found = grouped(["b", "a", "b", "c", "a"])
    assert [(query, rows.tolist()) for query, rows in found] == [("b", [0, 2]), ("a", [1, 4]), ("c", [3])]
    assert grouped([]) == []
