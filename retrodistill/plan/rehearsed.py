"""A run's steps in their order, each with one batch of the longest texts there: what the process takes at its height.

What a batch does not show, as it grows with the collection, is worked out from what the code holds of it: BM25's
postings and the vectors of an index by what a sample of documents takes, candidates by their number, and what the
library of matrix products keeps of every size of batch that it meets by a few sizes and by how many there will be.
Vectors that are searched on disk are not counted: the system gives their pages to whoever needs them.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill import vectors
from retrodistill.candidates import Candidates
from retrodistill.emissions import columns_of
from retrodistill.encoders import Encoder
from retrodistill.errors import InputError
from retrodistill.indexing.mapped import Mapped
from retrodistill.memory import forget_peak, peak, resident
from retrodistill.mining.fitting import COPIES, candidates_held
from retrodistill.mining.pool import judges_of
from retrodistill.pipeline import Walk
from retrodistill.plan.asked import mined
from retrodistill.plan.probed import ask, to_be_trained
from retrodistill.plan.told import Step
from retrodistill.recipe import Recipe
from retrodistill.registry import Part, table
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.encoded import EncoderRetriever
from retrodistill.runs import id_order
from retrodistill.sections import Stage, Train
from retrodistill.students.student import Student
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.ordering import Ordering
from retrodistill.teachers.teacher import Teacher

if TYPE_CHECKING:
    from retrodistill.indexing.index import Index

# Documents that stand for all, as many as training tokenises at once; of them the longest are computed.
_SAMPLE = 4_096
_LONGEST, _JUDGED = 32, 16
_FEW = 64  # documents that libraries are warmed up with
_LOWER = {
    "mining": "set mine.memory",
    "scoring": "score on a larger machine, or choose a smaller teacher",
    "training": "lower train.max_tokens",
    "indexing": "choose an index such as mapped, which is searched on disk",
}


def rehearsed(recipe: Recipe, missing: Mapping[str, int]) -> Iterator[Step | str]:
    """Walk the steps that are still to be made, in a process that did nothing else.

    Args:
        recipe: what is to be run.
        missing: how many judgements the store lacks of each teacher, by its options; those without are skipped.

    Yields:
        A step, or what was not tried and why, as text.
    """
    work = _Rehearsal(Walk(recipe))
    for stage in work.walk.stages:
        if mined(work.walk, stage) is None:
            yield from work.mining(stage)
        for teacher in (*stage.score.teachers, *stage.score.looked_at):
            if missing.get(teacher.model_dump_json()):
                yield from work.scoring(teacher)
        for train in stage.students.values():
            yield from work.training(stage, train)
        for train in stage.searched.values():
            yield from work.indexing(train)


@dataclass
class _Rehearsal:
    """The walk, what stands for its texts, and what was tried.

    Attributes:
        walk: the recipe's.
        done: parts that were tried.
        left: bytes that steps leave behind, beyond what the trial of them did.
    """

    walk: Walk
    done: set[str] = field(default_factory=set)
    left: int = 0

    def __post_init__(self) -> None:
        corpus, queries = self.walk.collection.corpus, self.walk.collection.query_ids(self.walk.recipe.data.train)
        self.rows = np.arange(0, len(corpus), max(1, -(-len(corpus) // _SAMPLE)))
        self.documents = corpus.texts(self.rows)
        self.queries = list(queries[:: max(1, len(queries) // _SAMPLE)])
        self.questions = [self.walk.collection.queries.text(query) for query in self.queries]
        self.longest = _longest(self.documents)

    @property
    def share(self) -> float:
        """Documents of the collection to one of the sample."""
        return len(self.walk.collection.corpus) / max(1, len(self.documents))

    def mining(self, stage: Stage) -> Iterator[Step | str]:
        """Search all sources, which stay open until the last, and ask what rules look at."""
        options, corpus = stage.mine, self.walk.collection.corpus
        sources = [*options.sources, *(part for part in judges_of((options.sampler, *options.filters, options.weigh)))]
        name = " ".join(["mining", stage.name]).strip()
        forget_peak()
        held, height, kept = 0, 0, list[Any]()
        id_order(corpus.ids)
        for source in sources:
            try:
                opened, added, stays = self._searched(source)
            except InputError as error:
                yield f"{name} from {source.label}: {error}"
                continue
            kept.append(opened)
            height, held = max(height, peak() + self.left + held + added), held + stays
            forget_peak()
        queries, found = len(self.walk.collection.query_ids(self.walk.recipe.data.train)), len(options.sources)
        sampler = cast(Any, options.sampler)
        depth = min(len(corpus), options.depth) * found
        height = max(
            height, resident() + self.left + held + candidates_held(queries, depth, sampler.n if sampler else depth)
        )
        if options.memory is not None:  # what takes more is refused
            height = min(height, max(options.memory, peak()))
        if kept:
            yield Step(name, height, _LOWER["mining"])
        del kept
        gc.collect()

    def _searched(self, source: Part) -> tuple[Any, int, int]:
        """A source at work: itself, and what all documents add to its height and to what it holds."""
        if to_be_trained(self.walk, source):
            raise InputError("an earlier round has yet to train it")
        opened = cast(Any, source).open(self.walk.collection)
        if isinstance(source, BM25):
            source.build(self.documents[:_FEW])
            before = resident()
            forget_peak()
            built = source.build(self.documents)
            rest = self.share - 1
            return built, int(rest * (peak() - before)), int(rest * max(0, resident() - before))
        if isinstance(source, EncoderRetriever):
            index = Mapped() if isinstance(source, Dense) else source.exact_index
            rate = vectors.known_rate(opened.encoder, self.walk.collection.corpus.digest, "document")
            return opened, *self._encoded(opened.encoder, index, kept=rate is not None)
        if isinstance(source, Teacher):
            self._judged(source, opened)
        return opened, 0, 0

    def _encoded(self, encoder: Encoder, index: Index, kept: bool = False) -> tuple[int, int]:
        """A part of the longest documents encoded, and searched: what all add to its height, and to what is held.

        Those whose vectors are `kept` are not encoded again.
        """
        documents = len(self.walk.collection.corpus)
        made = encoder.encode([self.documents[row] for row in self.longest[: 1 if kept else None]], "document")
        asked = encoder.encode(self.questions[:_LONGEST], "query")
        mapped = isinstance(index, Mapped)
        if mapped:  # as many as are read at once
            made = np.resize(made, (min(documents, 16_384), made.shape[1]))
        index.build(made).nearest(asked, min(16, len(made)))
        each = sum(column.nbytes for column in columns_of(made).values()) / len(made)
        held = 0 if mapped else int(each * documents)
        return COPIES * held, held

    def scoring(self, teacher: Part) -> Iterator[Step | str]:
        """Have a teacher judge the longest documents; a retriever encodes, as in mining; a server does it elsewhere."""
        if self._was(teacher) or getattr(getattr(teacher, "model", None), "url", None):
            return
        name = f"scoring by {teacher.label}"
        forget_peak()
        try:
            opened, added, _ = self._searched(teacher)
        except InputError as error:
            yield f"{name}: {error}"
            return
        yield Step(name, peak() + self.left + added, _LOWER["scoring"])
        del opened
        gc.collect()

    def _judged(self, teacher: Teacher, opened: Any) -> None:
        docs = self.walk.collection.corpus.ids_of(self.rows[self.longest[:_JUDGED]])
        queries = [self.queries[row] for row in _longest(self.questions)[: 1 if _by_lists(teacher) else 4]]
        each = max(2, len(docs) // len(queries))
        listed = {
            query: [(doc, "sample", rank, 0.0, None) for rank, doc in enumerate(docs[at : at + each], start=1)]
            for query, at in zip(queries, range(0, len(docs), each), strict=False)
        }
        ask(teacher, opened, Candidates.of({query: rows for query, rows in listed.items() if rows}))

    def training(self, stage: Stage, train: Train) -> Iterator[Step | str]:
        """Try steps of a student."""
        from retrodistill.training.footprint import tried

        student, name = cast(Student, train.student), f"training {train.student.label}"
        if self._was(train):
            return
        documents, candidates = self.documents, mined(self.walk, stage)
        if candidates is not None:  # what is hard to tell apart may be longer than what is not
            rows = np.unique(candidates.doc_rows(self.walk.collection.corpus))
            documents = self.walk.collection.corpus.texts(rows[:: max(1, -(-len(rows) // _SAMPLE))])
        try:
            if to_be_trained(self.walk, student):
                raise InputError("an earlier round has yet to train what it starts from")
            found = tried(student, train.losses, train.options, self.questions, documents)
        except InputError as error:
            yield f"{name}: {error}"
            return
        tokens = found.tokens(train.batch_size, train.max_tokens)
        queries = len(self.walk.collection.query_ids(self.walk.recipe.data.train))
        steps = min(train.max_steps or math.inf, train.epochs * -(-queries // train.batch_size))
        self.left += found.kept(steps)
        yield Step(name, found.step(tokens) + self.left, _LOWER["training"], tokens)
        gc.collect()

    def indexing(self, train: Train) -> Iterator[Step | str]:
        """Encode with a student as it is before it learns, and hold its index."""
        student = cast(Student, train.student)
        if student.emits == "pairs" or self._was(student):
            return
        name = f"indexing {student.label}"
        forget_peak()
        try:
            if to_be_trained(self.walk, student):
                raise InputError("an earlier round has yet to train what it starts from")
            kind = next(
                kind
                for kind in table("retriever").values()
                if issubclass(kind, EncoderRetriever) and kind.encoder_class.emits == student.emits
            )
            retriever = kind(kind=kind.model_fields["kind"].default, model=student.model)
            index = self.walk.recipe.index
            fits = index is not None and cast(Any, index).accepts == student.emits
            encoder = kind.encoder_class.of(student.load("cpu").eval(), self.walk.recipe.evaluate.precision)
            added, _ = self._encoded(encoder, cast("Index", index) if fits else retriever.exact_index)
        except InputError as error:
            yield f"{name}: {error}"
            return
        yield Step(name, peak() + self.left + added, _LOWER["indexing"])
        gc.collect()

    def _was(self, part: Any) -> bool:
        """Whether it was tried before; from now on it was."""
        key = part.model_dump_json()
        was = key in self.done
        self.done.add(key)
        return was


def _by_lists(teacher: Teacher) -> bool:
    return isinstance(teacher, Comparing | Ordering)


def _longest(texts: Sequence[str]) -> np.ndarray:
    """Rows of the longest, the first of them foremost."""
    return np.argsort([-len(text) for text in texts], kind="stable")[:_LONGEST]
