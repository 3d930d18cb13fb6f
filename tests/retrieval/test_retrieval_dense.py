import numpy as np
import pytest

from retrodistill.collections import Collection, Texts
from retrodistill.encoders import DenseEncoder
from retrodistill.errors import InputError
from retrodistill.retrieval.dense import Dense
from retrodistill.runs import cut


@pytest.fixture(scope="module")
def reference(tiny_model, collection):
    """Every query's score of every document, by sentence-transformers and numpy."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu")
    scores = model.encode(collection.queries.texts()) @ model.encode(collection.corpus.texts()).T
    return {
        query: dict(zip(collection.corpus.ids, row.tolist(), strict=True))
        for query, row in zip(collection.queries.ids, scores, strict=True)
    }


@pytest.fixture
def searcher(tiny_model, collection):
    return Dense(model=str(tiny_model)).open(collection)


@pytest.mark.parametrize("depth", [1, 5, 24, 100])
def test_search_equals_brute_force(searcher, collection, reference, depth):
    found = searcher.search(collection.queries.ids, depth)
    for query, expected in reference.items():
        assert len(found[query]) == min(depth, 24)
        assert list(found[query].values()) == sorted(found[query].values(), reverse=True)
        np.testing.assert_allclose(list(found[query].values()), list(cut(expected, depth).values()), atol=1e-5)
        np.testing.assert_allclose(list(found[query].values()), [expected[doc] for doc in found[query]], atol=1e-5)


def test_pairs_score_as_the_search_does(searcher, collection, reference):
    pairs = [(query, doc) for query in reference for doc in collection.corpus.ids]
    np.random.default_rng(0).shuffle(pairs)
    scores = searcher.score(*zip(*pairs, strict=True))
    assert (scores.shape, scores.dtype) == ((len(pairs),), np.float32)
    np.testing.assert_allclose(scores, [reference[query][doc] for query, doc in pairs], atol=1e-5)
    found = searcher.search(collection.queries.ids, 100)
    np.testing.assert_allclose(scores, [found[query][doc] for query, doc in pairs], atol=1e-5)


def test_a_corpus_is_encoded_once_for_everyone(tiny_model, collection, reference, monkeypatch):
    Dense(model=str(tiny_model)).open(collection).search(collection.queries.ids, 3)
    monkeypatch.setattr(DenseEncoder, "encode", lambda *_: pytest.fail("encoded again"))
    again = Dense(model=str(tiny_model)).open(collection)
    assert len(again.search(collection.queries.ids, 3)) == 18


def test_prompts_belong_to_queries_and_documents(tiny_model, collection):
    plain, prompted = (
        Dense(model=str(tiny_model), **options).open(collection)
        for options in ({}, {"query_prompt": "bread ", "document_prompt": "storm "})
    )
    query, document = collection.queries.ids[0], collection.corpus.ids[0]
    texts = [f"bread {collection.queries.text(query)}", f"storm {collection.corpus.text(document)}"]
    toy = Collection("toy", Texts.documents("toy", [("d", "", texts[1])]), Texts.queries("toy", [("q", texts[0])]), {})
    expected = Dense(model=str(tiny_model)).open(toy).score(["q"], ["d"])
    np.testing.assert_allclose(prompted.score([query], [document]), expected, atol=1e-5)
    assert abs(plain.score([query], [document])[0] - expected[0]) > 1e-4


def test_identity_does_not_depend_on_the_collection(tiny_model, searcher):
    other = Collection("x", Texts.documents("x", [("d", "", "storm")]), Texts.queries("x", [("q", "wind")]), {})
    assert Dense(model=str(tiny_model)).open(other).identity == searcher.identity
    assert Dense(model=str(tiny_model), max_length=9).open(other).identity != searcher.identity


def test_one_document_and_one_query(tiny_model):
    toy = Collection("x", Texts.documents("x", [("d", "", "storm")]), Texts.queries("x", [("q", "storm")]), {})
    found = Dense(model=str(tiny_model)).open(toy).search(["q"], 100)
    assert list(found["q"]) == ["d"]
    assert found["q"]["d"] == pytest.approx(1, abs=1e-5)


def test_no_queries(searcher):
    assert searcher.search([], 5) == {}
    assert searcher.score([], []).shape == (0,)


def test_details_for_the_report(searcher, collection):
    searcher.search(collection.queries.ids, 5)
    details = searcher.details
    assert (details["system"], details["index_bytes"]) == ("bi-encoder", 24 * 32 * 4)
    assert details["parameters"] == searcher.encoder.parameters
    for rate in ("encode_documents_per_second", "encode_queries_per_second", "search_queries_per_second"):
        assert details[rate] > 0


def test_a_model_that_is_none_is_refused_before_any_work(tmp_path, tiny_cross_encoder, collection):
    for model in (tmp_path / "none", tiny_cross_encoder):
        with pytest.raises(InputError):
            Dense(model=str(model)).check()
        with pytest.raises(InputError):
            Dense(model=str(model)).open(collection)


def test_some_of_the_queries_asked_for_last_are_not_encoded_again(tiny_model, collection, monkeypatch):
    searcher = Dense(model=str(tiny_model)).open(collection)
    queries = collection.query_ids("train")
    vectors = np.asarray(searcher.query_vectors(queries))
    found = searcher.search(queries, 5)
    scores = searcher.score(queries[:2], ["storm0", "bread0"])
    monkeypatch.setattr(DenseEncoder, "encode", lambda *_: pytest.fail("encoded again"))
    np.testing.assert_array_equal(searcher.query_vectors(queries[4:1:-1]), vectors[4:1:-1])
    assert searcher.search(queries[2:4], 5) == {query: found[query] for query in queries[2:4]}
    np.testing.assert_array_equal(searcher.score(queries[:2], ["storm0", "bread0"]), scores)
