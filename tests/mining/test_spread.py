import numpy as np
import pytest
from mining_pools import pool_of
from pydantic import ValidationError

from retrodistill.mining.spread import MMR, Clusters
from retrodistill.retrieval.dense import Dense


class Plane:
    """Vectors in the plane, given by their angles; clusters by hand."""

    def __init__(self, angles, clusters=()):
        self.angles = dict(zip([f"d{row}" for row in range(len(angles))], np.radians(angles), strict=True))
        self.groups = np.array(clusters)

    def query(self, query):
        return np.array([2.0, 0.0], dtype=np.float32)  # lengths do not matter

    def documents(self, documents):
        return np.array([[3 * np.cos(self.angles[d]), 3 * np.sin(self.angles[d])] for d in documents], dtype=np.float32)

    def clusters(self, documents, count):
        return self.groups


@pytest.fixture
def dense(tiny_model):
    return Dense(model=str(tiny_model))


def rows(sampler, space, count, seed=0):
    pool = pool_of(range(1, count + 1), spaces={sampler.space: space})
    return sampler.choose(pool, np.random.default_rng(seed)).tolist()


def test_mmr_by_hand(dense):
    # Two at 10 and 12 degrees, one at -40, one at 80. After 10: 12 has cos .978 - cos 2 = -.02, -40 has .766 - .643.
    plane = Plane([10, 12, -40, 80])
    assert rows(MMR(n=2, space=dense), plane, 4) == [0, 2]
    assert rows(MMR(n=2, space=dense, trade=1.0), plane, 4) == [0, 1]
    # Difference alone: after the first, the one at the greatest angle from it.
    assert rows(MMR(n=2, space=dense, trade=0.0), Plane([10, 12, -40, 100]), 4) == [0, 3]
    assert rows(MMR(n=9, space=dense), plane, 4) == [0, 1, 2, 3]
    assert rows(MMR(n=9, space=dense), plane, 0) == []


def test_opposite_vectors_are_more_different_than_none(dense):
    # cos -1 to the one chosen is better than cos 0.
    assert rows(MMR(n=2, space=dense, trade=0.0), Plane([0, 90, 180]), 3) == [0, 2]


def test_clusters_take_turns(dense):
    space = Plane([0] * 6, [0, 0, 0, 1, 1, 2])
    for seed in range(20):
        drawn = rows(Clusters(n=3, space=dense), space, 6, seed)
        assert [space.groups[row] for row in drawn] == [0, 1, 2]


def test_vectors_are_dense(tiny_splade):
    with pytest.raises(ValidationError, match="makes no dense vectors, which documents are compared by"):
        MMR(n=2, space=f"splade:{tiny_splade}")
    with pytest.raises(ValidationError, match="bm25 makes no dense vectors"):
        Clusters(n=2, space="bm25")
