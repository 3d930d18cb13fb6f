"""Samplers: which of the documents a source found are kept as negatives."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from retrodistill.registry import Part


class Sampler(Part):
    """A rule that keeps some of a query's ranked documents."""

    @abstractmethod
    def choose(self, ranks: np.ndarray, scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Rows of the documents to keep, int64, in rank order.

        Args:
            ranks: 1-based ranks, ascending, shape (documents,).
            scores: the first stage's scores, shape (documents,).
            generator: seeded for this query, whatever the other queries are.
        """


class Top(Sampler):
    """The first `n` documents behind the first `skip`: the hardest, and the likeliest to be relevant unlabelled."""

    argument: ClassVar[str | None] = "n"
    kind: Literal["top"] = "top"
    n: int = Field(ge=1)
    skip: int = Field(0, ge=0)

    def choose(self, ranks: np.ndarray, scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Documents by rank alone."""
        return np.flatnonzero(ranks > self.skip)[: self.n]


class Uniform(Sampler):
    """`n` documents drawn evenly from the ranks `first` to `last`."""

    argument: ClassVar[str | None] = "n"
    kind: Literal["uniform"] = "uniform"
    n: int = Field(ge=1)
    first: int = Field(1, ge=1)
    last: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _window(self) -> Uniform:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"last: {self.last} is before first: {self.first}; no rank is left to draw from")
        return self

    def choose(self, ranks: np.ndarray, scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Documents by chance, without repetition."""
        window = np.flatnonzero((ranks >= self.first) & (ranks <= (self.last or ranks.max(initial=0))))
        return np.sort(generator.choice(window, size=min(self.n, len(window)), replace=False))


SAMPLERS = {"top": Top, "uniform": Uniform}
