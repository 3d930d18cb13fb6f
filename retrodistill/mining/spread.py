"""Samplers over document vectors: negatives that differ from each other."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill.mining.pool import Pool
from retrodistill.mining.samplers import Sampler, draw_evenly
from retrodistill.registry import Part, of
from retrodistill.retrieval.retriever import Retriever


class _Spread(Sampler):
    """A sampler that looks at vectors.

    Attributes:
        space: the dense retriever whose vectors are looked at; kept on disk, encoded once.
    """

    space: of("retriever")  # type: ignore[valid-type]

    @field_validator("space")
    @classmethod
    def _of_vectors(cls, space: Part) -> Part:
        if not (isinstance(space, Retriever) and space.emits == "dense"):
            raise ValueError(f"{space.label} makes no dense vectors, which documents are compared by; name dense:MODEL")
        return space

    @property
    def spaces(self) -> tuple[Part, ...]:
        """The retriever."""
        return (self.space,)


class MMR(_Spread):
    """`n` documents that are near the query and far from each other, chosen one by one by maximal marginal relevance.

    The next one has the greatest trade cos(q, d) - (1 - trade) max cos(d, those chosen).

    Source: Carbonell and Goldstein 1998, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and
    Producing Summaries".

    Attributes:
        trade: 1 is relevance alone, 0 difference alone.
    """

    kind: Literal["mmr"] = "mmr"
    trade: float = Field(0.5, ge=0, le=1)

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Nothing is left to chance; among equals the better rank is first."""
        if not len(pool):
            return np.empty(0, dtype=np.int64)
        space = pool.space(self.space)
        documents = _unit(space.documents(pool.documents))
        near = documents @ _unit(space.query(pool.query)[None])[0]
        nearest_chosen = np.zeros(len(near), dtype=np.float32)
        left, chosen = np.ones(len(near), dtype=bool), list[int]()
        for _ in range(min(self.n, len(near))):
            value = self.trade * near - (1 - self.trade) * nearest_chosen
            best = int(np.argmax(np.where(left, value, -np.inf)))
            similar = documents @ documents[best]
            nearest_chosen = np.maximum(nearest_chosen, similar) if chosen else similar
            left[best] = False
            chosen.append(best)
        return np.array(sorted(chosen), dtype=np.int64)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


class Clusters(_Spread):
    """`n` documents drawn evenly from the topics that they are of: k-means clusters of the whole collection's vectors.

    Source: the topics of Hofstaetter et al. 2021, "Efficiently Teaching an Effective Dense Retriever with Balanced
    Topic Aware Sampling", made of documents, to choose negatives by.

    Attributes:
        clusters: how many the collection is cut into.
    """

    kind: Literal["clusters"] = "clusters"
    clusters: int = Field(100, ge=2)

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Clusters take turns; within one, chance decides."""
        groups = pool.space(self.space).clusters(pool.documents, self.clusters)
        return draw_evenly(groups, self.n, generator)


SAMPLERS: dict[str, type[Sampler]] = {"mmr": MMR, "clusters": Clusters}
