"""Recipes: YAML whose keys are the stops of the road, with `key=value` overrides, judged whole before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from retrodistill.errors import InputError, Problems, nearest
from retrodistill.mining.pool import Rule
from retrodistill.registry import OptionError, build, expand, part_class, parts_in
from retrodistill.sections import Recipe
from retrodistill.unfit import Place, mistakes_of

Options = TypeVar("Options", bound=BaseModel)


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
    mistakes = list(_name_rounds(tree, lines))
    if mistakes:
        raise _problems(path, mistakes)
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


def _as_written(place: Place, lines: Mapping[Place, str]) -> Place:
    """Without the number that a lone mapping gets where a list may stand, as in `train:`."""
    written: Place = ()
    for part in place:
        lone = isinstance(part, int) and (*written, part) not in lines
        if not (lone and any(known[: len(written)] == written and known != written for known in lines)):
            written = (*written, part)
    return written


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
        place = _as_written((*base, *found["loc"]), lines)
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, OptionError):
            yield from _told(cause.error, cause.part, place, lines)
            continue
        said = describe(found, _model_at(model, found["loc"][:-1]))
        yield f"{_where(place, lines)}{_dotted(place)}: {said}" if place else said


def describe(found: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    """One of pydantic's mistakes in our words, with the value and, for an unknown key, the nearest right one."""
    if found["type"] == "extra_forbidden":
        return f"unknown key; {nearest(str(found['loc'][-1]), model.model_fields if model else ())}"
    if found["type"] == "missing":
        return "missing; it has no default"
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    said = _IN_YAML.get(found["type"], f"{found['msg'][0].lower()}{found['msg'][1:]}")
    return f"{said}, got {found['input']!r}"


# What pydantic says of Python's types, in words of a recipe.
_IN_YAML = {
    "tuple_type": "input should be a list such as [1, 2]",
    "model_type": "input should be options such as {name: value}",
}


def _model_at(model: type[BaseModel], place: Sequence[Any]) -> type[BaseModel] | None:
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(str(part))
        inner = _section_in(field.annotation) if field else None
        if inner is None:
            return None
        model = inner
    return model


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, in a tuple or where it may be left out."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner)) is not None), None)


_OF_A_ROUND = re.compile(
    r"(?P<before>^|.*:)@(?P<round>[A-Za-z0-9][A-Za-z0-9._-]*)(?P<student>/[A-Za-z0-9][A-Za-z0-9._-]*)?"
)


def _name_rounds(tree: dict[str, Any], lines: Mapping[Place, str]) -> Iterator[str]:
    """Put folders for `@ROUND`, the student of a round before; tell of those that name none."""
    folder = Path(str(tree.get("runs", "runs"))) / str(tree.get("name"))
    for key in ("mine", "score", "train", "evaluate"):
        _, mistakes = _put_folders(tree.get(key), (key,), folder, (), lines)
        yield from mistakes
    rounds = tree.get("rounds")
    before: list[str] = []
    for number, part in enumerate(rounds if isinstance(rounds, list) else ()):
        tree["rounds"][number], mistakes = _put_folders(part, ("rounds", number), folder, before, lines)
        yield from mistakes
        if isinstance(part, dict) and isinstance(part.get("name"), str):
            before.append(part["name"])


def _put_folders(
    value: Any, place: Place, folder: Path, before: Sequence[str], lines: Mapping[Place, str]
) -> tuple[Any, list[str]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found = {key: _put_folders(inner, (*place, key), folder, before, lines) for key, inner in items}
        mistakes = [mistake for _, told in found.values() for mistake in told]
        made = {key: inner for key, (inner, _) in found.items()}
        return (made if isinstance(value, dict) else list(made.values())), mistakes
    named = _OF_A_ROUND.fullmatch(value) if isinstance(value, str) else None
    if named is None:
        return value, []
    if named["round"] not in before:
        hint = nearest(named["round"], before) if before else "a round names those before it, in `rounds:`"
        said = f"'@{named['round']}' names no round before this one; {hint}"
        return value, [f"{_where(place, lines)}{_dotted(place)}: {said}"]
    return f"{named['before']}{folder / named['round'] / 'train'}{named['student'] or ''}", []


def _unfit(recipe: Recipe, lines: Mapping[Place, str]) -> Iterator[str]:
    """What is well-formed but cannot work: parts that do not fit each other, models and files that are not there."""
    for place, said in mistakes_of(recipe):
        written = _as_written(place, lines)
        yield f"{_where(written, lines)}{_dotted(written)}: {said}"


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
    if isinstance(made, Rule):  # other parts look after those that they hold themselves
        for named in parts_in(made).values():
            named.check()
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
