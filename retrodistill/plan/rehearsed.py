"""A run's steps in their order, each with one batch of the longest texts there: what the process takes at its height.

What a batch does not show, as it grows with the collection, is worked out from what the code holds of it: BM25's
postings and the vectors of an index by what a sample of documents takes, candidates by their number, and what the
library of matrix products keeps of every size of batch that it meets by a few sizes and by how many there will be.
Vectors that are searched on disk are not counted: the system gives their pages to whoever needs them.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill import vectors
from retrodistill.candidates import Candidates
from retrodistill.emissions import columns_of
from retrodistill.encoders import Encoder, device_of, token_batches
from retrodistill.encoders.common import tokens_a_batch
from retrodistill.encoders.sizes import distinct
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
from retrodistill.vectors import TEXTS_A_PART

if TYPE_CHECKING:
    from retrodistill.indexing.index import Index

# Documents that stand for all, as many as training tokenises at once; of them the longest are computed.
_SAMPLE = 4_096
_LONGEST, _JUDGED = 32, 16
_SIZES = 16  # sizes of batches that are tried
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
            if pairs := missing.get(teacher.model_dump_json(), 0):
                yield from work.scoring(teacher, pairs)
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

    def _searched(self, source: Part, pairs: int = 0) -> tuple[Any, int, int]:
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
            self._judged(source, opened, pairs)
        return opened, 0, 0

    def _encoded(self, encoder: Encoder, index: Index, kept: bool = False) -> tuple[int, int]:
        """A part of the longest documents encoded, and searched: what all add to its height, and to what is held.

        Those whose vectors are `kept` are not encoded again.
        """
        documents = len(self.walk.collection.corpus)
        made = encoder.encode([self.documents[row] for row in self.longest[: 1 if kept else None]], "document")
        asked = encoder.encode(self.questions[:_LONGEST], "query")
        if not kept:
            lengths = self._lengths(encoder)
            batches = self._batches(max(map(max, lengths)))
            computed = [partial(encoder.encode, batch, "document") for batch in batches]
            self._sizes(lengths, documents / TEXTS_A_PART, computed)
        mapped = isinstance(index, Mapped)
        if mapped:  # as many as are read at once
            made = np.resize(made, (min(documents, 16_384), made.shape[1]))
        index.build(made).nearest(asked, min(16, len(made)))
        each = sum(column.nbytes for column in columns_of(made).values()) / len(made)
        held = 0 if mapped else int(each * documents)
        return COPIES * held, held

    def _lengths(self, encoder: Encoder) -> list[list[int]]:
        """Tokens of the sample's documents, part by part as they are encoded."""
        parts = [self.documents[at : at + TEXTS_A_PART] for at in range(0, len(self.documents), TEXTS_A_PART)]
        packed = encoder.packed
        if packed is None:
            return [encoder.lengths(part) for part in parts]
        return [packed.tokens(part, "document", encoder.prompts["document"]).lengths for part in parts]

    def _batches(self, tokens: int) -> list[list[str]]:
        """Batches of the longest document, of about half the size that they have, each a word smaller than the last."""
        longest = self.documents[self.longest[0]]
        words, budget = longest.split(), tokens_a_batch(device_of(None)) // 2
        whole = [longest] * max(0, budget // max(1, tokens) - 1)
        most = min(len(words), 2 * _SIZES + tokens // 2)
        return [[*whole, " ".join(words[:count])] for count in range(most, max(0, most - _SIZES), -1)]

    def _sizes(self, parts: Sequence[Sequence[int]], count: float, computed: Sequence[Callable[[], Any]]) -> None:
        """Count what is kept of sizes of batches, for good.

        Args:
            parts: tokens of each text, part by part, batched as they are computed.
            count: how many such parts there are.
            computed: each computes a batch of a size of its own, smaller than the one before, as parts are computed.
        """
        budget = tokens_a_batch(device_of(None))
        met = [{int(np.take(part, rows).sum()) for rows in token_batches(part, budget)} for part in parts]
        held = list[int]()
        for compute in computed:
            compute()
            held.append(resident())
        each = max(0, held[-1] - held[0]) / max(1, len(held) - 1)
        self.left += int(each * max(0, min(budget, distinct(met, count)) - len(computed)))

    def scoring(self, teacher: Part, pairs: int) -> Iterator[Step | str]:
        """Have a teacher judge the longest documents; a retriever encodes, as in mining; a server does it elsewhere."""
        if self._was(teacher) or getattr(getattr(teacher, "model", None), "url", None):
            return
        name = f"scoring by {teacher.label}"
        forget_peak()
        try:
            opened, added, _ = self._searched(teacher, pairs)
        except InputError as error:
            yield f"{name}: {error}"
            return
        yield Step(name, peak() + self.left + added, _LOWER["scoring"])
        del opened
        gc.collect()

    def _judged(self, teacher: Teacher, opened: Any, pairs: int) -> None:
        docs = self.walk.collection.corpus.ids_of(self.rows[self.longest[:_JUDGED]])
        queries = [self.queries[row] for row in _longest(self.questions)[: 1 if _by_lists(teacher) else 4]]
        each = max(2, len(docs) // len(queries))
        listed = {
            query: [(doc, "sample", rank, 0.0, None) for rank, doc in enumerate(docs[at : at + each], start=1)]
            for query, at in zip(queries, range(0, len(docs), each), strict=False)
        }
        ask(teacher, opened, Candidates.of({query: rows for query, rows in listed.items() if rows}))
        if not hasattr(opened, "tokens"):  # no cross-encoder
            return
        parts = [self.documents[at : at + opened.pairs_a_part] for at in range(0, len(self.documents), _SAMPLE // 4)]
        lengths = [
            opened.tokens(list(zip(np.resize(self.questions, len(part)).tolist(), part, strict=True))).lengths
            for part in parts
        ]
        rows = np.argsort([-len(text) for text in self.documents], kind="stable")
        middle = rows[len(rows) // 4 :: max(1, len(rows) // (2 * _SIZES))][:_SIZES]
        computed = [
            partial(opened.score, [queries[0]] * 2, [docs[0], doc])
            for doc in self.walk.collection.corpus.ids_of(self.rows[middle])
        ]
        self._sizes(lengths, pairs / opened.pairs_a_part, computed)

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
