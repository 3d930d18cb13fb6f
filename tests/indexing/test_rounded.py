import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.indexing import rounded
from retrodistill.indexing.rounded import Rounded


def best(queries, vectors, depth, block=10**6):
    scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
    rows = np.full(scores.shape, -1, dtype=np.int64)
    sieve = Rounded(queries, scores, rows)
    sound = min([sieve.sift(vectors[start : start + block], start) for start in range(0, len(vectors), block)])
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1), sound


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 300),
    asked=st.integers(1, 20),
    depth=st.integers(1, 40),
    width=st.integers(1, 40),
    spread=st.sampled_from([1e-4, 1e-2, 1.0, 1e3]),
    shift=st.sampled_from([-5.0, 0.0, 5.0]),
    seed=st.integers(0, 2**32),
)
def test_the_best_by_exact_products_however_near_they_lie(size, asked, depth, width, spread, shift, seed):
    """Vectors that differ by less than bfloat16 can tell, and scores of both signs."""
    generator = np.random.default_rng(seed)
    vectors = (shift + spread * generator.standard_normal((size, width))).astype(np.float32)
    queries = (1 + generator.standard_normal((asked, width))).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounded, "_ROWS_A_TILE", 70)
        patch.setattr(rounded, "_QUERIES_A_TILE", 7)
        scores, rows, sound = best(queries, vectors, min(depth, size), block=150)
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    expected = -np.sort(-exact, axis=1)[:, : scores.shape[1]]
    slack = 1e-5 * (np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1).max())
    assert sound
    assert (np.abs(scores - expected) <= slack).all()
    assert (np.abs(np.take_along_axis(exact, rows, axis=1) - scores) <= slack).all()
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_what_is_far_from_the_best_is_not_multiplied_again():
    """Else it would be right, and slow: the queries of the exact products are poisoned, and nothing shows it."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((4_000, 64)).astype(np.float32)
    queries = vectors[:8].copy()
    scores = np.repeat(0.9 * (queries**2).sum(axis=1, keepdims=True), 4, axis=1)
    sieve = Rounded(queries, scores, np.zeros((8, 4), dtype=np.int64))
    sieve.queries = np.full_like(queries, 1e9)
    assert sieve.sift(vectors[8:], 8)
    assert (scores < 1e6).all()


@pytest.mark.parametrize("place", ["queries", "vectors"])
def test_nan_is_told(place):
    arrays = {"queries": np.ones((3, 5), dtype=np.float32), "vectors": np.ones((9, 5), dtype=np.float32)}
    arrays[place][2, 3] = np.nan
    assert not best(arrays["queries"], arrays["vectors"], 2)[2]


def test_lengths_beyond_float32_are_multiplied_exactly():
    vectors = np.array([[1e25, 0], [2e25, 0], [0, 1], [3e25, 0]], dtype=np.float32)
    scores, rows, sound = best(np.array([[1, 0], [0, 1]], dtype=np.float32), vectors, 2)
    assert sound
    assert rows[0].tolist() == [3, 1]
    assert scores[1].tolist() == [1, 0]


def test_torch_is_not_loaded_for_little(monkeypatch):
    monkeypatch.delitem(rounded.sys.modules, "torch")
    assert not rounded.pays(1_000, 1_000, 384, 10**9)
    assert not rounded.pays(10_000, 10**6, 384, 10**8)
