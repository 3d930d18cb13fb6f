"""Before anything is paid: what a recipe's teachers will be asked, what of it is stored, and what the rest takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from retrodistill import console
from retrodistill.candidates import Candidates
from retrodistill.errors import InputError
from retrodistill.language import accounts
from retrodistill.manifests import MANIFEST
from retrodistill.memory import installed, peak, shown
from retrodistill.models import locate
from retrodistill.pipeline import Walk
from retrodistill.recipe import Recipe
from retrodistill.registry import Part
from retrodistill.scores.store import fingerprint
from retrodistill.sections import Stage
from retrodistill.students.student import Student
from retrodistill.teachers import judging, ordering
from retrodistill.teachers.asking import Asker
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.ordering import Ordering
from retrodistill.teachers.teacher import Teacher, Window, form_of
from retrodistill.training.footprint import Footprint, measured

# What a judgement takes in the store: 20 bytes of keys and score and some of Parquet's own, as measured by
# benchmarks/score_store.py; a window's order takes more, by the documents in it.
_BYTES = 24
# What a run holds when training begins, libraries and what mining and scoring left behind: 1.9, 2.1 and 2.3 GB on three
# collections, each time the height of the training less what its step takes.
_HELD = 2_100_000_000


@dataclass(frozen=True)
class Line:
    """What one teacher is asked in one place.

    Attributes:
        where: the round, and whether it is to train on or to be measured.
        teacher: its short form.
        unit: pairs, comparisons or windows.
        asked: how many judgements.
        stored: how many of them the store has.
        bound: both are bounds, as nothing was mined yet: at most so many are asked, and none is known to be there.
        tokens: of a judgement, on the average of a sample; None for a teacher that does not read tokens.
        seconds: of a judgement, measured; None where nothing was.
        cost: of a judgement, in the currency of the teacher's price; None without a price.
        weights: bytes that its model takes on disk, and about so much in memory.
    """

    where: str
    teacher: str
    unit: str
    asked: int
    stored: int
    bound: bool = False
    tokens: float | None = None
    seconds: float | None = None
    cost: float | None = None
    weights: int = 0

    @property
    def missing(self) -> int:
        """How many will be paid for."""
        return self.asked - self.stored


@dataclass(frozen=True)
class Step:
    """What training a student takes.

    Attributes:
        student: its short form.
        memory: bytes of the process at the height of a step.
        tokens: that hold gradients at once.
    """

    student: str
    memory: int
    tokens: int


@dataclass(frozen=True)
class Plan:
    """What a recipe asks of its teachers and of the machine.

    Attributes:
        lines: what is asked.
        steps: what students take, of those that were measured.
        scoring: bytes of this process at its height, teachers at work where they were measured.
        machine: bytes of memory that the machine has; 0 where it does not tell.
    """

    lines: list[Line]
    steps: tuple[Step, ...] = ()
    scoring: int = 0
    machine: int = 0

    def table(self) -> str:
        """For the person who decides."""
        header = ["teacher", "for", "asked", "in the store", "to judge", "tokens", "time", "cost"]
        rows = []
        for line in self.lines:
            most = "at most " if line.bound else ""
            rows.append(
                [
                    line.teacher,
                    line.where,
                    f"{most}{line.asked:,} {line.unit}",
                    "not known" if line.bound else f"{line.stored:,}",
                    f"{most}{line.missing:,}",
                    _times(line.tokens, line.missing, lambda total: f"{total:,.0f}"),
                    _times(line.seconds, line.missing, _duration),
                    _times(line.cost, line.missing, lambda total: f"{total:,.2f}"),
                ]
            )
        missing = sum(line.missing for line in self.lines)
        weights = max((line.weights for line in self.lines), default=0)
        told = [
            f"disk: {missing * _BYTES / 1e6:,.1f} MB of judgements",
            f"memory of scoring: {shown(weights)} for the largest teacher's weights; so far this process took "
            f"{shown(self.scoring)}",
        ]
        for step in self.steps:
            told.append(f"memory of training {step.student}: about {shown(step.memory)}, {step.tokens:,} tokens a step")
            if 0 < self.machine < step.memory:
                told.append(f"that is more than the {shown(self.machine)} of this machine: lower train.max_tokens")
        return "\n".join([console.markdown_table(header, rows, numbers=False), "", *told])


def plan(recipe: Recipe, *, probe: int = 32) -> Plan:
    """Count what a recipe's teachers are asked, round by round, and say what the rest of it takes.

    Where a round was mined, its candidates are counted against the store, pair by pair. Where it was not, the bound is
    that every source finds `depth` documents that no other finds. A teacher that an earlier round has yet to train is
    counted and not measured.

    Args:
        recipe: what is to be run.
        probe: judgements that each teacher makes now, to measure it; what a server answers is kept, so that it is not
            paid twice. 0: none.
    """
    walk, known = Walk(recipe), dict[str, dict[str, Any]]()
    lines = [line for stage in walk.stages for line in _stage(walk, stage, probe, known)]
    steps = tuple(_steps(walk)) if probe else ()
    return Plan(lines, steps, peak(), installed())


def _steps(walk: Walk) -> Iterator[Step]:
    """A step of each student, tried; one that an earlier round has yet to make, or that reads pairs, is left out."""
    ids = walk.collection.corpus.ids
    texts = [walk.collection.corpus.text(doc) for doc in ids[:: max(1, len(ids) // 64)]]
    tried: dict[str, Footprint] = {}
    for train in {
        train.model_dump_json(): train for stage in walk.stages for train in stage.students.values()
    }.values():
        student = cast(Student, train.student)
        try:
            if not student.scores_all_pairs:
                continue
            student.check()
            if student.model_dump_json() not in tried:
                tried[student.model_dump_json()] = measured(student, texts, train.precision)
        except InputError as error:
            console.say(f"{student.label} is not measured: {error}")
            continue
        found, queries = tried[student.model_dump_json()], train.batch_size
        tokens = int(min(train.max_tokens, queries * train.documents * found.length))
        yield Step(student.label, _HELD + found.step(tokens), tokens)


def _stage(walk: Walk, stage: Stage, probe: int, known: dict[str, dict[str, Any]]) -> Iterator[Line]:
    name = f"{stage.name}, " if stage.name else ""
    budget, allowed = stage.score.budget, walk.recipe.evaluate.allowed(stage.score)
    places = [(f"{name}training", walk.recipe.data.train, True)]
    if walk.recipe.evaluate.teacher and stage is walk.stages[-1]:
        places.append((f"{name}evaluation", walk.recipe.data.test, False))
    for where, split, training in places:
        candidates = _mined(walk, stage) if training else None
        looked_at = stage.score.looked_at if training else ()
        for teacher in (*stage.score.teachers, *looked_at):
            unbound = teacher in (*stage.score.hints, *looked_at)
            limit = None if unbound else budget if training else allowed
            if candidates is None:
                line = _bound(walk, stage, teacher, where, split, limit)
            else:
                line = _counted(walk, teacher, where, candidates, limit)
            if limit is not None and not training:
                line = replace(line, where=f"{where}, left out if more than {limit:,}")
            name_of = teacher.model_dump_json()
            if name_of not in known:
                known[name_of] = _measured(walk, stage, teacher, candidates, probe)
            yield replace(line, **known[name_of])


def _mined(walk: Walk, stage: Stage) -> Candidates | None:
    """A round's candidates, where they are there and were mined of this collection."""
    folder = stage.folder / "mine"
    return Candidates.read(folder / "candidates.parquet") if (folder / MANIFEST).exists() else None


