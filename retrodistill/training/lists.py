"""Joins candidates and teacher scores into what a training step reads: a few queries, their documents, and matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from retrodistill.errors import InputError
from retrodistill.training.labels import unsaid
from retrodistill.training.topics import topics

if TYPE_CHECKING:
    from retrodistill.candidates import Candidates
    from retrodistill.collections import Collection
    from retrodistill.runs import Qrels
    from retrodistill.scores.preferences import Preferences
    from retrodistill.training.whole import WholeBatch

Pick = Literal["uniform", "top", "log_uniform"]
Batches = Literal["random", "topics"]

BATCHES_A_TOPIC = 4
_NONE = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


@dataclass(frozen=True)
class Batch:
    """Q queries and the D documents that stand against any of them, each once.

    Attributes:
        queries: int64 (Q,), rows of the collection's queries.
        documents: int64 (D,), rows of its corpus.
        teacher: float32 (Q, D); NaN where there is no judgement. Other queries' documents have one where they are
            among the query's candidates.
        grades: float32 (Q, D); how relevant to the query by the labels, mined for it or not; 0 where not relevant.
            Those of the collection count beside the candidates' own, unless no candidate has any.
        own: bool (Q, D); picked for the query.
        preferences: float32 (Q, D, D); the probability that one of a query's own documents is better than another, NaN
            where they were not compared; None where no teacher compares.
        valid: bool (Q, D); false where a document cannot be a negative of the query although no label says so: it is
            the query itself or what that was made of, or says what one of its positives says.
        weights: float32 (Q, D); how much a document counts for the query, as mined, 1 where it was not; None where
            mining weighed none.
        certainty: float32 (Q, D); how much the teacher's score of a document counts, 1 where it has none; None where
            all count alike.
        whole: float32 (Q, D); what the teachers say of all pairs when they are asked; None where nobody asks.
    """

    queries: np.ndarray
    documents: np.ndarray
    teacher: np.ndarray
    grades: np.ndarray
    own: np.ndarray
    valid: np.ndarray
    preferences: np.ndarray | None = None
    weights: np.ndarray | None = None
    certainty: np.ndarray | None = None
    whole: np.ndarray | None = None

    @property
    def positive(self) -> np.ndarray:
        """Labelled relevant, bool (Q, D)."""
        return self.grades > 0

    def split(self, costs: np.ndarray, budget: int) -> Iterator[Batch]:
        """Cut into batches of whole queries with their own documents, within `budget` tokens where one query is.

        Args:
            costs: tokens that each query needs with its documents, (Q,).
            budget: tokens a batch.
        """
        start = 0
        for stop in range(1, len(self.queries) + 1):
            if stop == len(self.queries) or costs[start : stop + 1].sum() > budget:
                yield self._only(slice(start, stop))
                start = stop

    def _only(self, rows: slice) -> Batch:
        columns = np.flatnonzero(self.own[rows].any(axis=0))
        return replace(
            self,
            queries=self.queries[rows],
            documents=self.documents[columns],
            teacher=self.teacher[rows, columns],
            grades=self.grades[rows, columns],
            own=self.own[rows, columns],
            valid=self.valid[rows, columns],
            preferences=None if self.preferences is None else self.preferences[rows][:, columns][:, :, columns],
            weights=None if self.weights is None else self.weights[rows, columns],
            certainty=None if self.certainty is None else self.certainty[rows, columns],
            whole=None if self.whole is None else self.whole[rows, columns],
        )


class Lists:
    """One list of candidates a query, drawn afresh each epoch, and the schedule of batches.

    The schedule is a function of the seed alone: batch number n is the same whether or not the run was interrupted.

    Args:
        candidates: what mining found.
        teacher: combined scores, float32 (candidates,), NaN where missing; None without a teacher.
        collection: where texts are.
        documents: how many documents a query brings to a step; its positives first, the rest drawn by `pick`.
        pick: `uniform` draws anew each epoch, `log_uniform` too, the n-th best by the teacher with a chance in
            proportion to 1 / n (by mined rank where there is no teacher), `top` takes the best mined ranks.
        batch_size: queries a step.
        batches: `random` puts any queries together, `topics` such as have candidates in common.
        preferences: what a teacher that compares says of the candidates.
        certainty: how much each of the teacher's scores counts, float32 (candidates,), above 0; None: all alike.
        whole: asks the teachers about all pairs of a batch.
        seed: of order and draws.

    Raises:
        InputError: there is not one score a candidate, or not one certainty above 0.
    """

    def __init__(
        self,
        candidates: Candidates,
        teacher: np.ndarray | None,
        collection: Collection,
        *,
        documents: int,
        pick: Pick,
        batch_size: int,
        seed: int,
        batches: Batches = "random",
        preferences: Preferences | None = None,
        certainty: np.ndarray | None = None,
        whole: WholeBatch | None = None,
    ) -> None:
        if teacher is not None and len(teacher) != len(candidates):
            raise InputError(
                f"teacher: got {len(teacher)} scores for {len(candidates)} candidates; "
                "give one for each, in the order of the rows, NaN where there is none"
            )
        if certainty is not None and not (len(certainty) == len(candidates) and bool(np.all(certainty > 0))):
            raise InputError(
                f"certainty: got {len(certainty)} values for {len(candidates)} candidates; "
                "give one above 0 for each, in the order of the rows"
            )
        self.candidates = candidates
        self.collection = collection
        self.documents = documents
        self.pick = pick
        self.batch_size = batch_size
        self.seed = seed
        self.queries = candidates.query_rows(collection.queries)
        self._docs = candidates.doc_rows(collection.corpus)
        self._offsets = candidates.offsets
        self._grades = np.maximum(np.nan_to_num(candidates.labels, nan=0.0), 0).astype(np.float32)
        self._unlisted = self._heard(unsaid(candidates, collection))
        self._teacher = np.full(len(candidates), np.nan, dtype=np.float32) if teacher is None else teacher
        self.preferences = preferences
        self._weights, self.certainty, self.whole = candidates.weights, certainty, whole
        self._topics = None
        if batches == "topics":
            self._topics = topics(self._docs, self._offsets, self.batch_size * BATCHES_A_TOPIC, seed)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    @property
    def document_rows(self) -> np.ndarray:
        """Every document that may come into a batch: int64 rows of the corpus, each once."""
        seen = np.zeros(len(self.collection.corpus), dtype=bool)
        seen[self._docs] = True
        return np.flatnonzero(seen)

    @property
    def batches_an_epoch(self) -> int:
        """Steps in which every query is seen once; the last may be smaller."""
        return -(-len(self.queries) // self.batch_size)

    @property
    def judged(self) -> int:
        """Candidates that have a teacher's score."""
        return int((~np.isnan(self._teacher)).sum())

    @property
    def positives(self) -> int:
        """Candidates labelled relevant."""
        return int((self._grades > 0).sum())

    def batch(self, number: int) -> Batch:
        """The batch of a step, counted from 0 through all epochs."""
        epoch, step = divmod(number, self.batches_an_epoch)
        chosen = self._batches(epoch)[step]
        picked = [self._pick(int(query), epoch) for query in chosen]
        documents, places = _first_of_each(self._docs[np.concatenate(picked)].astype(np.int64))
        shape = (len(chosen), len(documents))
        teacher = np.full(shape, np.nan, dtype=np.float32)
        grades = np.zeros(shape, dtype=np.float32)
        own, valid = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
        compared = None if self.preferences is None else np.full((*shape, len(documents)), np.nan, dtype=np.float32)
        weights, certainty = (
            None if of_rows is None else np.ones(shape, dtype=np.float32) for of_rows in (self._weights, self.certainty)
        )
        texts = self.collection.corpus.texts(documents)
        ids = self.collection.corpus.ids_of(documents)
        asked = self.collection.queries.ids_of(self.queries[chosen])
        stops = np.cumsum([len(rows) for rows in picked])
        for place, (query, rows, stop) in enumerate(zip(chosen, picked, stops, strict=True)):
            here = places[stop - len(rows) : stop]
            own[place, here] = True
            if compared is not None and self.preferences is not None:
                compared[place] = self.preferences.matrix(int(query), rows, here, len(documents))
            mined = self._rows(int(query))
            judged = np.isin(documents, self._docs[mined])
            teacher[place, judged] = _looked_up(documents[judged], self._docs[mined], self._teacher[mined])
            for matrix, of_rows in ((weights, self._weights), (certainty, self.certainty)):
                if matrix is not None and of_rows is not None:
                    matrix[place, judged] = _looked_up(documents[judged], self._docs[mined], of_rows[mined])
            relevant, grade = self._relevant(int(query))
            known = np.isin(documents, relevant)
            grades[place, known] = _looked_up(documents[known], relevant, grade)
            said = set(self.collection.corpus.texts(relevant))
            valid[place] = [text not in said for text in texts] | known
            barred = self.collection.barred(asked[place])
            valid[place] &= np.array([doc not in barred for doc in ids])
        return Batch(
            queries=self.queries[chosen],
            documents=documents,
            teacher=teacher,
            grades=grades,
            own=own,
            valid=valid,
            preferences=compared,
            weights=weights,
            certainty=certainty,
            whole=None if self.whole is None else self.whole(self.queries[chosen], documents),
        )

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """The queries of an epoch's batches; the last epoch asked for is kept."""
        if self._epoch[0] != epoch:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(len(self.queries))
            if self._topics is not None:
                place = generator.permutation(int(self._topics.max()) + 1)
                order = order[np.argsort(place[self._topics[order]], kind="stable")]
            batches = np.split(order, np.arange(self.batch_size, len(order), self.batch_size))
            if self._topics is not None:
                batches = [batches[number] for number in generator.permutation(len(batches))]
            self._epoch = (epoch, batches)
        return self._epoch[1]

    def _heard(self, unsaid: Qrels) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Give rows the labels that they lack; by query the documents that have no row, and their grades."""
        unlisted = {}
        for query in (place for place, query in enumerate(self.candidates.queries) if query in unsaid):
            grades = unsaid[self.candidates.queries[query]]
            documents = np.array([self.collection.corpus.row(doc) for doc in grades], dtype=np.int64)
            values, rows = np.array(list(grades.values()), dtype=np.float32), self._rows(query)
            listed = np.isin(documents, self._docs[rows])
            here = rows[np.isin(self._docs[rows], documents)]
            self._grades[here] = _looked_up(self._docs[here], documents, values)
            unlisted[query] = documents[~listed], values[~listed]
        return unlisted

    def _relevant(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents that are relevant to a query, whether among its candidates or not, and their grades."""
        mined = self._rows(query)
        labelled = mined[self._grades[mined] > 0]
        documents, grades = self._unlisted.get(query, _NONE)
        return np.append(self._docs[labelled], documents), np.append(self._grades[labelled], grades)

    def _rows(self, query: int) -> np.ndarray:
        return np.arange(self._offsets[query], self._offsets[query + 1])

    def _pick(self, query: int, epoch: int) -> np.ndarray:
        rows = self._rows(query)
        if len(rows) <= self.documents:
            return rows
        generator = np.random.default_rng([self.seed, epoch, query])
        relevant = self._grades[rows] > 0
        positive, rest = rows[relevant], rows[~relevant]
        # more positives than fit leave a place for a negative, without which no loss has anything to tell apart
        room = max(1, self.documents - min(1, len(rest)))
        if len(positive) > room:
            positive = np.sort(generator.choice(positive, size=room, replace=False))
        free = self.documents - len(positive)
        if self.pick == "top":
            others = rest[np.argsort(self.candidates.ranks[rest], kind="stable")[:free]]
        elif self.pick == "log_uniform":
            places = np.empty(len(rest))
            places[np.lexsort((self.candidates.ranks[rest], -self._teacher[rest]))] = np.arange(1, len(rest) + 1)
            # the smallest of exponential draws, each over its weight, is a draw by weight without repetition
            others = np.sort(rest[np.argsort(generator.exponential(size=len(rest)) * places)[:free]])
        else:
            others = np.sort(generator.choice(rest, size=min(free, len(rest)), replace=False))
        return np.concatenate([positive, others])


def _first_of_each(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row once in the order of first appearance, and for each given row its place there."""
    unique, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first)
    places = np.empty(len(unique), dtype=np.int64)
    places[order] = np.arange(len(unique))
    return unique[order], places[inverse]


def _looked_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each wanted key; all of them are among the keys, each once."""
    order = np.argsort(keys)
    return values[order[np.searchsorted(keys[order], wanted)]]
