"""Recipes: YAML whose keys are the stops of the road, with `key=value` overrides, judged whole before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from retrodistill.errors import InputError, Problems, nearest
from retrodistill.evaluation.metrics import parse_metric
from retrodistill.evaluation.protocol import DEFAULT_METRICS
from retrodistill.registry import OptionError, Part, build, expand, of, part_class
from retrodistill.training.options import TrainOptions

Place = tuple[str | int, ...]
Options = TypeVar("Options", bound=BaseModel)


class Section(BaseModel):
    """A stop's options: names are checked, values do not change once read."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Data(Section):
    """The collection and its splits."""

    path: str
    train: str = "train"
    test: str = "test"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class Mine(Section):
    """Where candidates come from."""

    sources: tuple[of("retriever"), ...] = Field(("bm25",), min_length=1)  # type: ignore[valid-type]
    depth: int = Field(100, ge=1)
    sampler: of("sampler") | None = None  # type: ignore[valid-type]
    filters: tuple[of("filter"), ...] = ()  # type: ignore[valid-type]


class Score(Section):
    """Who judges them, and how several judges become one."""

    teachers: tuple[of("teacher"), ...] = ()  # type: ignore[valid-type]
    combine: of("combination") | None = None  # type: ignore[valid-type]


class Train(TrainOptions):
    """Who learns, through what, for how long."""

    student: of("student")  # type: ignore[valid-type]
    losses: tuple[of("loss"), ...] = Field(min_length=1)  # type: ignore[valid-type]

    @property
    def options(self) -> TrainOptions:
        """The loop's own options."""
        return TrainOptions(**{name: getattr(self, name) for name in TrainOptions.model_fields})


class Evaluate(Section):
    """What is measured, and what the student is held against."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    baselines: tuple[of("retriever"), ...] = Field(("bm25",))  # type: ignore[valid-type]
    before: bool = True
    teacher: bool = True

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(parse_metric(name).name for name in names)
        except InputError as error:
            raise ValueError(str(error)) from error


class Recipe(Section):
    """The whole road, from a collection to its numbers."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    runs: Path = Path("runs")
    store: Path = Path("scores")
    data: Data
    mine: Mine = Mine()
    score: Score = Score()
    train: Train
    index: of("index") | None = Field("flat")  # type: ignore[valid-type]  # None: the student re-ranks
    evaluate: Evaluate = Evaluate()

    @property
    def folder(self) -> Path:
        """Where everything the run makes lies."""
        return self.runs / self.name

    def dump(self) -> str:
        """The resolved recipe as YAML, to lie beside what it made."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, put overrides on it and judge the whole.

    Args:
        path: the YAML file.
        overrides: such as `train.epochs=1`, `mine.sources=[bm25]` or `train.losses.0.temperature=2`.

    Raises:
        Problems: every mistake at once, each with its line and the nearest right name.
    """
    lines: dict[Place, str] = {}
    tree = _parse(path, lines)
    for override in overrides:
        _override(tree, override, lines)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise _problems(path, _told(error, Recipe, (), lines)) from error
    mistakes = list(_unfit(recipe, lines))
    if mistakes:
        raise _problems(path, mistakes)
    return recipe


def _problems(path: Path, told: Iterable[str]) -> Problems:
    mistakes = list(told)
    count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "a mistake"
    return Problems(f"{path}: {count}; nothing was run", mistakes)


