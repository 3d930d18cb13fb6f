"""What `retrodistill ls` shows."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from retrodistill.console import markdown_table
from retrodistill.errors import InputError, nearest
from retrodistill.registry import FAMILIES, Part, PartOf, part_class, table


def listing(what: str | None, name: str | None) -> str:
    """A table of parts, collections or recipes; the options of one part where it is named.

    Raises:
        InputError: there is no such family or part.
    """
    if what is None:
        families = [markdown_table([family, "what it is"], _rows(family), numbers=False) for family in FAMILIES]
        return "\n\n".join([*families, *(make() for make in _OTHERS.values())])
    if what in _OTHERS:
        return _OTHERS[what]()
    family = what if what in FAMILIES else what.removesuffix("es" if what.endswith(("sses", "xes")) else "s")
    if family not in FAMILIES:
        raise InputError(f"ls {what!r}: no such list; {nearest(what, [*FAMILIES, *_OTHERS])}")
    if name is None:
        return markdown_table([family, "what it is"], _rows(family), numbers=False)
    return _options(family, name)


def _rows(family: str) -> list[list[str]]:
    return [[_short(part, kind), _first_line(part)] for kind, part in sorted(table(family).items())]


def _short(part: type[Part], kind: str) -> str:
    return f"{kind}:{part.argument.upper()}" if part.argument else kind


def _first_line(thing: Any) -> str:
    text = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(text.split()).replace("`", "")


def _options(family: str, kind: str) -> str:
    part = part_class(family, kind)
    rows = [row for option, field in part.model_fields.items() if option != "kind" for row in _option(option, field)]
    return f"{inspect.getdoc(part)}\n\n{markdown_table(['option', 'type', 'default', ''], rows, numbers=False)}"


def _option(option: str, field: FieldInfo) -> Iterator[list[str]]:
    """A row for an option, and one for each that it is made of."""
    annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    default = "(required)" if field.is_required() else _written(field.get_default(call_default_factory=True))
    yield [option, _type(annotation), default, field.description or ""]
    for inner in (field.annotation, *get_args(field.annotation)):
        if isinstance(inner, type) and issubclass(inner, BaseModel) and not issubclass(inner, Part):
            for name, own in inner.model_fields.items():
                yield from _option(f"{option}.{name}", own)


def _written(value: Any) -> str:
    """A default as a recipe has it."""
    if isinstance(value, BaseModel):
        return value.label if isinstance(value, Part) else "as below"
    return json.dumps(value, ensure_ascii=False, default=str)


def _type(annotation: Any) -> str:
    """A type in words: a part by its family, how it is checked left out."""
    family = next((mark.family for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, PartOf)), None)
    if family is not None:
        return family
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " | ".join("null" if each is NoneType else _type(each) for each in inner)
    if origin in (tuple, list):
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return "mapping"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


_NAMES = {str: "text", int: "whole number", float: "number", bool: "true | false", Path: "path"}


def _collections() -> str:
    from retrodistill.collections import beir

    rows = [["builtin/pydocs", "docstrings of Python and numpy, built on the spot"]]
    rows += [[name, "BEIR, downloaded with a checksum"] for name in beir.names()]
    return markdown_table(["collection", "what it is"], rows, numbers=False)


def _recipes() -> str:
    rows = []
    for path in sorted(Path("recipes").rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows.append([str(path), first.lstrip("# ") if first.startswith("#") else str(tree.get("name", ""))])
    return markdown_table(["recipe", "what it is"], rows or [["(none below recipes/)", ""]], numbers=False)


_OTHERS: dict[str, Callable[[], str]] = {"collections": _collections, "recipes": _recipes}
