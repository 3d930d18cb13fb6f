"""Drives teachers that compare two documents: which pairs are asked, what is kept of them, and how they are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from retrodistill import console
from retrodistill.errors import InputError
from retrodistill.scores.bradley_terry import bradley_terry, win_rate
from retrodistill.scores.keys import text_keys
from retrodistill.teachers.teacher import Form, Teacher

if TYPE_CHECKING:
    from retrodistill.candidates import Candidates
    from retrodistill.collections import Collection
    from retrodistill.scores.store import ScoreStore
    from retrodistill.teachers.teacher import PairwiseJudge

Pairs = Sequence[tuple[int, int]]


class Comparing(Teacher):
    """A teacher that is asked which of two documents is the more relevant, in both orders.

    Attributes:
        pairs: `all` pairs of a query's candidates, or at most so many: drawn so that each document is compared as
            often as any other, in rings of random order.
        read: how comparisons become a score a document. Raw preferences are what is stored, so that reading in another
            way costs nothing.
        seed: of the draw.
    """

    pairs: Literal["all"] | int = Field("all", description="comparisons of a query; each is asked in both orders")
    read: Literal["bradley_terry", "win_rate"] = "bradley_terry"
    seed: int = Field(0, ge=0)

    @property
    def form(self) -> Form:
        """Pairs."""
        return "pairwise"

    @abstractmethod
    def open(self, collection: Collection) -> PairwiseJudge:
        """Get ready to compare."""

    def chosen(self, query_id: str, count: int) -> Pairs:
        """The pairs of places, i below j, that are asked about a query with so many candidates."""
        every = count * (count - 1) // 2
        if self.pairs == "all" or self.pairs >= every:
            return [(i, j) for i in range(count) for j in range(i + 1, count)]
        generator = np.random.default_rng([self.seed, *query_id.encode("utf-8", "surrogatepass")])
        drawn: dict[tuple[int, int], None] = {}
        while len(drawn) < self.pairs:
            ring = generator.permutation(count)
            for i, j in zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True):
                if len(drawn) < self.pairs and i != j:
                    drawn[min(i, j), max(i, j)] = None
        return list(drawn)


def fill(
    teacher: Comparing, candidates: Candidates, collection: Collection, store: ScoreStore
) -> tuple[dict[str, Any], int, int, list[str]]:
    """Ask what the store lacks, in both orders.

    Returns:
        The teacher's identity, how many comparisons are asked for, how many of them were stored, and what failed.
    """
    judge = teacher.open(collection)
    table = store.table(judge.identity)
    asked = [(query, a, b) for query, docs, pairs in _lists(teacher, candidates) for a, b in _both(docs, pairs)]
    queries, documents = _keys(judge, asked)
    missing = np.flatnonzero(np.isnan(table.lookup(queries, documents)))
    failed: list[str] = []
    with console.progress(len(missing), f"score {teacher.label}", "comparisons") as bar:
        for start in range(0, len(missing), judge.pairs_a_part):
            rows = missing[start : start + judge.pairs_a_part]
            columns = list(zip(*(asked[row] for row in rows), strict=True))
            logits = judge.prefer(*columns)
            if np.isinf(logits).any():
                raise InputError(f"teacher {teacher.label} gives an infinite logit; a judgement must be finite")
            known = ~np.isnan(logits)
            table.append(queries[rows[known]], documents[rows[known]], logits[known])
            failed += [" / ".join(asked[row]) for row in rows[~known]]
            bar.update(len(rows))
    return dict(judge.identity), len(asked), len(asked) - len(missing), failed


def read(teacher: Comparing, candidates: Candidates, collection: Collection, store: ScoreStore) -> np.ndarray:
    """A score a candidate, float32 (candidates,); NaN for one that was compared with none."""
    scores = [
        bradley_terry(wins)[0] if teacher.read == "bradley_terry" else win_rate(wins)
        for wins in preferences(teacher, candidates, collection, store)
    ]
    return np.concatenate([*scores, np.empty(0)]).astype(np.float32)


def preferences(
    teacher: Comparing, candidates: Candidates, collection: Collection, store: ScoreStore
) -> Iterator[np.ndarray]:
    """By query, the stored probability that a candidate is better than another: float64 (n, n), NaN where not asked.

    The logits of both orders are averaged, so that a liking for what stands first cancels out.
    """
    judge = teacher.open(collection)
    table = store.table(judge.identity)
    for query, docs, pairs in _lists(teacher, candidates):
        wins = np.full((len(docs), len(docs)), np.nan)
        if pairs:
            logits = table.lookup(*_keys(judge, [(query, a, b) for a, b in _both(docs, pairs)])).astype(np.float64)
            for place, (i, j) in enumerate(pairs):
                there, back = logits[2 * place], -logits[2 * place + 1]
                heard = [value for value in (there, back) if not np.isnan(value)]
                if heard:
                    wins[i, j] = 1 / (1 + np.exp(-np.mean(heard)))
                    wins[j, i] = 1 - wins[i, j]
        yield wins


def _lists(teacher: Comparing, candidates: Candidates) -> Iterator[tuple[str, list[str], Pairs]]:
    docs = candidates.doc_ids
    for query, start, stop in zip(candidates.queries, candidates.offsets[:-1], candidates.offsets[1:], strict=True):
        yield query, docs[start:stop], teacher.chosen(query, int(stop - start))


def _both(docs: Sequence[str], pairs: Pairs) -> Iterator[tuple[str, str]]:
    for i, j in pairs:
        yield docs[i], docs[j]
        yield docs[j], docs[i]


def _keys(judge: PairwiseJudge, asked: Sequence[tuple[str, str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """A comparison is filed under its query and the digest of both documents in the order shown."""
    queries = {query: judge.query_text(query) for query in dict.fromkeys(query for query, _, _ in asked)}
    texts = {doc: judge.document_text(doc) for doc in dict.fromkeys(doc for row in asked for doc in row[1:])}
    shown = [f"{len(texts[a])}:{texts[a]}{len(texts[b])}:{texts[b]}" for _, a, b in asked]
    return text_keys([queries[query] for query, _, _ in asked]), text_keys(shown)
