"""Drives teachers that order many documents at once: sliding windows, what is kept of them, and how they are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from retrodistill import console
from retrodistill.candidates import Candidates
from retrodistill.errors import InputError
from retrodistill.scores.orders import Order
from retrodistill.teachers.failures import Failures
from retrodistill.teachers.teacher import Form, Teacher, Window

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.scores.store import ScoreStore
    from retrodistill.teachers.teacher import ListwiseJudge

_QUERIES_AT_ONCE = 64
_ENOUGH_TO_TELL = 20

Pass = Generator[Window, "Order | None", "list[int] | None"]


class Ordering(Teacher):
    """A teacher that is shown windows of a query's candidates and says in which order they belong.

    Windows slide from the back of the list to its front, each `stride` further, so that what is good climbs with them.
    The candidates' own order, by rank, is where the first of `runs` begins; others begin at orders drawn by `seed`.

    Source: Sun et al. 2023, "Is ChatGPT Good at Search? Investigating Large Language Models as Re-Ranking Agents".
    """

    window: int = Field(20, ge=2, description="documents shown at once")
    stride: int = Field(10, ge=1, description="how far a window is from the next")
    runs: int = Field(1, ge=1, description="passes over the list, from orders of their own")
    read: Literal["borda", "reciprocal_rank", "expected_rank", "scores"] = "borda"
    repair_limit: float = Field(0.5, ge=0, le=1, description="share of repaired windows above which judging stops")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _overlapping(self) -> Self:
        if self.stride > self.window:
            raise ValueError(f"stride: {self.stride} leaves documents between windows of {self.window}; use less")
        return self

    @property
    def form(self) -> Form:
        """Lists."""
        return "listwise"

    def judgements(self, documents: int) -> int:
        """Windows of all runs."""
        return self.runs * len(self.depths(documents))

    def depths(self, documents: int) -> list[int]:
        """How far down a list a pass may begin, the least first: the last is the whole list, the first one window.

        A pass that begins at the nth takes n windows. A budget may buy any of them.
        """
        if documents < 2:
            return []
        behind = max(0, documents - self.window)
        return [min(documents, self.window + n * self.stride) for n in range(1 + -(-behind // self.stride))]

    @abstractmethod
    def open(self, collection: Collection) -> ListwiseJudge:
        """Get ready to order."""

    def starts(self, query_id: str, count: int) -> list[list[int]]:
        """The order of places that each run begins with."""
        generator = np.random.default_rng([self.seed, *query_id.encode("utf-8", "surrogatepass")])
        shuffled = [generator.permutation(count).tolist() for _ in range(self.runs - 1)]
        return [list(range(count)), *shuffled]

    def slide(self, query: str, docs: Sequence[str], start: Sequence[int]) -> Pass:
        """One pass over a list: yields windows, is sent their orders, and returns the places best first.

        None is returned where a window has no order.
        """
        places = list(start)
        end = len(places)
        while end > 1:
            begin = max(0, end - self.window)
            shown = places[begin:end]
            order = yield Window(query, tuple(docs[place] for place in shown))
            if order is None:
                return None
            places[begin:end] = [shown[place] for place in order.ranking]
            end = end - self.stride if begin else 0
            if end == 1:  # windows that do not overlap would leave the first alone: it is seen with those behind it
                end = min(self.window, len(places))
        return places


def fill(
    teacher: Ordering, candidates: Candidates, collection: Collection, store: ScoreStore, failures: Failures
) -> tuple[dict[str, Any], int, int]:
    """Ask what the store lacks; a killed run goes on with the very windows that were left.

    Returns:
        The teacher's identity, how many windows were needed, and how many of them were stored.

    Raises:
        InputError: too many answers had to be repaired, whether now or when they were stored.
    """
    judge = teacher.open(collection)
    known = store.orders(judge.identity)
    counts = {"needed": 0, "stored": 0, "told": 0, "repaired": 0}

    def told(orders: Sequence[Order | None]) -> None:
        counts["told"] += sum(order is not None for order in orders)
        counts["repaired"] += sum(order is not None and order.repairs > 0 for order in orders)

    def answer(windows: Sequence[Window]) -> list[Order | None]:
        texts = [_texts(judge, window) for window in windows]
        found = [known.find(*text) for text in texts]
        missing = [place for place, order in enumerate(found) if order is None]
        counts["needed"] += len(windows)
        counts["stored"] += len(windows) - len(missing)
        told(found)
        for start in range(0, len(missing), judge.pairs_a_part):
            part = missing[start : start + judge.pairs_a_part]
            orders = judge.order([windows[place] for place in part])
            said = [(place, order) for place, order in zip(part, orders, strict=True) if order is not None]
            known.append([texts[place] for place, _ in said], [order for _, order in said])
            for place, order in said:
                _check(order, windows[place], teacher)
                found[place] = order
            told(orders)
            shown = [(windows[place].query_id, windows[place].doc_ids) for place in part]
            failures.note(shown, [row for row, order in enumerate(orders) if order is None], judge)
            if counts["told"] >= _ENOUGH_TO_TELL:
                _refuse_repaired(teacher, counts)
            bar.update(len(part))

        return found

    with console.progress(None, f"score {teacher.label}", "windows") as bar:
        _walk(teacher, candidates, answer)
    _refuse_repaired(teacher, counts)
    if counts["repaired"]:
        console.say(f"{teacher.label}: {counts['repaired']} of {counts['told']} answers were repaired")
    return dict(judge.identity), counts["needed"], counts["stored"]


def _refuse_repaired(teacher: Ordering, counts: Mapping[str, int]) -> None:
    if counts["repaired"] > teacher.repair_limit * counts["told"]:
        raise InputError(
            f"teacher {teacher.label}: {counts['repaired']} of {counts['told']} answers named documents twice, not at "
            f"all or wrongly, more than repair_limit: {teacher.repair_limit:g}; it is too weak for windows of "
            f"{teacher.window}: a smaller window may help. What it said is in the store"
        )


def count(teacher: Ordering, candidates: Candidates, collection: Collection, store: ScoreStore) -> tuple[int, int]:
    """Windows that are needed, and how many of them are stored, as far as the stored ones tell what comes next."""
    judge = teacher.open(collection)
    known, stored = store.orders(judge.identity), [0]

    def answer(windows: Sequence[Window]) -> list[Order | None]:
        found = [known.find(*_texts(judge, window)) for window in windows]
        stored[0] += sum(order is not None for order in found)
        return found

    _walk(teacher, candidates, answer)
    return sum(teacher.judgements(int(size)) for size in np.diff(candidates.offsets)), stored[0]


def read(teacher: Ordering, candidates: Candidates, collection: Collection, store: ScoreStore) -> np.ndarray:
    """A score a candidate, float32 (candidates,), by replaying the stored windows; NaN where one is missing.

    `borda`: the mean over runs of the share of the others that a document stands above; `reciprocal_rank`: of 1 / rank;
    `expected_rank`: of the rank, negative, so that more is better. `scores`: what the teacher
    gave the document, for those that give scores beside their order, the mean over its windows.

    A query whose whole list was not judged is read as deep as a budget went: the longest of `Ordering.depths` whose
    pass is stored; what lies behind it has no score.
    """
    scores = np.full(len(candidates), np.nan, dtype=np.float32)
    for rows, part in _deepest_first(teacher, candidates, scores):
        scores[rows] = _read(teacher, part, collection, store)
    return scores


def paid(teacher: Ordering, candidates: Candidates, collection: Collection, store: ScoreStore) -> int:
    """How many different windows of passes to any of `Ordering.depths` are stored."""
    judge = teacher.open(collection)
    known, found = store.orders(judge.identity), set[Window]()

    def answer(windows: Sequence[Window]) -> list[Order | None]:
        orders = [known.find(*_texts(judge, window)) for window in windows]
        found.update(window for window, order in zip(windows, orders, strict=True) if order is not None)
        return orders

    for _, part in _deepest_first(teacher, candidates, np.full(len(candidates), np.nan)):
        _walk(teacher, part, answer)
    return len(found)


def _deepest_first(
    teacher: Ordering, candidates: Candidates, scores: np.ndarray
) -> Iterator[tuple[np.ndarray, Candidates]]:
    """Rows of each query's list, then of ever shorter beginnings of it, while none of the query's has a score."""
    spans = [slice(a, b) for a, b in pairwise(candidates.offsets.tolist())]
    left = {n: [*teacher.depths(span.stop - span.start)[:-1], span.stop - span.start] for n, span in enumerate(spans)}
    while left:
        rows = [spans[n].start + beginning(candidates.ranks[spans[n]], depths.pop()) for n, depths in left.items()]
        taken = np.sort(np.concatenate(rows))
        yield taken, Candidates(candidates.table.take(taken))
        left = {n: depths for n, depths in left.items() if depths and np.isnan(scores[spans[n]]).all()}


def _read(teacher: Ordering, candidates: Candidates, collection: Collection, store: ScoreStore) -> np.ndarray:
    judge = teacher.open(collection)
    known = store.orders(judge.identity)
    given: dict[tuple[str, str], list[float]] = {}

    def answer(windows: Sequence[Window]) -> list[Order | None]:
        found = [known.find(*_texts(judge, window)) for window in windows]
        for (query, docs), order in zip(windows, found, strict=True):
            for doc, score in zip(docs, (order and order.scores) or (), strict=False):
                given.setdefault((query, doc), []).append(score)
        return found

    scores = np.full(len(candidates), np.nan)
    if teacher.read == "scores":
        _walk(teacher, candidates, answer)
        pairs = zip(candidates.query_ids, candidates.doc_ids, strict=True)
        return np.array([np.mean(given[pair]) if pair in given else np.nan for pair in pairs], dtype=np.float32)
    for (start, stop), passes in _walk(teacher, candidates, answer):
        ranks = np.array([np.argsort(places) + 1 for places in passes if places is not None], dtype=np.float64)
        if len(ranks):
            scores[start:stop] = _READINGS[teacher.read](ranks, stop - start).mean(axis=0)
    return scores.astype(np.float32)


def beginning(ranks: np.ndarray, depth: int) -> np.ndarray:
    """The first `depth` places of a query's candidates by rank; labelled ones that no source found stand last."""
    return np.argsort(np.where(ranks > 0, ranks, 2**30), kind="stable")[:depth]


