"""An index of several vectors a document that looks at a few documents only, found through their tokens' clusters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from retrodistill.emissions import Emission, MultiVectors
from retrodistill.errors import InputError
from retrodistill.indexing.index import Index
from retrodistill.indexing.multivector import Exhaustive, MultiVector, best_of, check_width, load_array

_VECTORS_AT_ONCE = 65_536
_SAMPLE_A_CENTROID = 64  # vectors that k-means looks at
_ITERATIONS = 5


@dataclass(frozen=True)
class _Probed:
    """Documents, and for each cluster of token vectors those that have a token in it.

    Attributes:
        exact: all vectors, for the scores that are returned.
        centroids: float32 (clusters, width).
        starts: int64 (clusters + 1,), where each cluster's list begins.
        listed: int64 (entries,), rows of documents, each once in a list.
        candidates: documents whose MaxSim is computed.
        probe: lists that are looked at for each query vector.
    """

    exact: Exhaustive
    centroids: np.ndarray
    starts: np.ndarray
    listed: np.ndarray
    candidates: int
    probe: int

    @property
    def size(self) -> int:
        return self.exact.size

    @property
    def bytes(self) -> int:
        return self.exact.bytes + self.centroids.nbytes + self.starts.nbytes + self.listed.nbytes

    def nearest(self, queries: MultiVectors, depth: int) -> tuple[np.ndarray, np.ndarray]:
        documents = self.exact.documents
        check_width(queries, documents)
        depth = min(depth, self.size)
        count = min(self.size, max(depth, self.candidates))
        scores, rows = np.empty((len(queries), depth), np.float32), np.empty((len(queries), depth), np.int64)
        for query in range(len(queries)):
            found = self._candidates(queries[query : query + 1].vectors, count)
            exact = queries.pair_scores(documents, np.full(count, query), found)
            (scores[query],), (columns,) = best_of(exact[None], depth)
            rows[query] = found[columns]
        return scores, rows

    def _candidates(self, vectors: np.ndarray, count: int) -> np.ndarray:
        """Rows of the `count` documents that the centroids promise most, ascending.

        What a document is known to reach with a query vector is that vector's product with the nearest of its
        centroids; where that lies in none of the lists looked at, at most that of the best list left out.
        """
        promise, best = np.zeros(self.size, np.float32), np.empty(self.size, np.float32)
        near = vectors.astype(np.float32) @ self.centroids.T
        probe = min(self.probe, near.shape[1])
        for products in near if probe else ():
            order = np.argpartition(-products, probe - 1)
            left_out = products[order[probe:]].max(initial=products.min())
            # ascending, so that a document in several lists keeps the greatest, which is written last
            lists = order[:probe][np.argsort(products[order[:probe]], kind="stable")]
            found = np.concatenate([self.listed[self.starts[at] : self.starts[at + 1]] for at in lists])
            best[found] = np.repeat(products[lists] - left_out, self.starts[lists + 1] - self.starts[lists])
            promise[found] += best[found]  # a row that stands twice is written twice with the same sum
        if count == self.size:
            return np.arange(count)
        return np.sort(np.argpartition(-promise, count - 1)[:count])

    def save(self, folder: Path) -> None:
        self.exact.save(folder)
        for name in ("centroids", "starts", "listed"):
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)


class ProbedMultiVector(Index):
    """Exact MaxSim with the `candidates` that promise most; the promise is read from clusters of token vectors.

    Each query vector looks at the `probe` clusters nearest to it, and a document is as promising as the nearest
    clusters that it has tokens in. What is returned are exact scores; what can be missed is a document.

    Source: Santhanam et al. 2022, "PLAID" (centroids stand for tokens); Lee et al. 2023, "Rethinking the Role of Token
    Retrieval in Multi-Vector Retrieval" (what a list left out can be worth at most).
    """

    accepts: ClassVar[Emission] = "multi"
    kind: Literal["multivector_probed"] = "multivector_probed"
    candidates: int = Field(256, ge=1, description="documents a query whose MaxSim is computed; the depth, if greater")
    probe: int = Field(32, ge=1, description="clusters looked at for each query vector")
    centroids: int | None = Field(None, ge=1, description="clusters; about twice the root of all vectors where unset")
    precision: Literal["float32", "float16"] = "float32"
    seed: int = Field(0, ge=0, description="of the clustering")

    def build(self, vectors: MultiVectors) -> _Probed:
        """Cluster a sample of the vectors, then list for each cluster the documents that have a vector in it.

        Raises:
            InputError: a vector is not finite.
        """
        total = len(vectors.vectors)
        count = min(total, self.centroids or 2 ** round(np.log2(2 * np.sqrt(max(1, total)))))
        clusters = self._clusters(vectors.vectors, count)
        documents = np.repeat(np.arange(len(vectors)), vectors.lengths)
        entries: list[np.ndarray] = [np.empty(0, np.int64)]
        for start in range(0, total, _VECTORS_AT_ONCE):
            block = _finite(vectors.vectors[start : start + _VECTORS_AT_ONCE])
            nearest = clusters.search(block, 1)[1][:, 0]
            entries.append(np.unique(nearest * len(vectors) + documents[start : start + _VECTORS_AT_ONCE]))
        keys = np.unique(np.concatenate(entries))
        lists, listed = np.divmod(keys, max(1, len(vectors)))
        starts = np.searchsorted(lists, np.arange(count + 1))
        exact = MultiVector(precision=self.precision).build(vectors)
        return _Probed(exact, clusters.reconstruct_n(0, count), starts, listed, self.candidates, self.probe)

    def load(self, folder: Path) -> _Probed:
        """Read the lists, and map the vectors into memory.

        Raises:
            InputError: a file is absent or damaged, or they do not fit each other.
        """
        exact = MultiVector(precision=self.precision).load(folder)
        centroids, starts, listed = (
            np.asarray(load_array(folder / f"{name}.npy", dimensions, kind))
            for name, dimensions, kind in (("centroids", 2, "f"), ("starts", 1, "i"), ("listed", 1, "i"))
        )
        fit = (
            centroids.shape == (len(starts) - 1, exact.documents.vectors.shape[1])
            and starts[0] == 0
            and starts[-1] == len(listed)
            and (np.diff(starts) >= 0).all()
            and ((listed >= 0) & (listed < exact.size)).all()
        )
        if not fit:
            raise InputError(
                f"{folder}: centroids.npy, starts.npy and listed.npy do not fit the vectors; build the index again: "
                "retrodistill index"
            )
        return _Probed(exact, centroids, starts, listed, self.candidates, self.probe)

    def _clusters(self, vectors: np.ndarray, count: int) -> Any:
        """A FAISS index of the centroids that k-means finds in a sample of the vectors."""
        import faiss

        if not count:
            return faiss.IndexFlatL2(vectors.shape[1])
        generator = np.random.default_rng(self.seed)
        size = min(len(vectors), _SAMPLE_A_CENTROID * count)
        sample = _finite(vectors[np.sort(generator.choice(len(vectors), size=size, replace=False))])
        kmeans = faiss.Kmeans(
            vectors.shape[1],
            count,
            niter=_ITERATIONS,
            seed=self.seed,
            min_points_per_centroid=1,
            max_points_per_centroid=_SAMPLE_A_CENTROID,
        )
        kmeans.train(sample)
        return kmeans.index


def _finite(vectors: np.ndarray) -> np.ndarray:
    block = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(block).all():
        raise InputError("a vector of the index is not finite; the model has diverged in training")
    return block


INDEXES = {"multivector_probed": ProbedMultiVector}
