"""What a recipe's teachers will be asked, round by round, and what of it the store has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from retrodistill import console, steps
from retrodistill.candidates import Candidates
from retrodistill.errors import InputError
from retrodistill.manifests import MANIFEST
from retrodistill.mining.once import kept_once
from retrodistill.pipeline import Walk
from retrodistill.plan.probed import measured
from retrodistill.plan.told import Line
from retrodistill.registry import Part
from retrodistill.sections import Stage
from retrodistill.teachers import judging, ordering
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.ordering import Ordering
from retrodistill.teachers.teacher import Teacher, form_of


def asked_by(walk: Walk, stage: Stage, probe: int, known: dict[str, dict[str, Any]]) -> Iterator[Line]:
    """A line for each teacher of a round and each place that it is asked in.

    Args:
        walk: the recipe's.
        stage: the round.
        probe: judgements that each teacher makes now, to measure it.
        known: what was measured of teachers, by their options; what is measured now is added.
    """
    candidates = mined(walk, stage)
    for line, teacher in (*_training(walk, stage, candidates), *_evaluation(walk, stage)):
        name_of = teacher.model_dump_json()
        if name_of not in known:
            known[name_of] = measured(walk, stage, teacher, candidates, probe)
        yield replace(line, **known[name_of])


def mined(walk: Walk, stage: Stage) -> Candidates | None:
    """A round's candidates, where they are there."""
    folder = stage.folder / "mine"
    return Candidates.read(folder / "candidates.parquet") if (folder / MANIFEST).exists() else None


def _training(walk: Walk, stage: Stage, candidates: Candidates | None) -> Iterator[tuple[Line, Part]]:
    where = f"{stage.name}, training" if stage.name else "training"
    for teacher in (*stage.score.teachers, *stage.score.looked_at):
        unbound = teacher in (*stage.score.hints, *stage.score.looked_at)
        limit = None if unbound else stage.score.budget
        if candidates is None:
            yield _bound(walk, stage, teacher, where, walk.recipe.data.train, limit), teacher
        else:
            yield _counted(walk, teacher, where, candidates, limit), teacher


def _evaluation(walk: Walk, stage: Stage) -> Iterator[tuple[Line, Part]]:
    """What the teachers' own numbers take: counted where what is found for the test queries is kept, else a bound."""
    score, options, test = stage.score, walk.recipe.evaluate, walk.recipe.data.test
    if not options.teacher or stage is not walk.stages[-1]:
        return
    where = f"{stage.name}, evaluation" if stage.name else "evaluation"
    allowed = options.allowed(score)
    candidates, beyond = None, None
    try:
        candidates = kept_once(walk.collection, test, stage.mine.searching, stage.mine.depth)
        if candidates is not None:
            beyond = steps.beyond(
                allowed, score, walk.collection, test, stage.mine.searching, stage.mine.depth, walk.store
            )
    except InputError:  # a source or a teacher that is not there yet: what it finds and knows is not known
        candidates = None
    for teacher in score.teachers:
        if candidates is None:
            limit = None if teacher in score.hints else allowed
            line = _bound(walk, stage, teacher, where, test, limit)
            if limit is not None:
                line = replace(line, where=f"{where}, left out if more than {limit:,}")
        elif beyond is not None:
            line = Line(f"{where}, left out: more than {allowed:,}", teacher.label, _unit(teacher), 0, 0)
        else:
            line = _counted(walk, teacher, where, candidates, None)
        yield line, teacher


def _unit(teacher: Part) -> str:
    return judging.UNITS[form_of(teacher)]


def _bound(walk: Walk, stage: Stage, teacher: Part, where: str, split: str, limit: int | None) -> Line:
    queries = walk.collection.qrels(split)
    documents = len(walk.collection.corpus)
    each = [
        min(documents, len(stage.mine.sources) * stage.mine.depth + sum(grade > 0 for grade in grades.values()))
        for grades in queries.values()
    ]
    asked = sum(_judgements(teacher, count) for count in each)
    return Line(where, teacher.label, _unit(teacher), asked if limit is None else min(asked, limit), 0, True)


def _judgements(teacher: Part, documents: int) -> int:
    """Judgements of so many documents of a query; a retriever scores each once."""
    return teacher.judgements(documents) if isinstance(teacher, Teacher) else documents


def _counted(walk: Walk, teacher: Part, where: str, candidates: Candidates, limit: int | None) -> Line:
    """Judgements of candidates, those of the store among them; nothing is asked. How far a sort goes is a bound."""
    try:
        asked, stored = judging.count(teacher, candidates, walk.collection, walk.store)
    except InputError as error:  # a round of this recipe has yet to train it
        console.say(f"{teacher.label}: {error}")
        asked = sum(_judgements(teacher, int(n)) for n in np.diff(candidates.offsets))
        return Line(where, teacher.label, _unit(teacher), asked if limit is None else min(asked, limit), 0, True)
    if isinstance(teacher, Comparing) and teacher.pairs == "sort" and limit is None and stored < asked:
        return Line(
            where,
            teacher.label,
            _unit(teacher),
            judging.missing(teacher, candidates, walk.collection, walk.store),
            0,
            True,
        )
    if limit is not None:
        if isinstance(teacher, Ordering):  # a budget buys passes over the beginnings of lists too
            stored = ordering.paid(teacher, candidates, walk.collection, walk.store)
        asked, stored = min(asked, limit), min(stored, limit)
    return Line(where, teacher.label, _unit(teacher), asked, stored)