def _bound(walk: Walk, stage: Stage, teacher: Part, where: str, split: str, limit: int | None) -> Line:
    queries = walk.collection.qrels(split)
    documents = len(walk.collection.corpus)
    each = [
        min(documents, len(stage.mine.sources) * stage.mine.depth + sum(grade > 0 for grade in grades.values()))
        for grades in queries.values()
    ]
    asked = sum(_judgements(teacher, count) for count in each)
    return Line(
        where, teacher.label, judging.UNITS[form_of(teacher)], asked if limit is None else min(asked, limit), 0, True
    )


def _judgements(teacher: Part, documents: int) -> int:
    """Judgements of so many documents of a query; a retriever scores each once."""
    return teacher.judgements(documents) if isinstance(teacher, Teacher) else documents


def _counted(walk: Walk, teacher: Part, where: str, candidates: Candidates, limit: int | None) -> Line:
    """Judgements of mined candidates, those of the store among them; nothing is asked."""
    try:
        asked, stored = judging.count(teacher, candidates, walk.collection, walk.store)
    except InputError as error:  # a round of this recipe has yet to train it
        console.say(f"{teacher.label}: {error}")
        asked, stored = sum(_judgements(teacher, int(n)) for n in np.diff(candidates.offsets)), 0
    if limit is not None:
        if isinstance(teacher, Ordering):  # a budget buys passes over the beginnings of lists too
            stored = ordering.paid(teacher, candidates, walk.collection, walk.store)
        asked, stored = min(asked, limit), min(stored, limit)
    return Line(where, teacher.label, judging.UNITS[form_of(teacher)], asked, stored)


