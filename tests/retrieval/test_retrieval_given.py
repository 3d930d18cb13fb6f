import numpy as np
import pytest

from retrodistill import steps
from retrodistill.errors import InputError
from retrodistill.registry import build, table
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.given import GivenVectors


@pytest.fixture
def folder(tmp_path, collection, tiny_model):
    """What a user's own script would write: here by the tiny model."""
    searcher = Dense(model=str(tiny_model)).open(collection)
    np.save(tmp_path / "documents.npy", np.asarray(searcher.document_vectors))
    np.save(tmp_path / "queries.npy", np.asarray(searcher.query_vectors(collection.queries.ids)))
    return tmp_path


def test_given_vectors_find_what_their_model_finds(folder, collection, tiny_model):
    given, dense = GivenVectors(path=folder), Dense(model=str(tiny_model))
    queries = collection.query_ids("test")
    found, expected = given.open(collection).search(queries, 5), dense.open(collection).search(queries, 5)
    assert {query: list(docs) for query, docs in found.items()} == {
        query: list(docs) for query, docs in expected.items()
    }
    assert build("retriever", f"vectors:{folder}") == given
    assert table("teacher")["vectors"] is GivenVectors
    queries, documents = ["q-storm0", "q-bread0", "q-storm0"], ["bread1", "bread1", "comet2"]
    np.testing.assert_allclose(
        given.open(collection).score(queries, documents), dense.open(collection).score(queries, documents), atol=1e-6
    )
    measured, _ = steps.evaluate(given, collection)
    assert measured.metrics == pytest.approx(steps.evaluate(dense, collection)[0].metrics)


def test_other_vectors_are_others(folder, collection):
    before = GivenVectors(path=folder).open(collection).identity
    vectors = np.load(folder / "queries.npy")
    vectors[0] *= 2
    np.save(folder / "queries.npy", vectors)
    assert GivenVectors(path=folder).open(collection).identity != before


def test_what_is_missing_or_does_not_fit(folder, collection):
    def opened():
        return GivenVectors(path=folder).open(collection)

    documents = np.load(folder / "documents.npy")
    np.save(folder / "documents.npy", documents[:-1])
    with pytest.raises(InputError, match=r"documents.npy: got 23 rows for the 24 documents of topics"):
        opened()
    np.save(folder / "documents.npy", documents[:, :-1])
    with pytest.raises(InputError, match="queries of 32 dimensions cannot be compared with documents of 31"):
        opened()
    np.save(folder / "documents.npy", documents.astype(np.float64))
    with pytest.raises(InputError, match=r"got float64 of shape \(24, 32\), expected float32 or float16"):
        opened()
    (folder / "documents.npy").write_bytes(b"none")
    with pytest.raises(InputError, match="cannot be read as a matrix"):
        opened()
    (folder / "documents.npy").unlink()
    with pytest.raises(InputError, match=r"there is no documents.npy; expected documents.npy and queries.npy"):
        GivenVectors(path=folder).check()