def _parse(path: Path, lines: dict[Place, str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"recipe {path}: no such file; `retrodistill ls recipes` shows those at hand") from error
    except UnicodeDecodeError as error:
        raise InputError(f"recipe {path}: not UTF-8 text") from error
    except OSError as error:
        raise InputError(f"recipe {path}: cannot be read ({error.strerror})") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InputError(f"recipe {path}, line {line}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # a character YAML does not allow, a date that is none
        raise InputError(f"recipe {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or root is None:
        raise InputError(f"recipe {path}: expected keys such as `data:` and `train:`, got {type(tree).__name__}")
    try:
        twice = list(_mark(root, (), lines))
    except RecursionError as error:
        raise InputError(f"recipe {path}: an alias stands inside what it names; write the value out") from error
    if twice:
        raise _problems(path, twice)
    return tree


def _mark(node: yaml.Node, place: Place, lines: dict[Place, str]) -> Iterator[str]:
    """Remember the line of every key; tell of keys that stand twice, which YAML would take silently."""
    lines.setdefault(place, f"line {node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            here = (*place, str(key.value))
            lines[here] = f"line {key.start_mark.line + 1}"
            if key.value in seen:
                yield f"{lines[here]}: {_dotted(here)}: this key stands twice; keep one"
            seen.add(key.value)
            yield from _mark(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _mark(value, (*place, number), lines)


def _override(tree: dict[str, Any], override: str, lines: dict[Place, str]) -> None:
    key, value = split_override(override)
    place: Place = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    at: Any = tree
    for depth, part in enumerate(place[:-1], start=1):
        lines.setdefault(place[:depth], f"override {override}")
        if isinstance(at, list) and isinstance(part, int) and part < len(at):
            if isinstance(at[part], str):
                at[part] = {"kind": at[part]}
            at = at[part]
        elif isinstance(at, dict):
            if not isinstance(at.get(str(part)), dict | list):
                at[str(part)] = {"path" if part == "data" else "kind": at[str(part)]} if at.get(str(part)) else {}
            at = at[str(part)]
        else:
            raise InputError(f"override {override!r}: {_dotted(place)} leads nowhere; the recipe has no {part!r} there")
    last = place[-1]
    if isinstance(at, list) and isinstance(last, int) and last < len(at):
        at[last] = value
    elif isinstance(at, dict):
        at[str(last)] = value
    else:
        raise InputError(f"override {override!r}: {_dotted(place)} leads nowhere in the recipe")
    for known in [known for known in lines if known[: len(place)] == place]:
        del lines[known]
    lines[place] = f"override {override}"


def split_override(text: str) -> tuple[str, Any]:
    """Split `key=value`; the value is read as YAML, so that numbers are numbers and lists are lists.

    Raises:
        InputError: there is no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise InputError(f"got {text!r}, expected key=value such as train.epochs=1")
    return key.strip(), _yaml(value, text)


def _yaml(value: str, given: str) -> Any:
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise InputError(f"{given!r}: the value is not YAML; put text with : or [ in it in quotes") from error


def _dotted(place: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def _where(place: Place, lines: Mapping[Place, str]) -> str:
    for end in range(len(place), -1, -1):
        if place[:end] in lines:
            return f"{lines[place[:end]]}: "
    return ""


def _told(error: ValidationError, model: type[BaseModel], base: Place, lines: Mapping[Place, str]) -> Iterator[str]:
    """Every mistake of a validation in words, those inside parts included."""
    errors = error.errors()
    for found in errors:
        around = {other["loc"][: len(found["loc"])] for other in errors if len(other["loc"]) > len(found["loc"])}
        if found["type"] == "too_short" and found["loc"] in around:
            continue  # pydantic counts the good items only; the bad ones inside are told
        place = (*base, *found["loc"])
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, OptionError):
            yield from _told(cause.error, cause.part, place, lines)
            continue
        said = describe(found, _model_at(model, found["loc"][:-1]))
        yield f"{_where(place, lines)}{_dotted(place)}: {said}"


def describe(found: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    """One of pydantic's mistakes in our words, with the value and, for an unknown key, the nearest right one."""
    if found["type"] == "extra_forbidden":
        return f"unknown key; {nearest(str(found['loc'][-1]), model.model_fields if model else ())}"
    if found["type"] == "missing":
        return "missing; it has no default"
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    return f"{found['msg'][0].lower()}{found['msg'][1:]}, got {found['input']!r}"


def _model_at(model: type[BaseModel], place: Sequence[Any]) -> type[BaseModel] | None:
    for part in place:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    return model


def _parts(recipe: Recipe) -> Iterator[tuple[Place, Part]]:
    several: dict[Place, Sequence[Part]] = {
        ("mine", "sources"): recipe.mine.sources,
        ("mine", "filters"): recipe.mine.filters,
        ("score", "teachers"): recipe.score.teachers,
        ("train", "losses"): recipe.train.losses,
        ("evaluate", "baselines"): recipe.evaluate.baselines,
    }
    for place, parts in several.items():
        yield from (((*place, number), part) for number, part in enumerate(parts))
    single: dict[Place, Part | None] = {
        ("mine", "sampler"): recipe.mine.sampler,
        ("score", "combine"): recipe.score.combine,
        ("train", "student"): recipe.train.student,
        ("index",): recipe.index,
    }
    yield from ((place, part) for place, part in single.items() if part is not None)


def _unfit(recipe: Recipe, lines: Mapping[Place, str]) -> Iterator[str]:
    """What is well-formed but cannot work: parts that do not fit each other, models and files that are not there."""
    from retrodistill.training.train import misfit

    student, index = cast(Any, recipe.train.student), cast(Any, recipe.index)
    if student.emits != (index.accepts if index else "pairs"):
        got = f"{index.kind} accepts {index.accepts}" if index else "null is for students that re-rank"
        fix = "write index: null" if student.emits == "pairs" else f"choose an index that accepts {student.emits}"
        said = f"{got}, but train.student ({student.kind}) emits {student.emits}; {fix}"
        yield f"{_where(('index',), lines)}index: {said}"
    for number, loss in enumerate(recipe.train.losses):
        if unfit := misfit(student, cast(Any, loss)):
            place: Place = ("train", "losses", number)
            yield f"{_where(place, lines)}{_dotted(place)}: {unfit}"
        if cast(Any, loss).needs_teacher and not recipe.score.teachers:
            place = ("train", "losses", number)
            said = f"{loss.kind} learns from a teacher, but score.teachers names none"
            yield f"{_where(place, lines)}{_dotted(place)}: {said}"
    weights = getattr(recipe.score.combine, "weights", None)
    if weights is not None and len(weights) != len(recipe.score.teachers):
        place = ("score", "combine")
        said = f"{len(weights)} weights for {len(recipe.score.teachers)} teachers; give one each"
        yield f"{_where(place, lines)}{_dotted(place)}: {said}"
    for place, part in _parts(recipe):
        try:
            part.check()
        except InputError as error:
            yield f"{_where(place, lines)}{_dotted(place)}: {error}"


def part(family: str, spec: str | Mapping[str, Any], settings: Sequence[str] = ()) -> Any:
    """A part from the command line: `bm25`, `dense:MODEL` or a YAML mapping, with `key=value` options put on it.

    Raises:
        InputError: telling every wrong option.
    """
    value: Any = spec
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _yaml(value, value)
    value = {**expand(family, value), **dict(map(split_override, settings))}
    try:
        made = build(family, value)
    except ValidationError as error:
        raise Problems(
            f"{family} {value['kind']}: wrong options", _told(error, part_class(family, value["kind"]), (), {})
        ) from error
    made.check()
    return made


def options_from(model: type[Options], settings: Sequence[str]) -> Options:
    """Options from `key=value` words.

    Raises:
        Problems: telling every wrong one.
    """
    try:
        return model.model_validate(dict(map(split_override, settings)))
    except ValidationError as error:
        raise Problems("wrong options", _told(error, model, (), {})) from error