_READINGS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "borda": lambda ranks, count: (count - ranks) / max(1, count - 1),
    "reciprocal_rank": lambda ranks, count: 1 / ranks,
    "expected_rank": lambda ranks, count: -ranks,
}


def _walk(
    teacher: Ordering, candidates: Candidates, answer: Callable[[Sequence[Window]], list[Order | None]]
) -> list[tuple[tuple[int, int], list[list[int] | None]]]:
    """All passes over all lists, those of many queries in step, so that their windows are judged together."""
    docs, results = candidates.doc_ids, []
    spans = list(zip(candidates.offsets[:-1].tolist(), candidates.offsets[1:].tolist(), strict=True))
    for first in range(0, len(spans), _QUERIES_AT_ONCE):
        group = list(zip(candidates.queries, spans, strict=True))[first : first + _QUERIES_AT_ONCE]
        passes: list[tuple[int, int, Pass]] = []
        done: list[list[list[int] | None]] = []
        for number, (query, (start, stop)) in enumerate(group):
            by_rank = beginning(candidates.ranks[start:stop], stop - start)
            begins = [[int(by_rank[place]) for place in order] for order in teacher.starts(query, stop - start)]
            passes += [(number, run, teacher.slide(query, docs[start:stop], begin)) for run, begin in enumerate(begins)]
            done.append([None] * len(begins))
        sent: list[Order | None] = [None] * len(passes)
        while passes:
            going, windows = [], []
            for (number, run, steps), order in zip(passes, sent, strict=True):
                try:
                    windows.append(steps.send(order))
                    going.append((number, run, steps))
                except StopIteration as stopped:
                    done[number][run] = stopped.value
            passes, sent = going, answer(windows) if windows else []
        results += [(span, found) for (_, span), found in zip(group, done, strict=True)]
    return results


def _check(order: Order, window: Window, teacher: Ordering) -> None:
    if sorted(order.ranking) != list(range(len(window.doc_ids))):
        raise InputError(
            f"teacher {teacher.label} ranks {len(window.doc_ids)} documents as {list(order.ranking)}; "
            "expected each place once"
        )


def _texts(judge: ListwiseJudge, window: Window) -> tuple[str, list[str]]:
    return judge.query_text(window.query_id), [judge.document_text(doc) for doc in window.doc_ids]
