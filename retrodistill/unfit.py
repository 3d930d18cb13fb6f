"""What is well-formed in a recipe but cannot work: parts that do not fit each other, models that are not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from retrodistill.errors import InputError
from retrodistill.mining.pool import Rule
from retrodistill.registry import Part, parts_in
from retrodistill.scores.learnt import Learnt
from retrodistill.sections import Mine, Recipe, Round, Score, Train
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.cross_fitted import CrossFitted
from retrodistill.training.dev import unmeasured
from retrodistill.training.fit import misfit
from retrodistill.training.whole import unasked

Place = tuple[str | int, ...]


def mistakes_of(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """Every mistake and its place."""
    yield from _unsearched(recipe)
    yield from _untaught(recipe)
    yield from _useless(recipe)
    for place, section in _sections(recipe):
        weights = getattr(section.combine, "weights", None) if isinstance(section, Score) else None
        if isinstance(section, Score) and weights is not None and len(weights) != len(section.teachers):
            yield (*place, "combine"), f"{len(weights)} weights for {len(section.teachers)} teachers; give one each"
    yield from _unlabelled(recipe)
    made = {str(stage.place("train", name)): train for stage in recipe.stages for name, train in stage.students.items()}
    for place, part in _parts(recipe):
        of_rounds = [inner for inner in _within(part) if _is_made(recipe, inner)]
        for inner in of_rounds:
            unmade = _not_made(recipe, cast(Any, inner), made, within=part)
            if unmade:
                yield place, unmade
        if of_rounds:
            continue  # a round of this very recipe will write it
        try:
            part.check()
        except InputError as error:
            yield place, str(error)


def _unlabelled(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """Combinations that learn from labels, where nothing that is learnt may look at one."""
    for number, stage in enumerate(recipe.stages):
        combine = stage.score.combine
        if isinstance(combine, Learnt) and not stage.mine.labels:
            base: Place = ("rounds", number) if recipe.rounds and recipe.rounds[number].score else ()
            said = (
                f"{combine.kind} learns from the labels of train queries, and mine.labels is false; combine by a rule "
                "that needs none, such as mean or confident, or let mine.labels be true"
            )
            yield (*base, "score", "combine"), said


def _useless(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """Folds of the last round, which nobody is left to learn from, and weights that nobody makes or looks at."""
    for number, stage in enumerate(recipe.stages):
        losses = [cast(Any, loss) for train in stage.students.values() for loss in train.losses]
        if stage.mine.weigh is not None and not any(loss.weighs for loss in losses):
            within: Place = ("rounds", number) if recipe.rounds and recipe.rounds[number].mine else ()
            kinds = ", ".join(dict.fromkeys(loss.kind for loss in losses))
            said = f"{kinds} does not look at weights; train with a loss that does, such as infonce, or leave it out"
            yield (*within, "mine", "weigh"), said
        if wrong := _unweighed(stage.score, losses):
            within = ("rounds", number) if recipe.rounds and recipe.rounds[number].score else ()
            yield (*within, "score", "combine"), wrong
    for position, train in enumerate(recipe.stages[-1].students.values()):
        if train.folds:
            base: Place = ("rounds", len(recipe.rounds) - 1) if recipe.rounds and recipe.rounds[-1].train else ()
            said = "models of folds are teachers of a later round, and there is none; leave it out, or add a round"
            yield (*base, "train", position, "folds"), said


def _unweighed(score: Score, losses: Sequence[Any]) -> str | None:
    """Why a combination's weights would come to nothing; None where they do not, or there are none."""
    weigh = getattr(score.combine, "weigh", None)
    if weigh is None:
        return None
    if weigh == "disagreement" and len(score.teachers) < 2:
        return "weigh: disagreement, and one teacher does not disagree; leave it out"
    if weigh == "error" and not any(isinstance(t, Comparing) and t.read == "bradley_terry" for t in score.teachers):
        return "weigh: error, which only teachers have that compare and are read by bradley_terry; leave it out"
    if not any(loss.heeds for loss in losses):
        kinds = ", ".join(dict.fromkeys(loss.kind for loss in losses))
        return f"{kinds} does not heed weigh; train with a loss that does, such as kl, or leave it out"
    return None


