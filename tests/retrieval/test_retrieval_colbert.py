import numpy as np
import pytest

from retrodistill.errors import InputError
from retrodistill.indexing.dense import Flat
from retrodistill.indexing.multivector import MultiVector
from retrodistill.registry import build
from retrodistill.retrieval.indexed import Indexed, write_index
from retrodistill.retrieval.multi import ColBERT
from retrodistill.steps import retriever_spec


@pytest.fixture(scope="module")
def reference(tiny_colbert, collection):
    """Every query's score of every document, by sentence-transformers."""
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(tiny_colbert), device="cpu")
    scores = model.similarity(
        model.encode_query(collection.queries.texts()), model.encode_document(collection.corpus.texts())
    )
    return {
        query: dict(zip(collection.corpus.ids, row.tolist(), strict=True))
        for query, row in zip(collection.queries.ids, scores, strict=True)
    }


@pytest.fixture
def searcher(tiny_colbert, collection):
    return ColBERT(model=str(tiny_colbert)).open(collection)


@pytest.mark.parametrize("depth", [5, 100])
def test_search_equals_brute_force(searcher, collection, reference, depth):
    found = searcher.search(collection.queries.ids, depth)
    for query, expected in reference.items():
        best = sorted(expected.values(), reverse=True)[:depth]
        np.testing.assert_allclose(list(found[query].values()), best, atol=1e-5)
        np.testing.assert_allclose(list(found[query].values()), [expected[doc] for doc in found[query]], atol=1e-5)


def test_as_a_teacher_it_scores_as_it_searches(tiny_colbert, collection, reference):
    pairs = [(query, doc) for query in reference for doc in collection.corpus.ids]
    np.random.default_rng(0).shuffle(pairs)
    judge = build("teacher", f"colbert:{tiny_colbert}").open(collection)
    scores = judge.score(*zip(*pairs, strict=True))
    np.testing.assert_allclose(scores, [reference[query][doc] for query, doc in pairs], atol=1e-5)


def test_a_model_is_enough_to_know_the_retriever(tiny_colbert, tiny_model):
    assert retriever_spec(str(tiny_colbert))["kind"] == "colbert"
    assert retriever_spec(str(tiny_model))["kind"] == "dense"


def test_an_index_on_disk_searches_as_the_model_does(tiny_colbert, collection, searcher, tmp_path):
    write_index(ColBERT(model=str(tiny_colbert)), MultiVector(), collection, tmp_path / "index")
    opened = Indexed(path=tmp_path / "index").open(collection)
    assert opened.search(collection.queries.ids, 7) == searcher.search(collection.queries.ids, 7)


def test_an_index_of_single_vectors_is_refused(tiny_colbert, collection, tmp_path):
    with pytest.raises(InputError, match=r"index flat accepts dense, but colbert:.* emits multi; use multivector"):
        write_index(ColBERT(model=str(tiny_colbert)), Flat(), collection, tmp_path / "index")


def test_details_for_the_report(searcher, collection):
    searcher.search(collection.queries.ids, 5)
    details = searcher.details
    vectors = searcher.document_vectors
    assert details["system"] == "late interaction"
    assert details["index_bytes"] == vectors.vectors.nbytes + vectors.lengths.nbytes


def test_another_kind_of_model_is_refused(tiny_model):
    with pytest.raises(InputError, match="is a SentenceTransformer, expected a MultiVectorEncoder"):
        ColBERT(model=str(tiny_model)).check()
