"""Drives teachers that compare two documents: which pairs are asked, what is kept of them, and how they are read."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from retrodistill import console
from retrodistill.errors import InputError
from retrodistill.scores.bradley_terry import bradley_terry, win_rate
from retrodistill.scores.keys import text_keys
from retrodistill.teachers.failures import Failures
from retrodistill.teachers.teacher import Form, Teacher

if TYPE_CHECKING:
    from retrodistill.candidates import Candidates
    from retrodistill.collections import Collection
    from retrodistill.scores.store import ScoreStore
    from retrodistill.teachers.teacher import PairwiseJudge

_QUERIES_AT_ONCE = 64

Pairs = Sequence[tuple[int, int]]
Comparison = tuple[str, str, str]  # query, the document shown first, the other
Asking = Generator[Pairs, list[float], None]


class Comparing(Teacher):
    """A teacher that is asked which of two documents is the more relevant, in both orders.

    Attributes:
        pairs: `all` pairs of a query's candidates; `sort`, those that merge sort asks for, some n log2 n (Qin et al.
            2024, PRP-Sorting), from the order of ranks; or at most so many: drawn so that each document is compared as
            often as any other, in rings of random order.
        read: how comparisons become a score a document. Raw preferences are what is stored, so that reading in another
            way costs nothing.
        seed: of the draw.
    """

    pairs: Literal["all", "sort"] | Annotated[int, Field(ge=1)] = Field(
        "all", description="comparisons of a query; each is asked in both orders"
    )
    read: Literal["bradley_terry", "win_rate"] = "bradley_terry"
    seed: int = Field(0, ge=0)

    @property
    def form(self) -> Form:
        """Pairs."""
        return "pairwise"

    def judgements(self, documents: int) -> int:
        """Comparisons, each in both orders; merge sort's upper bound where they are sorted."""
        if self.pairs == "sort":
            return 2 * documents * math.ceil(math.log2(max(documents, 1)))
        return 2 * len(self.chosen("", documents))

    @abstractmethod
    def open(self, collection: Collection) -> PairwiseJudge:
        """Get ready to compare."""

    def asking(self, query_id: str, ranks: np.ndarray) -> Asking:
        """Asks about a query's candidates: yields pairs of places, i below j, and is sent what was said of them."""
        if self.pairs == "sort":
            # labelled rows that no source found stand last
            return _merge_sort(np.argsort(np.where(ranks > 0, ranks, 2**30), kind="stable").tolist())
        return _at_once(self.chosen(query_id, len(ranks)))

    def chosen(self, query_id: str, count: int) -> Pairs:
        """The pairs of places, i below j, asked about so many candidates of a query, unless they are sorted."""
        every = count * (count - 1) // 2
        if not isinstance(self.pairs, int) or self.pairs >= every:
            return [(i, j) for i in range(count) for j in range(i + 1, count)]
        generator = np.random.default_rng([self.seed, *query_id.encode("utf-8", "surrogatepass")])
        drawn: dict[tuple[int, int], None] = {}
        while len(drawn) < self.pairs:
            ring = generator.permutation(count)
            for i, j in zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True):
                if len(drawn) < self.pairs and i != j:
                    drawn[min(i, j), max(i, j)] = None
        return list(drawn)


def _at_once(pairs: Pairs) -> Asking:
    yield pairs


def _merge_sort(places: Sequence[int]) -> Asking:
    """Sorts by asking: all merges of a level go on together; where nothing is known, or it is even, order is kept."""
    runs = [[place] for place in places]
    while len(runs) > 1:
        merges = [(runs[n], runs[n + 1], list[int]()) for n in range(0, len(runs) - 1, 2)]
        rest = runs[2 * len(merges) :]
        while going := [merge for merge in merges if merge[0] and merge[1]]:
            heads = [(left[0], right[0]) for left, right, _ in going]
            said = yield [(min(pair), max(pair)) for pair in heads]
            for (left, right, merged), value in zip(going, said, strict=True):
                first_wins = value if left[0] < right[0] else 1 - value
                merged.append((right if first_wins < 0.5 else left).pop(0))
        runs = [[*merged, *left, *right] for left, right, merged in merges] + rest


def fill(
    teacher: Comparing,
    candidates: Candidates,
    collection: Collection,
    store: ScoreStore,
    failures: Failures,
    pairs: Mapping[str, Pairs] | None = None,
) -> tuple[dict[str, Any], int, int]:
    """Ask what the store lacks, in both orders; of each query these `pairs` of places where they are given.

    Returns:
        The teacher's identity, how many comparisons are asked for, and how many of them were stored.
    """
    judge = teacher.open(collection)
    table = store.table(judge.identity)
    counts = {"asked": 0, "missing": 0}

    def answer(asked: Sequence[Comparison]) -> np.ndarray:
        queries, documents = _keys(judge, asked)
        known = table.lookup(queries, documents)
        missing = np.flatnonzero(np.isnan(known))
        counts["asked"] += len(asked)
        counts["missing"] += len(missing)
        for start in range(0, len(missing), judge.pairs_a_part):
            rows = missing[start : start + judge.pairs_a_part]
            logits = judge.prefer(*zip(*(asked[row] for row in rows), strict=True))
            if np.isinf(logits).any():
                raise InputError(f"teacher {teacher.label} gives an infinite logit; a judgement must be finite")
            said = ~np.isnan(logits)
            table.append(queries[rows[said]], documents[rows[said]], logits[said])
            known[rows] = logits
            shown = [(asked[row][0], asked[row][1:]) for row in rows]
            failures.note(shown, np.flatnonzero(~said).tolist(), judge)
            bar.update(len(rows))
        return known

    with console.progress(None, f"score {teacher.label}", "comparisons") as bar:
        for _ in _walk(teacher, candidates, answer, pairs):
            pass
    return dict(judge.identity), counts["asked"], counts["asked"] - counts["missing"]


