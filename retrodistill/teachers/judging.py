"""Has teachers judge candidates: every pair once, ever; what the score store has is not asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retrodistill import console
from retrodistill.errors import InputError
from retrodistill.language import accounts
from retrodistill.registry import Part
from retrodistill.scores.keys import text_keys
from retrodistill.scores.store import ScoreStore, TeacherScores, fingerprint
from retrodistill.teachers import comparing, ordering
from retrodistill.teachers.comparing import Comparing, Pairs
from retrodistill.teachers.failures import FAILED, Failures, writing
from retrodistill.teachers.ordering import Ordering

if TYPE_CHECKING:
    from retrodistill.candidates import Candidates
    from retrodistill.collections import Collection
    from retrodistill.teachers.teacher import Judge

_TEXTS_AT_ONCE = 8_192


UNITS = {"pointwise": "pairs", "pairwise": "comparisons", "listwise": "windows"}


@dataclass(frozen=True)
class Judged:
    """What one teacher did.

    Attributes:
        teacher: its short form.
        fingerprint: the folder of the store its scores lie in.
        asked: pairs asked for.
        stored: how many of them the store had already.
        seconds: time spent on the others.
        failed: those that could not be judged, by their ids.
        unit: what is counted: pairs, comparisons or windows.
    """

    teacher: str
    fingerprint: str
    asked: int
    stored: int
    seconds: float
    failed: tuple[str, ...] = ()
    unit: str = "pairs"

    @property
    def judged(self) -> int:
        """How many were judged now."""
        return self.asked - self.stored - len(self.failed)

    def __str__(self) -> str:
        """One line for the person who waits."""
        if not self.judged and not self.failed:
            return f"{self.teacher}: all {self.asked:,} judgements are in the store ({self.fingerprint})"
        rate = self.judged / max(self.seconds, 1e-9)
        said = f"{self.teacher}: {self.judged:,} {self.unit} judged ({rate:,.0f}/s), {self.stored:,} were in the store"
        said += f" ({self.fingerprint})"
        if not self.failed:
            return said
        named = ", ".join(self.failed[:3]) + (", ..." if len(self.failed) > 3 else "")
        where = f"all in {self.fingerprint}/{FAILED} of the store"
        return f"{said}; {len(self.failed):,} FAILED and are asked again next time: {named} ({where})"


def judge(
    candidates: Candidates,
    collection: Collection,
    teachers: Sequence[Part],
    store: ScoreStore,
    *,
    pairs: Mapping[str, Pairs] | None = None,
) -> list[Judged]:
    """Score every candidate by every teacher into the store.

    Pairs go to a teacher in the candidates' order, in parts that reach the store whole. A run that was killed
    goes on with the very parts that were left, and so with the same batches and the same bits. What a teacher fails at
    (NaN of one that `may_fail`, or no order) is listed and asked again by the next call. Those that compare or order
    documents are driven by `comparing` and `ordering`; the former ask of each query these `pairs` of places alone,
    where they are given.

    Raises:
        InputError: a candidate is not in the collection, or a teacher gives a score that is no finite number.
    """
    _check(candidates, collection)
    return [_judge_by(teacher, candidates, collection, store, pairs) for teacher in teachers]


def read(candidates: Candidates, collection: Collection, teachers: Sequence[Part], store: ScoreStore) -> np.ndarray:
    """The stored scores of candidates, float32, shape (teachers, candidates); NaN where a pair was never judged."""
    _check(candidates, collection)
    rows = []
    for teacher in teachers:
        if isinstance(teacher, Comparing):
            rows.append(comparing.read(teacher, candidates, collection, store))
        elif isinstance(teacher, Ordering):
            rows.append(ordering.read(teacher, candidates, collection, store))
        else:
            opened = _open(teacher, collection)
            rows.append(_Keys(candidates, collection, opened).stored(store.table(opened.identity), slice(None)))
            if len(candidates) and np.isnan(rows[-1]).all():
                _say_nearly(teacher, store, opened.identity)
    return np.stack(rows) if rows else np.empty((0, len(candidates)), dtype=np.float32)


def errors(candidates: Candidates, collection: Collection, teachers: Sequence[Part], store: ScoreStore) -> np.ndarray:
    """The standard errors of what `read` gives, float32 (teachers, candidates); NaN where a teacher has none."""
    rows = [
        comparing.errors(teacher, candidates, collection, store)
        if isinstance(teacher, Comparing)
        else np.full(len(candidates), np.nan, dtype=np.float32)
        for teacher in teachers
    ]
    return np.stack(rows) if rows else np.empty((0, len(candidates)), dtype=np.float32)


def count(teacher: Part, candidates: Candidates, collection: Collection, store: ScoreStore) -> tuple[int, int]:
    """How many judgements a teacher needs for candidates, and how many of them are stored. Nothing is asked."""
    _check(candidates, collection)
    if isinstance(teacher, Comparing):
        return comparing.count(teacher, candidates, collection, store)
    if isinstance(teacher, Ordering):
        return ordering.count(teacher, candidates, collection, store)
    opened = _open(teacher, collection)
    keys = _Keys(candidates, collection, opened)
    rows = keys.first_of_each(np.arange(len(candidates)))
    found = keys.stored(store.table(opened.identity), rows)
    return len(rows), int((~np.isnan(found)).sum())


def missing(teacher: Part, candidates: Candidates, collection: Collection, store: ScoreStore) -> int:
    """How many judgements of candidates would be asked for, at most: what a sort needs is known when it is done."""
    asked, stored = count(teacher, candidates, collection, store)
    if isinstance(teacher, Comparing) and teacher.pairs == "sort" and stored < asked:
        asked = sum(teacher.judgements(int(size)) for size in np.diff(candidates.offsets))
    return asked - stored


def identities(collection: Collection, teachers: Sequence[Part]) -> list[dict[str, Any]]:
    """What decides the scores of each teacher on a collection."""
    return [_open(teacher, collection).identity for teacher in teachers]


def _open(teacher: Part, collection: Collection) -> Judge:
    return cast("Judge", cast(Any, teacher).open(collection))


def _judge_by(
    teacher: Part,
    candidates: Candidates,
    collection: Collection,
    store: ScoreStore,
    pairs: Mapping[str, Pairs] | None = None,
) -> Judged:
    if isinstance(teacher, Comparing | Ordering):
        return _judge_lists(teacher, candidates, collection, store, pairs)
    opened = _open(teacher, collection)
    keys = _Keys(candidates, collection, opened)
    table = store.table(opened.identity)
    missing = keys.first_of_each(np.flatnonzero(np.isnan(keys.stored(table, slice(None)))))
    began = time.perf_counter()
    failures = Failures()
    if len(missing):
        _say_nearly(teacher, store, opened.identity)
        with accounts.kept_in(table.folder), writing(failures, table.folder):
            _fill(teacher, opened, table, keys, missing, failures)
    return Judged(
        teacher=teacher.label,
        fingerprint=fingerprint(opened.identity),
        asked=len(candidates),
        stored=len(candidates) - len(missing),
        seconds=time.perf_counter() - began,
        failed=failures.names,
    )


def _say_nearly(teacher: Part, store: ScoreStore, identity: Mapping[str, Any]) -> None:
    """Whoever meant to go on with the scores of another day should know before paying again."""
    if nearly := store.nearly(identity):
        console.say(f"note: {store.root} has another {teacher.kind}, which differs in {nearly}")


def _judge_lists(
    teacher: Comparing | Ordering,
    candidates: Candidates,
    collection: Collection,
    store: ScoreStore,
    pairs: Mapping[str, Pairs] | None,
) -> Judged:
    began = time.perf_counter()
    folder = store.root / fingerprint(_open(teacher, collection).identity)
    _say_nearly(teacher, store, _open(teacher, collection).identity)
    failures = Failures()
    with accounts.kept_in(folder), writing(failures, folder):
        if isinstance(teacher, Comparing):
            identity, asked, stored = comparing.fill(teacher, candidates, collection, store, failures, pairs)
        else:
            identity, asked, stored = ordering.fill(teacher, candidates, collection, store, failures)
    return Judged(
        teacher=teacher.label,
        fingerprint=fingerprint(identity),
        asked=asked,
        stored=stored,
        seconds=time.perf_counter() - began,
        failed=failures.names,
        unit=UNITS[teacher.form],
    )


def _fill(
    teacher: Part,
    opened: Judge,
    table: TeacherScores,
    keys: _Keys,
    missing: np.ndarray,
    failures: Failures,
) -> None:
    """Judge what is missing; before a long run the golden pair, where the teacher has one."""
    be_sure = getattr(opened, "be_sure", None)
    if be_sure is not None and len(missing) >= opened.pairs_a_part:
        be_sure()
    with console.progress(len(missing), f"score {teacher.label}", "pairs") as bar:
        for start in range(0, len(missing), opened.pairs_a_part):
            rows = missing[start : start + opened.pairs_a_part]
            query_ids, doc_ids = keys.ids(rows)
            scores = opened.score(query_ids, doc_ids)
            # a model that answers in words may fail at a pair; one that computes a number has a fault
            bad = np.flatnonzero(np.isinf(scores) if getattr(opened, "may_fail", False) else ~np.isfinite(scores))
            if len(bad):
                raise InputError(
                    f"teacher {teacher.label} gives {scores[bad[0]]} for query {query_ids[bad[0]]!r} and document "
                    f"{doc_ids[bad[0]]!r}; a judgement must be a finite number. What was judged before is in the store"
                )
            known = ~np.isnan(scores)
            table.append(*keys.of(rows[known]), scores[known])
            asked = [(query, (doc,)) for query, doc in zip(query_ids, doc_ids, strict=True)]
            failures.note(asked, np.flatnonzero(~known).tolist(), opened)
            bar.update(len(rows))


class _Keys:
    """The store's keys of candidates: two small tables, a key a text, from which those of any rows are picked."""

    def __init__(self, candidates: Candidates, collection: Collection, opened: Judge) -> None:
        self._collection = collection
        self._rows = candidates.query_rows(collection.queries)
        self._queries = _keys_of(collection.queries.ids_of, self._rows, opened.query_text)
        self._of_query = np.repeat(np.arange(len(self._rows), dtype=np.int32), np.diff(candidates.offsets))
        found = candidates.doc_rows(collection.corpus)
        there = np.zeros(len(collection.corpus), dtype=bool)
        there[found] = True
        self._doc_rows = np.flatnonzero(there)
        self._documents = _keys_of(collection.corpus.ids_of, self._doc_rows, opened.document_text)
        self._of_document = (np.cumsum(there, dtype=np.int32) - np.int32(1))[found]

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keys of the queries and of the documents of some candidates, uint64 (rows, 2) each."""
        return self._queries[self._of_query[rows]], self._documents[self._of_document[rows]]

    def stored(self, table: TeacherScores, rows: slice | np.ndarray) -> np.ndarray:
        """The stored scores of some candidates, float32 (rows,); NaN where there is none."""
        return table.join(self._queries, self._of_query[rows], self._documents, self._of_document[rows])

    def ids(self, rows: np.ndarray) -> tuple[list[str], list[str]]:
        """The query's and the document's id of each of some candidates."""
        queries, corpus = self._collection.queries, self._collection.corpus
        return queries.ids_of(self._rows[self._of_query[rows]]), corpus.ids_of(self._doc_rows[self._of_document[rows]])

    def first_of_each(self, rows: np.ndarray) -> np.ndarray:
        """Rows without those whose texts another row already has, in their order."""
        _, queries = np.unique(self._queries, axis=0, return_inverse=True)
        _, documents = np.unique(self._documents, axis=0, return_inverse=True)
        pairs = queries.ravel()[self._of_query[rows]] * np.int64(len(self._documents))
        pairs += documents.ravel()[self._of_document[rows]]
        _, first = np.unique(pairs, return_index=True)
        return rows[np.sort(first)]


def _keys_of(ids_of: Callable[[np.ndarray], list[str]], rows: np.ndarray, text_of: Callable[[str], str]) -> np.ndarray:
    """A key a row of the collection's texts, uint64 (rows, 2)."""
    keys = np.empty((len(rows), 2), dtype=np.uint64)
    for start in range(0, len(rows), _TEXTS_AT_ONCE):
        part = slice(start, start + _TEXTS_AT_ONCE)
        keys[part] = text_keys([text_of(name) for name in ids_of(rows[part])])
    return keys


def _check(candidates: Candidates, collection: Collection) -> None:
    """Refuse candidates of another collection before any teacher is loaded."""
    for what, column, known in (
        ("queries", "query_id", collection.queries),
        ("documents", "doc_id", collection.corpus),
    ):
        ids = pa.chunked_array([pc.unique(candidates.table.column(column))])
        unknown = ids.filter(pa.array(known.places(ids) < 0))
        if len(unknown):
            raise InputError(
                f"{len(unknown)} {what} of the candidates are not in {collection.name}, "
                f"such as {unknown[0].as_py()!r}; were they mined from another collection?"
            )
