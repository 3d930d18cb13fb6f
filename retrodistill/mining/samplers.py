"""Samplers by rank and by source: which of a query's documents are kept as negatives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from retrodistill.errors import InputError
from retrodistill.mining.pool import Pool, Rule


class Sampler(Rule):
    """A rule that keeps at most `n` of a query's documents."""

    argument: ClassVar[str | None] = "n"
    n: int = Field(ge=1)

    @property
    def samples(self) -> bool:
        """Always."""
        return True

    @abstractmethod
    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Rows of the documents to keep, int64, at most `n`, ascending.

        Args:
            pool: the documents by rank, and what the rule asked to know of them.
            generator: seeded for this query, whatever the other queries are.
        """


def draw(log_weights: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw rows one after the other, each in proportion to its weight among those left: ascending int64 rows.

    Adding Gumbel noise to the logarithms and taking the greatest draws just so.

    Args:
        log_weights: logarithms of weights of any scale, shape (documents,); -inf or NaN is never drawn.
        n: how many; fewer come back where fewer can be drawn.
        generator: of the noise.

    Source: Kool et al. 2019, "Stochastic Beams and Where to Find Them".
    """
    keys = log_weights + generator.gumbel(size=len(log_weights))
    possible = np.flatnonzero(np.isfinite(log_weights))
    return np.sort(possible[np.argsort(-keys[possible], kind="stable")[:n]])


def draw_evenly(groups: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw rows in turns, one of each group a turn, groups and rows by chance: ascending int64 rows.

    Args:
        groups: the group of each row, shape (documents,); a negative one is never drawn.
        n: how many.
        generator: decides the order of the groups in each turn, and the row within one.
    """
    shuffled = generator.permutation(np.flatnonzero(groups >= 0))
    turn = np.empty(len(shuffled), dtype=np.int64)
    seen: dict[int, int] = {}
    for place, group in enumerate(groups[shuffled].tolist()):
        turn[place] = seen[group] = seen.get(group, -1) + 1
    return np.sort(shuffled[np.lexsort((generator.random(len(shuffled)), turn))[:n]])


class Top(Sampler):
    """The first `n` documents behind the first `skip`: the hardest, and the likeliest to be relevant unlabelled."""

    kind: Literal["top"] = "top"
    skip: int = Field(0, ge=0)

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Documents by rank alone."""
        return np.flatnonzero(pool.ranks > self.skip)[: self.n]


class _Ranks(Sampler):
    """A draw from the ranks `first` to `last`."""

    first: int = Field(1, ge=1)
    last: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _window(self) -> _Ranks:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"last: {self.last} is before first: {self.first}; no rank is left to draw from")
        return self

    def within(self, ranks: np.ndarray) -> np.ndarray:
        """Which ranks may be drawn, bool, (documents,)."""
        return (ranks >= self.first) & (ranks <= (self.last or ranks.max(initial=0)))


class Uniform(_Ranks):
    """`n` documents drawn evenly from the ranks `first` to `last`."""

    kind: Literal["uniform"] = "uniform"

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Documents by chance, without repetition."""
        window = np.flatnonzero(self.within(pool.ranks))
        return np.sort(generator.choice(window, size=min(self.n, len(window)), replace=False))


class LogUniform(_Ranks):
    """`n` documents drawn from the ranks `first` to `last`, evenly over the logarithm of the rank: p ~ 1 / rank.

    As many from 1 to 10 as from 10 to 100: mostly hard ones, and the tail in sight.
    """

    kind: Literal["log_uniform"] = "log_uniform"

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Documents by chance, without repetition."""
        ranks = np.maximum(pool.ranks, 1)
        return draw(np.where(self.within(pool.ranks), -np.log(ranks), -np.inf), self.n, generator)


class Window(Sampler):
    """`n` of the documents behind the first `skip` and up to the place `last`, counted among what filters left.

    sentence-transformers' range_min and range_max are `skip` and `last`. `top` and `uniform` count the ranks that the
    source gave, labelled and dropped documents included.
    """

    kind: Literal["window"] = "window"
    skip: int = Field(0, ge=0)
    last: int | None = Field(None, ge=1)
    take: Literal["top", "random"] = "top"

    @model_validator(mode="after")
    def _wide_enough(self) -> Window:
        if self.last is not None and self.last - self.skip < self.n:
            raise ValueError(
                f"skip: {self.skip} and last: {self.last} leave {max(0, self.last - self.skip)} places, fewer than "
                f"n: {self.n}; raise last"
            )
        return self

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """The first of the window, or some of it by chance."""
        window = np.arange(len(pool))[self.skip : self.last]
        if self.take == "top":
            return window[: self.n]
        return np.sort(generator.choice(window, size=min(self.n, len(window)), replace=False))


class TopAndRandom(Sampler):
    """The first `top` documents, and by chance as many of the others as make `n`: hard ones, and what is usual."""

    kind: Literal["top_and_random"] = "top_and_random"
    top: int = Field(ge=1)

    @model_validator(mode="after")
    def _fits(self) -> TopAndRandom:
        if self.top > self.n:
            raise ValueError(f"top: {self.top} of n: {self.n} documents; choose top at most n")
        return self

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Documents by rank, then by chance without repetition."""
        others = np.arange(len(pool))[self.top :]
        drawn = generator.choice(others, size=min(self.n - self.top, len(others)), replace=False)
        return np.concatenate([np.arange(min(self.top, len(pool))), np.sort(drawn)])


class Stratified(Sampler):
    """`n` documents, of each source its share: no source's hard negatives crowd out another's.

    A source's share is filled from its own list; where that ends, the others take what is left, in turns. A document
    that several found counts for the first that takes it.

    Attributes:
        shares: of the sources in their order; equal where left out.
        take: from the top of a source's list, or from all of it by chance.
    """

    kind: Literal["stratified"] = "stratified"
    shares: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    take: Literal["top", "random"] = "top"

    def choose(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Each time the source that is furthest behind its share takes its next document.

        Raises:
            InputError: there are not as many shares as sources.
        """
        lists = [self._in_order(pool, places, generator) for places in pool.places.values()]
        shares = np.ones(len(lists)) if self.shares is None else np.array(self.shares)
        if len(shares) != len(lists):
            raise InputError(f"stratified: got {len(shares)} shares for {len(lists)} sources; give one each")
        taken, counts = set[int](), np.zeros(len(lists))
        while len(taken) < self.n:
            lists = [[row for row in rows if row not in taken] for rows in lists]
            behind = [source for source, rows in enumerate(lists) if rows]
            if not behind:
                break
            source = min(behind, key=lambda at: (counts[at] + 1) / shares[at])
            taken.add(lists[source][0])
            counts[source] += 1
        return np.array(sorted(taken), dtype=np.int64)

    def _in_order(self, pool: Pool, places: Mapping[str, int], generator: np.random.Generator) -> Sequence[int]:
        found = sorted((places[doc], row) for row, doc in enumerate(pool.documents) if doc in places)
        rows = [row for _, row in found]
        return rows if self.take == "top" else generator.permutation(rows).tolist()


SAMPLERS = {
    "top": Top,
    "window": Window,
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "top_and_random": TopAndRandom,
    "stratified": Stratified,
}