def count(teacher: Comparing, candidates: Candidates, collection: Collection, store: ScoreStore) -> tuple[int, int]:
    """Comparisons that are needed, and how many of them are stored; a sort is followed as far as answers are known."""
    judge = teacher.open(collection)
    table, counts = store.table(judge.identity), [0, 0]

    def answer(asked: Sequence[Comparison]) -> np.ndarray:
        known = table.lookup(*_keys(judge, asked))
        counts[0] += len(asked)
        counts[1] += int((~np.isnan(known)).sum())
        return known

    for _ in _walk(teacher, candidates, answer):
        pass
    return counts[0], counts[1]


def read(teacher: Comparing, candidates: Candidates, collection: Collection, store: ScoreStore) -> np.ndarray:
    """A score a candidate, float32 (candidates,); NaN for one that was compared with none."""
    scores = [
        bradley_terry(wins)[0] if teacher.read == "bradley_terry" else win_rate(wins)
        for wins in preferences(teacher, candidates, collection, store)
    ]
    return np.concatenate([*scores, np.empty(0)]).astype(np.float32)


def errors(teacher: Comparing, candidates: Candidates, collection: Collection, store: ScoreStore) -> np.ndarray:
    """The standard error of each score of `read`, float32 (candidates,); NaN where there is none, as of win rates."""
    if teacher.read != "bradley_terry":
        return np.full(len(candidates), np.nan, dtype=np.float32)
    found = [bradley_terry(wins)[1] for wins in preferences(teacher, candidates, collection, store)]
    return np.concatenate([*found, np.empty(0)]).astype(np.float32)


def preferences(
    teacher: Comparing, candidates: Candidates, collection: Collection, store: ScoreStore
) -> Iterator[np.ndarray]:
    """By query, the stored probability that a candidate is better than another: float64 (n, n), NaN where not asked.

    The logits of both orders are averaged, so that a liking for what stands first cancels out; a pair of which one
    order was not judged has no probability.
    """
    judge = teacher.open(collection)
    table = store.table(judge.identity)
    for count, said in _walk(teacher, candidates, lambda asked: table.lookup(*_keys(judge, asked))):
        wins = np.full((count, count), np.nan)
        for (i, j), value in said.items():
            wins[i, j], wins[j, i] = value, 1 - value
        yield wins


def _walk(
    teacher: Comparing,
    candidates: Candidates,
    answer: Callable[[Sequence[Comparison]], np.ndarray],
    pairs: Mapping[str, Pairs] | None = None,
) -> Iterator[tuple[int, dict[tuple[int, int], float]]]:
    """Asks about all lists, those of many queries in step, so that their comparisons are judged together.

    Args:
        teacher: which pairs are asked.
        candidates: of all queries.
        answer: the logits of comparisons as they are shown, float32, NaN where there is none.
        pairs: of each query, instead of the teacher's own choice.

    Yields:
        By query, how many candidates it has, and the probability that i is better than j of every pair asked.
    """
    docs, ranks, offsets = candidates.doc_ids, candidates.ranks, candidates.offsets.tolist()
    for first in range(0, len(candidates.queries), _QUERIES_AT_ONCE):
        queries = candidates.queries[first : first + _QUERIES_AT_ONCE]
        spans = [slice(offsets[first + n], offsets[first + n + 1]) for n in range(len(queries))]
        said: list[dict[tuple[int, int], float]] = [{} for _ in queries]
        going = {
            n: teacher.asking(query, ranks[span]) if pairs is None else _at_once(pairs[query])
            for n, (query, span) in enumerate(zip(queries, spans, strict=True))
        }
        asked = {n: places for n, asking in going.items() if (places := next(asking, None)) is not None}
        while asked:
            shown = [
                (queries[n], docs[spans[n]][a], docs[spans[n]][b])
                for n, places in asked.items()
                for a, b in _both(places)
            ]
            found = _probabilities(answer(shown))
            for n, places in list(asked.items()):
                mine, found = found[: len(places)].tolist(), found[len(places) :]
                said[n].update((pair, value) for pair, value in zip(places, mine, strict=True) if value == value)
                try:
                    asked[n] = going[n].send([value if value == value else 0.5 for value in mine])
                except StopIteration:
                    del asked[n]
        yield from ((span.stop - span.start, each) for span, each in zip(spans, said, strict=True))


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Of pairs shown in both orders, one behind the other: float64 (pairs,), NaN where an order was not judged.

    One order alone would bring in the liking for what stands first.
    """
    first, second = logits.astype(np.float64).reshape(-1, 2).T
    return 1 / (1 + np.exp((second - first) / 2))


def _both(pairs: Pairs) -> Iterator[tuple[int, int]]:
    for i, j in pairs:
        yield i, j
        yield j, i


def _keys(judge: PairwiseJudge, asked: Sequence[tuple[str, str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """A comparison is filed under its query and the digest of both documents in the order shown."""
    queries = {query: judge.query_text(query) for query in dict.fromkeys(query for query, _, _ in asked)}
    texts = {doc: judge.document_text(doc) for doc in dict.fromkeys(doc for row in asked for doc in row[1:])}
    shown = [f"{len(texts[a])}:{texts[a]}{len(texts[b])}:{texts[b]}" for _, a, b in asked]
    return text_keys([queries[query] for query, _, _ in asked]), text_keys(shown)
