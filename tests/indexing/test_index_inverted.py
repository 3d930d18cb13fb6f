import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.emissions import SparseVectors
from retrodistill.errors import InputError
from retrodistill.indexing.index import search
from retrodistill.indexing.inverted import Inverted


def sparse(block):
    block = np.asarray(block, dtype=np.float32)
    rows, terms = np.nonzero(block)
    lengths = np.bincount(rows, minlength=len(block))
    return SparseVectors(lengths, terms.astype(np.int32), block[rows, terms], block.shape[1])


def random_block(generator, size, terms, share):
    return (generator.random((size, terms)) < share) * generator.random((size, terms)).astype(np.float32)


def brute_force(documents, ids, queries, depth):
    """Every inner product above 0, sorted in Python: score descending, then id descending."""
    found = []
    for row in queries @ documents.T:
        order = sorted(((score, doc) for score, doc in zip(row.tolist(), ids, strict=True) if score > 0), reverse=True)
        found.append({doc: score for score, doc in order[:depth]})
    return found


@st.composite
def tied_searches(draw):
    """Small whole numbers: inner products are exact, and most of them are ties."""
    size, queries, terms = draw(st.integers(1, 70)), draw(st.integers(1, 25)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    documents = generator.integers(0, draw(st.integers(1, 3)), (size, terms)).astype(np.float32)
    ids = [f"d{number}" for number in generator.permutation(size)]
    return documents, ids, generator.integers(0, 3, (queries, terms)).astype(np.float32), draw(st.integers(1, 80))


@settings(deadline=None)
@given(tied_searches())
def test_search_equals_brute_force_ties_included(case):
    documents, ids, queries, depth = case
    found = search(Inverted().build(sparse(documents)), ids, sparse(queries), depth)
    expected = brute_force(documents, ids, queries, depth)
    assert [list(row.items()) for row in found] == [list(row.items()) for row in expected]


@pytest.mark.parametrize("depth", [1, 20, 700])
def test_search_of_real_weights_equals_numpy(depth):
    generator = np.random.default_rng(0)
    documents, queries = random_block(generator, 500, 300, 0.05), random_block(generator, 300, 300, 0.03)
    ids = [f"d{number:03d}" for number in range(500)]
    found = search(Inverted().build(sparse(documents)), ids, sparse(queries), depth)
    expected = brute_force(documents, ids, queries, depth)
    assert (max(map(len, expected)) < depth) == (depth == 700)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        np.testing.assert_allclose(list(one.values()), list(other.values()), atol=1e-5)


def test_documents_that_share_no_term_are_not_found():
    built = Inverted().build(sparse([[1, 0, 0], [0, 2, 0], [3, 1, 0], [0, 0, 0]]))
    scores, rows = built.nearest(sparse([[1, 0, 0], [0, 0, 1], [0, 0, 0]]), 10)
    assert scores.tolist() == [[3, 1, -np.inf, -np.inf]] + [[-np.inf] * 4] * 2
    assert rows.tolist() == [[2, 0, -1, -1]] + [[-1] * 4] * 2
    assert search(built, ["a", "b", "c", "d"], sparse([[1, 0, 0], [0, 0, 1]]), 10) == [{"c": 3, "a": 1}, {}]


def test_many_documents_of_one_score():
    ids = [f"{number:04d}" for number in np.random.default_rng(0).permutation(400)]
    (found,) = search(Inverted().build(sparse(np.ones((400, 2)))), ids, sparse([[1, 0]]), 7)
    assert list(found) == sorted(ids, reverse=True)[:7]


def test_no_query_and_no_document():
    built = Inverted().build(sparse(np.eye(3)))
    assert search(built, ["a", "b", "c"], sparse(np.zeros((0, 3))), 5) == []
    empty = Inverted().build(sparse(np.zeros((0, 3))))
    assert empty.size == 0
    assert search(empty, [], sparse([[1, 0, 0]]), 5) == [{}]


def test_size_and_bytes():
    built = Inverted().build(sparse([[1, 0, 2], [0, 0, 0], [0, 3, 0]]))
    assert built.size == 3
    assert built.bytes == 3 * (4 + 4) + 4 * 8 + 3 * 8  # postings, where terms begin, how long documents are


def test_another_vocabulary_is_refused():
    with pytest.raises(InputError, match="the index knows 3 terms, the query has 2"):
        Inverted().build(sparse(np.eye(3))).nearest(sparse(np.eye(2)), 1)


def test_a_weight_that_is_not_finite_is_told():
    with pytest.raises(InputError, match="not finite; the model has diverged in training"):
        Inverted().build(sparse([[1, np.nan]]))


# On disk


@pytest.fixture
def saved(tmp_path):
    documents = sparse(random_block(np.random.default_rng(0), 30, 40, 0.2))
    Inverted().build(documents).save(tmp_path)
    return tmp_path, documents


def test_what_is_saved_is_loaded(saved):
    folder, documents = saved
    loaded, built = Inverted().load(folder), Inverted().build(documents)
    assert (loaded.size, loaded.bytes) == (built.size, built.bytes)
    for one, other in zip(loaded.nearest(documents[:5], 9), built.nearest(documents[:5], 9), strict=True):
        np.testing.assert_array_equal(one, other)


NAMES = ["offsets", "documents", "weights", "lengths"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:10], lambda b: b"", lambda b: b"junk" * 50]
)
def test_a_damaged_file_is_refused(saved, name, damage):
    path = saved[0] / f"{name}.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"{name}\.npy: cannot be read; build the index again: retrodistill index"):
        Inverted().load(saved[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[:-1],
        lambda a: a.astype(np.float64),
        lambda a: a[None],
        lambda a: a[::-1] + 1 if a.dtype != np.float32 else a[2:],
        lambda a: np.full_like(a, 1000) if a.dtype != np.float32 else a[:0],
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(saved, name, change):
    path = saved[0] / f"{name}.npy"
    np.save(path, np.ascontiguousarray(change(np.load(path))))
    with pytest.raises(InputError, match=r"its files do not fit each other; build the index again"):
        Inverted().load(saved[0])


def test_a_pickle_is_not_opened(saved):
    np.save(saved[0] / "weights.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"weights\.npy: cannot be read"):
        Inverted().load(saved[0])


def test_no_index_is_refused(tmp_path):
    with pytest.raises(InputError, match="build the index again"):
        Inverted().load(tmp_path)


def test_a_search_leaves_torchs_threads_alone():
    code = """
import numpy as np, torch
from retrodistill.emissions import SparseVectors
from retrodistill.indexing.index import search
from retrodistill.indexing.inverted import Inverted
vectors = SparseVectors(np.array([1, 1]), np.array([0, 1], dtype=np.int32), np.array([1, 2], dtype=np.float32), 4)
found = search(Inverted().build(vectors), ["a", "b"], vectors, 1)
print(torch.get_num_threads())
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert told.stdout.strip() == "1", told.stderr
