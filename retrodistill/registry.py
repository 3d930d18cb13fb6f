"""Finds a part by its name: one table a family, one row a part, and `package.module:Class` for parts kept elsewhere.

A family is a package; its modules end in a literal table such as `LOSSES = {"kl": KL}`. Adding a part is adding a
class and a row to one such module; nothing here changes.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from retrodistill.errors import InputError, nearest

FAMILIES: Mapping[str, tuple[str, str]] = {
    "retriever": ("retrodistill.retrieval", "RETRIEVERS"),
    "sampler": ("retrodistill.mining", "SAMPLERS"),
    "filter": ("retrodistill.mining", "FILTERS"),
    "weigher": ("retrodistill.mining", "WEIGHERS"),
    "queries": ("retrodistill.querying", "QUERIES"),
    "teacher": ("retrodistill.teachers", "TEACHERS"),
    "combination": ("retrodistill.scores", "COMBINATIONS"),
    "spending": ("retrodistill.spending", "SPENDING"),
    "loss": ("retrodistill.losses", "LOSSES"),
    "student": ("retrodistill.students", "STUDENTS"),
    "index": ("retrodistill.indexing", "INDEXES"),
    "format": ("retrodistill.formats", "FORMATS"),
    "language_model": ("retrodistill.language", "LANGUAGE_MODELS"),
}


class Part(BaseModel):
    """A part and its options in one: `KL(temperature=2.0)` in Python is `{kind: kl, temperature: 2.0}` in YAML.

    `argument` names the option that stands behind the colon in the short form: `dense:MODEL` is
    `{kind: dense, model: MODEL}`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
    argument: ClassVar[str | None] = None
    kind: str

    def check(self) -> None:
        """Refuse what can be known to be wrong before any work, such as a model that is not there.

        Raises:
            InputError: as the work itself would, only sooner.
        """

    @model_serializer(mode="wrap")
    def _as_found(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A part from elsewhere is written by the path that finds it, so that a written recipe can be read."""
        written: dict[str, Any] = write(self)
        part = type(self)
        if "kind" in written and _is_elsewhere(part):
            written["kind"] = f"{part.__module__}:{part.__qualname__}"
        return written

    @property
    def label(self) -> str:
        """The short form, for tables and provenance: `bm25`, `dense:MODEL`."""
        value = getattr(self, self.argument) if self.argument else None
        shown = value.label if isinstance(value, Part) else value
        return f"{self.kind}:{shown}" if shown is not None else self.kind


def parts_in(part: Part) -> dict[str, Part]:
    """The parts that stand in a part's own options, alone or in lists, by option."""
    found: dict[str, Part] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        several = {f"{name}.{place}": inner for place, inner in enumerate(value)} if isinstance(value, tuple) else {}
        found |= {key: inner for key, inner in {name: value, **several}.items() if isinstance(inner, Part)}
    return found


def code_of(*things: Any) -> dict[str, dict[str, str]]:
    """The code of parts from elsewhere, to stand beside their options in what decides an artefact.

    A part of this package is left out: a newer version of it leaves what was made as it is.

    Returns:
        Under `code` the SHA-256 (hex) of the file of each class, its bases and the parts in its options included, by
        module; nothing where no part is from elsewhere.
    """
    files: dict[str, str] = {}
    for module in sorted(set(_modules_elsewhere(things))):
        path = getattr(sys.modules.get(module), "__file__", None)
        files[module] = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else ""
    return {"code": files} if files else {}


def _modules_elsewhere(value: Any) -> Iterator[str]:
    """The modules of the classes of parts, and of those in their options, that are not this package's."""
    if isinstance(value, tuple | list):
        for inner in value:
            yield from _modules_elsewhere(inner)
    elif isinstance(value, BaseModel):
        if isinstance(value, Part):
            yield from (base.__module__ for base in type(value).__mro__ if _is_elsewhere(base))
        for name in type(value).model_fields:
            yield from _modules_elsewhere(getattr(value, name))


def _is_elsewhere(part: type) -> bool:
    """Whether a class is the user's: of neither this package nor what it stands on."""
    return part.__module__.partition(".")[0] not in ("retrodistill", "pydantic", "builtins", "abc", "typing")


class OptionError(ValueError):
    """The mistakes in one part's options, carried out of pydantic whole."""

    def __init__(self, error: ValidationError, part: type[BaseModel]) -> None:
        super().__init__(str(error))
        self.error = error
        self.part = part


@cache
def table(family: str) -> dict[str, type[Part]]:
    """All parts of a family by kind, from the tables of its package's modules."""
    package_name, attribute = FAMILIES[family]
    package = importlib.import_module(package_name)
    found: dict[str, type[Part]] = {}
    for info in pkgutil.iter_modules(package.__path__, package_name + "."):
        rows = getattr(importlib.import_module(info.name), attribute, {})
        for kind, part in rows.items():
            if found.setdefault(kind, part) is not part:
                raise ValueError(f"{family} {kind!r} stands in two tables; the second is in {info.name}")
    return found


def part_class(family: str, kind: str) -> type[Part]:
    """The class behind a kind, or behind `package.module:Class`.

    Raises:
        InputError: there is no such kind, module or class, or the class is no part.
    """
    known = table(family)
    if kind in known:
        return known[kind]
    if not _elsewhere(family, kind):
        raise InputError(f"unknown {family} {kind!r}; {nearest(kind, known)}")
    module_name, _, class_name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        known_kind = "" if "." in module_name else f"; if a kind was meant: {nearest(module_name, known)}"
        raise InputError(f"{family} {kind!r} cannot be imported: {error}{known_kind}") from error
    except Exception as error:  # what a plug-in's own code gets wrong
        raise InputError(f"{family} {kind!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Part)):
        raise InputError(f"{family} {kind!r} is no retrodistill.registry.Part; derive the class from it")
    if not get_args(found.model_fields["kind"].annotation):
        raise InputError(f"{family} {kind!r} has no kind of its own; give the class `kind: Literal[NAME] = NAME`")
    return found


def _elsewhere(family: str, spec: str) -> bool:
    """Whether a spec names a class outside: `package.module:Class`, and no kind of ours before the colon."""
    module, _, name = spec.partition(":")
    path = all(part.isidentifier() for part in module.split("."))
    return path and module not in table(family) and name.isidentifier() and name[0].isupper()


def expand(family: str, spec: Any) -> dict[str, Any]:
    """Turn any form of a part into a mapping: `kind`, `kind:argument`, or a mapping whose `kind` is one of these.

    Raises:
        InputError: it is none of these, or `kind` is unknown or missing.
    """
    if isinstance(spec, str):
        spec = {"kind": spec}
    if not isinstance(spec, Mapping):
        raise InputError(f"expected a {family} such as {sorted(table(family))[0]!r}, got {spec!r}")
    written = spec.get("kind")
    if not isinstance(written, str):
        raise InputError(f"a {family} needs `kind:`; choose from {', '.join(sorted(table(family)))}")
    kind, colon, argument = written.partition(":")
    if not colon or _elsewhere(family, written):
        return dict(spec)
    part = part_class(family, kind)
    if part.argument is None:
        raise InputError(f"{family} {kind!r} takes nothing behind a colon, got {argument!r}; write {kind!r}")
    return {part.argument: argument, **spec, "kind": kind}


def build(family: str, spec: Any) -> Part:
    """Make a part from a part, its short form or its mapping.

    Raises:
        InputError: the kind is unknown or missing.
        pydantic.ValidationError: an option is unknown, missing or of the wrong type.
    """
    if isinstance(spec, Part):
        return spec
    options = expand(family, spec)
    part = part_class(family, options["kind"])
    # A class from elsewhere names its own kind; the path that found it is how it was asked for, not what it is.
    kinds = get_args(part.model_fields["kind"].annotation)
    return part.model_validate(options if options["kind"] in kinds else {**options, "kind": kinds[0]})


@dataclass(frozen=True)
class PartOf:
    """Tells a reader of annotations which family is meant."""

    family: str


def of(family: str) -> Any:
    """A pydantic field type that accepts every part of a family, in each of its forms."""

    def parse(spec: Any) -> Part:
        try:
            return build(family, spec)
        except InputError as error:
            raise ValueError(str(error)) from error
        except ValidationError as error:
            raise OptionError(error, part_class(family, expand(family, spec)["kind"])) from error

    validator: Callable[[Any], Part] = parse
    return Annotated[SerializeAsAny[Part], BeforeValidator(validator), PartOf(family)]
