"""Makes a plan of a recipe: counts, measures, and rehearses."""

from __future__ import annotations

from typing import Any

from retrodistill.apart import apart
from retrodistill.errors import InputError
from retrodistill.memory import installed
from retrodistill.pipeline import Walk
from retrodistill.plan.asked import asked_by
from retrodistill.plan.rehearsed import rehearsed
from retrodistill.plan.told import Line, Plan, Step
from retrodistill.recipe import Recipe


def plan(recipe: Recipe, *, probe: int = 32) -> Plan:
    """Count what a recipe's teachers are asked, round by round, and say what the rest of it takes.

    Where a round was mined, its candidates are counted against the store, pair by pair; likewise those of the
    evaluation, where an earlier run or budget had them searched for. Where it was not, the bound is that every source
    finds `depth` documents that no other finds. A teacher that an earlier round has yet to train is counted and not
    measured.

    Args:
        recipe: what is to be run.
        probe: judgements that each teacher makes now, to measure it; what a server answers is kept, so that it is not
            paid twice. 0: none, and no step is tried for its memory.
    """
    walk, known = Walk(recipe), dict[str, dict[str, Any]]()
    lines = [line for stage in walk.stages for line in asked_by(walk, stage, probe, known)]
    steps, untried = _heights(recipe, lines) if probe else ([], [])
    return Plan(lines, tuple(steps), tuple(untried), installed())


def _heights(recipe: Recipe, lines: list[Line]) -> tuple[list[Step], list[str]]:
    steps, untried = list[Step](), list[str]()
    missing: dict[str, int] = {}
    for teacher in (one for stage in recipe.stages for one in (*stage.score.teachers, *stage.score.looked_at)):
        missing[teacher.model_dump_json()] = sum(line.missing for line in lines if line.teacher == teacher.label)
    try:
        for found in apart(rehearsed, recipe, missing):
            if isinstance(found, Step):
                steps.append(found)
            else:
                untried.append(found)
    except InputError as error:
        untried.append(f"{'what comes after ' + steps[-1].name if steps else 'any step'}: {error}")
    return steps, untried