def _measured(walk: Walk, stage: Stage, teacher: Part, candidates: Candidates | None, probe: int) -> dict[str, Any]:
    """What a judgement takes, as a line has it."""
    made = {str(stage.place("train", name)) for stage in walk.stages for name in stage.students}
    model = str(getattr(teacher, "model", getattr(getattr(teacher, "teacher", None), "model", "")))
    if model in made and not Path(model).exists():
        return {}
    weights = sum(file.stat().st_size for file in _weights(teacher))
    some = _sample(walk, stage, candidates, 8 if isinstance(teacher, Comparing | Ordering) else max(probe, 8))
    found: dict[str, Any] = {"weights": weights}
    try:
        opened = cast(Any, teacher).open(walk.collection)
        found["tokens"] = tokens = _tokens(teacher, opened, some)
        price = getattr(getattr(teacher, "model", None), "price", None)
        if price is not None and tokens is not None:
            found["cost"] = (tokens * price.input + _said(teacher) * price.output) / 1e6
        if probe and isinstance(teacher, Teacher):
            # a retriever's time is the encoding of its corpus, which mining or searching pays for
            with accounts.kept_in(walk.store.root / fingerprint(opened.identity)):
                found["seconds"] = _seconds(teacher, opened, some)
    except InputError as error:
        console.say(f"{teacher.label} is not measured: {error}")
    return found


def _said(teacher: Part) -> int:
    """Tokens of an answer: one, or an order of all that a window shows, at four a document such as `[12] > `."""
    return 4 * teacher.window if isinstance(teacher, Ordering) and teacher.kind == "listwise" else 1


def _weights(teacher: Part) -> list[Path]:
    """Files of the model's weights on this machine."""
    model = getattr(teacher, "model", None)
    name = getattr(model, "model", model)
    if not isinstance(name, str) or getattr(model, "url", None):
        return []
    if name.endswith(".gguf"):
        return [Path(name)]
    try:
        return list(locate(name).rglob("*.safetensors"))
    except InputError:
        return []


