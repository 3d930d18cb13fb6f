import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.errors import InputError
from retrodistill.indexing.dense import Flat
from retrodistill.indexing.index import load_ids, save_ids, search


def brute_force(documents, ids, queries, depth):
    """Every inner product, sorted in Python: score descending, then id descending."""
    found = []
    for row in queries @ documents.T:
        order = sorted(zip(row.tolist(), ids, strict=True), reverse=True)
        found.append({doc: score for score, doc in order[:depth]})
    return found


@st.composite
def tied_searches(draw):
    """Small whole numbers: inner products are exact, and most of them are ties."""
    size, queries = draw(st.integers(1, 70)), draw(st.integers(1, 25))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = draw(st.integers(0, 3))
    documents = generator.integers(0, top + 1, (size, 4)).astype(np.float32)
    ids = [f"d{number}" for number in generator.permutation(size)]
    return documents, ids, generator.integers(0, 3, (queries, 4)).astype(np.float32), draw(st.integers(1, 80))


@settings(deadline=None)
@given(tied_searches())
def test_search_equals_brute_force_ties_included(case):
    documents, ids, queries, depth = case
    found = search(Flat().build(documents), ids, queries, depth)
    expected = brute_force(documents, ids, queries, depth)
    assert [list(row.items()) for row in found] == [list(row.items()) for row in expected]


def test_search_of_real_vectors_equals_numpy():
    generator = np.random.default_rng(0)
    documents, queries = (generator.standard_normal((n, 48)).astype(np.float32) for n in (500, 40))
    ids = [f"d{number:03d}" for number in range(500)]
    found = search(Flat().build(documents), ids, queries, 20)
    expected = brute_force(documents, ids, queries, 20)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        np.testing.assert_allclose(list(one.values()), list(other.values()), atol=1e-4)


@pytest.mark.parametrize("copies", [20, 300])
def test_equal_documents_at_the_cut_fall_by_descending_id(copies):
    generator = np.random.default_rng(0)
    documents = np.repeat(generator.standard_normal((3, 8)).astype(np.float32), copies, axis=0)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    ids = [f"{number:04d}" for number in generator.permutation(3 * copies)]
    for row in range(3):
        own = sorted(ids[row * copies : (row + 1) * copies], reverse=True)
        (found,) = search(Flat().build(documents), ids, documents[row * copies : row * copies + 1], 7)
        assert list(found) == own[:7]


def test_many_queries_are_searched_in_blocks():
    documents = np.eye(3, dtype=np.float32)
    queries = np.tile(documents, (700, 1))
    assert [next(iter(row)) for row in search(Flat().build(documents), ["a", "b", "c"], queries, 1)] == [
        "a",
        "b",
        "c",
    ] * 700


def test_no_query():
    assert (
        search(Flat().build(np.eye(3, dtype=np.float32)), ["a", "b", "c"], np.empty((0, 3), dtype=np.float32), 5) == []
    )


def test_a_depth_beyond_the_index_gives_every_document_once():
    built = Flat().build(np.eye(3, dtype=np.float32))
    scores, rows = built.nearest(np.array([[3, 2, 1]], dtype=np.float32), 100)
    assert (scores.tolist(), rows.tolist()) == ([[3, 2, 1]], [[0, 1, 2]])
    assert search(built, ["a", "b", "c"], np.array([[3, 2, 1]], dtype=np.float32), 100) == [{"a": 3, "b": 2, "c": 1}]


def test_one_document():
    built = Flat().build(np.array([[1, 2]], dtype=np.float32))
    assert (built.size, built.bytes) == (1, 8)
    assert search(built, ["only"], np.array([[3, 4], [-1, 0]], dtype=np.float32), 10) == [{"only": 11}, {"only": -1}]


@pytest.mark.parametrize("broken", ["query", "index"])
def test_nan_is_told(broken):
    vectors = {"query": np.ones((1, 2), dtype=np.float32), "index": np.eye(2, dtype=np.float32)}
    vectors[broken][0, 0] = np.nan
    with pytest.raises(InputError, match="is NaN; the model has diverged in training"):
        search(Flat().build(vectors["index"]), ["a", "b"], vectors["query"], 2)


def test_another_dimension_is_refused():
    with pytest.raises(InputError, match="the index holds vectors of 3 dimensions, the query has 2"):
        search(Flat().build(np.eye(3, dtype=np.float32)), ["a", "b", "c"], np.ones((1, 2), dtype=np.float32), 1)


def test_memory_mapped_vectors_of_another_type_are_taken(tmp_path):
    np.save(tmp_path / "v.npy", np.asfortranarray(np.arange(12, dtype=np.float64).reshape(4, 3)))
    built = Flat().build(np.load(tmp_path / "v.npy", mmap_mode="r"))
    scores, rows = built.nearest(np.array([[1, 0, 0]], dtype=np.float32), 4)
    assert (scores.tolist(), rows.tolist()) == ([[9, 6, 3, 0]], [[3, 2, 1, 0]])


# On disk


@pytest.fixture
def saved(tmp_path):
    documents = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    Flat().build(documents).save(tmp_path)
    return tmp_path, documents


def test_what_is_saved_is_loaded(saved):
    folder, documents = saved
    loaded, built = Flat().load(folder), Flat().build(documents)
    assert (loaded.size, loaded.bytes) == (30, 30 * 6 * 4) == (built.size, built.bytes)
    for one, other in zip(loaded.nearest(documents[:5], 9), built.nearest(documents[:5], 9), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:10], lambda b: b"", lambda b: b"junk" * 50]
)
def test_a_damaged_index_is_refused(saved, damage):
    path = saved[0] / "index.faiss"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"index\.faiss: cannot be read; build the index again: retrodistill index"):
        Flat().load(saved[0])


def test_a_size_that_no_memory_holds_is_refused(saved, monkeypatch):
    def read(path):
        raise MemoryError("std::bad_alloc")  # what FAISS raises where a damaged file asks for petabytes

    monkeypatch.setattr("faiss.read_index", read)
    with pytest.raises(InputError, match="build the index again"):
        Flat().load(saved[0])


def test_no_index_is_refused(tmp_path):
    with pytest.raises(InputError, match="build the index again"):
        Flat().load(tmp_path)


def test_ids(tmp_path):
    save_ids(tmp_path, ["b", "a", "with space", "é"])
    assert load_ids(tmp_path) == ["b", "a", "with space", "é"]
    (tmp_path / "ids.parquet").write_bytes(b"PAR1 junk")
    with pytest.raises(InputError, match=r"ids\.parquet: cannot be read .*; build the index again: retrodistill index"):
        load_ids(tmp_path)
    (tmp_path / "ids.parquet").unlink()
    with pytest.raises(InputError, match="build the index again"):
        load_ids(tmp_path)
