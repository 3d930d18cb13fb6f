"""What `retrodistill ls` shows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from retrodistill.console import markdown_table
from retrodistill.errors import InputError, nearest
from retrodistill.registry import FAMILIES, Part, part_class, table


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
    rows = []
    for option, field in part.model_fields.items():
        if option != "kind":
            annotation = inspect.formatannotation(field.annotation).replace("typing.", "")
            annotation = re.sub(
                r"Annotated\[([\w.]+), .*\)\]", r"\1", annotation
            )  # how it is checked is not what it is
            default = "(required)" if field.is_required() else repr(field.default)
            rows.append([option, annotation, default, field.description or ""])
    return f"{inspect.getdoc(part)}\n\n{markdown_table(['option', 'type', 'default', ''], rows, numbers=False)}"


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