def _untaught(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """Losses that lack what they learn from, and evaluations that lack a split."""
    for number, stage in enumerate(recipe.stages):
        base: Place = ("rounds", number) if recipe.rounds and recipe.rounds[number].train else ()
        for position, train in enumerate(stage.students.values()):
            here: Place = (*base, "train", position)
            for place, loss in enumerate(train.losses):
                if cast(Any, loss).needs_teacher and not stage.score.teachers:
                    said = f"{loss.kind} learns from a teacher, but score.teachers names none"
                    yield (*here, "losses", place), said
                if cast(Any, loss).asks_teachers and (said := unasked(stage.score.teachers, stage.score.combine) or ""):
                    yield (*here, "losses", place), said
                if unfit := misfit(cast(Any, train.student), cast(Any, loss)):
                    yield (*here, "losses", place), unfit
            if train.evaluate_every is not None:
                split = recipe.data.measured_on
                missing = "needs a split to measure on; name it as data.dev, or set data.hold_out=0.1"
                if wrong := unmeasured(cast(Any, train.student)) or (missing if split is None else None):
                    yield (*here, "evaluate_every"), wrong


def _within(part: Part) -> Iterator[Part]:
    """A part, and those that it is made of; what a rule of mining names is looked at for itself."""
    yield part
    if isinstance(part, Rule):
        return
    for name in type(part).model_fields:
        value = getattr(part, name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Part):
                yield from _within(inner)


def _is_made(recipe: Recipe, part: Part) -> bool:
    return bool(recipe.rounds) and str(getattr(part, "model", "")).startswith(f"{recipe.folder}/")


def _not_made(recipe: Recipe, part: Any, made: Mapping[str, Train], within: Part) -> str | None:
    """Why a part cannot use the student of a round; None where it can."""
    asked = str(Path(part.model).relative_to(recipe.folder)).replace("/train", "", 1)
    if part.model not in made:
        known = [str(Path(folder).relative_to(recipe.folder)).replace("/train", "", 1) for folder in made]
        return f"'@{asked}' names no student; choose from {', '.join(f'@{name}' for name in known)}"
    emits = getattr(getattr(part, "encoder_class", None), "emits", None)
    train = made[part.model]
    student: Any = train.student
    if emits is not None and emits != student.emits:
        return f"'@{asked}' is a {student.kind} student; write {student.kind}:@{asked}"
    if train.folds and not isinstance(within, CrossFitted):
        return f"'@{asked}' is trained in folds, a model each; write cross_fitted:{student.kind}:@{asked}, as a teacher"
    if isinstance(within, CrossFitted) and not train.folds:
        return f"'@{asked}' is one model; have its round train `folds: 3`, or write {student.kind}:@{asked}"
    return None


def _unsearched(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """An index that takes what no student emits."""
    index = cast(Any, recipe.index)
    students = [cast(Any, train.student) for stage in recipe.stages for train in stage.students.values()]
    if index is None or any(student.emits == index.accepts for student in students):
        return
    emitted = " or ".join(dict.fromkeys(student.emits for student in students))
    kinds = ", ".join(dict.fromkeys(student.kind for student in students))
    fix = "leave it out" if emitted == "pairs" else f"choose an index that accepts {emitted}, or leave it out"
    yield ("index",), f"{index.kind} accepts {index.accepts}, but train.student ({kinds}) emits {emitted}; {fix}"


def _sections(recipe: Recipe) -> Iterator[tuple[Place, Mine | Score | Train]]:
    """Every section that holds parts, and its place."""
    whole: Sequence[tuple[Place, Recipe | Round]] = [
        ((), recipe),
        *((("rounds", number), part) for number, part in enumerate(recipe.rounds)),
    ]
    for place, section in whole:
        if section.mine is not None:
            yield (*place, "mine"), section.mine
        if section.score is not None:
            yield (*place, "score"), section.score
        yield from (((*place, "train", number), train) for number, train in enumerate(section.train or ()))


def _parts(recipe: Recipe) -> Iterator[tuple[Place, Part]]:
    for place, section in _sections(recipe):
        for name in type(section).model_fields:
            value = getattr(section, name)
            several = isinstance(value, tuple)
            for number, part in enumerate(value if several else (value,)):
                if isinstance(part, Part):
                    yield from _with_inner((*place, name, number) if several else (*place, name), part)
    yield from ((("evaluate", "baselines", number), part) for number, part in enumerate(recipe.evaluate.baselines))
    if recipe.index is not None:
        yield ("index",), recipe.index


def _with_inner(place: Place, part: Part) -> Iterator[tuple[Place, Part]]:
    """A part, and where it is a rule of mining, the models that it names."""
    yield place, part
    if isinstance(part, Rule):
        yield from (((*place, name), named) for name, named in parts_in(part).items())
