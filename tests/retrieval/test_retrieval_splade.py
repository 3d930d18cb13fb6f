import numpy as np
import pytest

from retrodistill.errors import InputError
from retrodistill.indexing.dense import Flat
from retrodistill.indexing.inverted import Inverted
from retrodistill.retrieval.indexed import Indexed, write_index
from retrodistill.retrieval.sparse import Splade
from retrodistill.runs import cut
from retrodistill.steps import as_retriever


@pytest.fixture(scope="module")
def reference(tiny_splade, collection):
    """Every query's score of every document, by sentence-transformers."""
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(tiny_splade), device="cpu")
    queries, documents = (
        model.encode(texts.texts(), convert_to_sparse_tensor=False).numpy()
        for texts in (collection.queries, collection.corpus)
    )
    return {
        query: dict(zip(collection.corpus.ids, row.tolist(), strict=True))
        for query, row in zip(collection.queries.ids, queries @ documents.T, strict=True)
    }


@pytest.mark.parametrize("depth", [1, 5, 100])
def test_search_equals_brute_force(tiny_splade, collection, reference, depth):
    found = Splade(model=str(tiny_splade)).open(collection).search(collection.queries.ids, depth)
    for query, expected in reference.items():
        best = cut({doc: score for doc, score in expected.items() if score > 0}, depth)
        assert len(found[query]) == len(best)
        np.testing.assert_allclose(list(found[query].values()), list(best.values()), atol=1e-4)
        np.testing.assert_allclose(list(found[query].values()), [expected[doc] for doc in found[query]], atol=1e-4)


def test_pairs_score_as_the_search_does(tiny_splade, collection, reference):
    pairs = [(query, doc) for query in reference for doc in collection.corpus.ids]
    scores = Splade(model=str(tiny_splade)).open(collection).score(*zip(*pairs, strict=True))
    assert (scores.shape, scores.dtype) == ((len(pairs),), np.float32)
    np.testing.assert_allclose(scores, [reference[query][doc] for query, doc in pairs], atol=1e-4)


def test_a_model_is_known_by_its_kind(tiny_splade, tmp_path):
    from retrodistill.students.splade import SpladeStudent

    student = SpladeStudent(model=str(tiny_splade))
    student.save(student.load("cpu"), tmp_path / "saved")
    for folder in (tiny_splade, tmp_path / "saved"):
        assert as_retriever(str(folder)) == Splade(model=str(folder))


def test_fewer_terms_score_less(tiny_splade, collection):
    whole, pruned = (
        Splade(model=str(tiny_splade), document_top_k=kept).open(collection).search(collection.queries.ids, 24)
        for kept in (None, 2)
    )
    for query, found in pruned.items():
        assert sum(found.values()) < sum(whole[query].values())
        assert all(score <= whole[query][doc] + 1e-5 for doc, score in found.items())


def test_an_index_on_disk(tiny_splade, collection, tmp_path):
    retriever = Splade(model=str(tiny_splade))
    manifest = write_index(retriever, Inverted(), collection, tmp_path / "index")
    assert manifest["details"]["system"] == "learned sparse"
    found = Indexed(path=tmp_path / "index").open(collection).search(collection.queries.ids, 5)
    assert found == retriever.open(collection).search(collection.queries.ids, 5)


def test_an_index_of_another_kind_of_vectors_is_refused(tiny_splade, collection, tmp_path):
    with pytest.raises(InputError, match=r"index flat accepts dense, but splade:.* emits sparse; use inverted"):
        write_index(Splade(model=str(tiny_splade)), Flat(), collection, tmp_path / "index")


def test_a_bi_encoder_is_refused(tiny_model):
    with pytest.raises(InputError, match="is a SentenceTransformer, expected a SparseEncoder"):
        Splade(model=str(tiny_model)).check()