def _sample(walk: Walk, stage: Stage, candidates: Candidates | None, rows: int) -> Candidates:
    """Some candidates, from queries far apart: mined ones, or queries of the split with documents by chance."""
    if candidates is not None:
        step = max(1, len(candidates.queries) // max(1, rows // 4))
        chosen = candidates.select(candidates.queries[::step])
        starts = chosen.offsets[:-1]
        stops = np.minimum(starts + 4, chosen.offsets[1:])
        taken = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])[:rows]
        return Candidates(chosen.table.take(taken))
    queries = walk.collection.query_ids(walk.recipe.data.train)
    generator = np.random.default_rng(0)
    some = [queries[int(row)] for row in generator.permutation(len(queries))[: max(1, rows // 4)]]
    count = min(4, len(walk.collection.corpus))
    found = {
        query: [
            (walk.collection.corpus.ids[int(row)], "sample", rank, 0.0, None)
            for rank, row in enumerate(generator.choice(len(walk.collection.corpus), count, replace=False), start=1)
        ]
        for query in some
    }
    return Candidates.of(found)


def _tokens(teacher: Part, opened: Any, some: Candidates) -> float | None:
    """Tokens of a judgement, by the teacher's own tokenizer; the answer is not counted."""
    if hasattr(opened, "tokens"):  # a cross-encoder
        pairs = zip(some.query_ids, some.doc_ids, strict=True)
        lengths = opened.tokens([(opened.query_text(q), opened.document_text(d)) for q, d in pairs]).lengths
        return float(np.mean(lengths))
    if isinstance(opened, Asker):
        model, sure = opened.model, opened._sure
        heard = _Listener(model)
        opened.model, opened._sure = cast(Any, heard), True
        _ask(teacher, opened, some)
        opened.model, opened._sure = model, sure
        counts = heard.tokens()
        return float(np.mean(counts)) if len(counts) else None
    return None


class _Listener:
    """Stands in for a language model: it hears the prompts, and answers nothing."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._prompts: list[Any] = []

    def choices(self, prompts: Sequence[Any], choices: Sequence[str]) -> np.ndarray:
        self._prompts += prompts
        return np.full((len(prompts), len(choices)), np.nan, dtype=np.float32)

    def likelihood(self, prompts: Sequence[Any], continuations: Sequence[str]) -> np.ndarray:
        self._prompts += prompts
        return np.full(len(prompts), np.nan, dtype=np.float32)

    def generate(self, prompts: Sequence[Any], max_tokens: int) -> list[None]:
        self._prompts += prompts
        return [None] * len(prompts)

    def tokens(self) -> np.ndarray:
        """Of each prompt that was heard."""
        return cast(np.ndarray, self._model.count_tokens(self._prompts))


def _ask(teacher: Part, opened: Any, some: Candidates) -> int:
    """Ask about a few candidates, whatever the form; returns how many judgements that were."""
    queries, docs, bounds = some.query_ids, some.doc_ids, some.offsets.tolist()
    if isinstance(teacher, Comparing):
        pairs = [
            (queries[row], docs[row], docs[row + 1]) for row in range(len(docs) - 1) if queries[row] == queries[row + 1]
        ]
        if pairs:
            opened.prefer(*zip(*pairs, strict=True))
        return len(pairs)
    if isinstance(teacher, Ordering):
        # few candidates, shown as often as a window has room: what is long is as long as it will be
        lists = [(queries[a], docs[a:b] * teacher.window) for a, b in pairwise(bounds)]
        opened.order([Window(query, tuple(shown[: teacher.window])) for query, shown in lists])
        return len(lists)
    opened.score(queries, docs)
    return len(docs)


def _seconds(teacher: Teacher, opened: Any, some: Candidates) -> float | None:
    """Seconds a judgement: half of a sample is judged so that all is loaded, the other is measured."""
    half = max(1, len(some.queries) // 2)
    first, rest = some.select(some.queries[:half]), some.select(some.queries[half:])
    _ask(teacher, opened, first)
    if not len(rest):
        return None
    began = time.perf_counter()
    asked = _ask(teacher, opened, rest)
    return (time.perf_counter() - began) / asked if asked else None


def _times(each: float | None, count: int, shown: Any) -> str:
    return "-" if each is None else str(shown(each * count))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
