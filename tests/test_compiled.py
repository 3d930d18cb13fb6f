import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.compiled import in_parts, replace_least, threads


@pytest.mark.parametrize(("allowed", "expected"), [("1", 1), ("3,2", 3), ("0", 1)])
def test_a_search_keeps_to_the_threads_that_are_allowed(allowed, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    assert threads() == expected


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_parts_are_all_rows_in_their_order(count, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    rows = list(range(count))
    found = in_parts(lambda part: rows[part], count)
    assert [row for part in found for row in part] == rows
    assert len(found) == min(3, count)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=40), st.integers(1, 9))
def test_a_heap_keeps_the_greatest(scores, depth):
    heap, names = np.full(depth, -np.inf, dtype=np.float32), np.full(depth, -1, dtype=np.int64)
    for name, score in enumerate(scores):
        if score > heap[0]:
            replace_least(heap, names, np.float32(score), name)
    kept = sorted(names[names >= 0].tolist(), key=scores.__getitem__, reverse=True)
    assert [scores[name] for name in kept] == heapq.nlargest(depth, scores)
    np.testing.assert_array_equal(heap[names >= 0], np.float32([scores[name] for name in names[names >= 0]]))
