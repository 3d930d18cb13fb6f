"""The collection that needs no download: docstrings of the standard library and numpy, a summary asking for its body.

Sources are read with `ast`, never imported. A document is the qualified name and signature of a public module, class,
function or method with the body of its docstring; its query is the summary line, which the document does not hold.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from retrodistill.cache import cache_folder
from retrodistill.console import track
from retrodistill.errors import InputError
from retrodistill.files import atomic_folder, digest_of, digest_of_file

NAME = "builtin/pydocs"
MIN_QUERY_WORDS = 4
MIN_BODY_WORDS = 11

_SKIPPED = {"test", "tests", "idlelib", "turtledemo", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}
_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """A tree of Python files; `package` is the name of its root, empty for the standard library."""

    root: Path
    package: str


class Entry(NamedTuple):
    """One document and the query that it answers."""

    name: str
    title: str
    body: str
    query: str


def folder() -> Path:
    """Give the built collection as a BEIR folder in the cache, building it the first time (seconds).

    What is built depends on the versions of Python and numpy, so those key the folder.

    Raises:
        InputError: numpy's sources are not found, or the cache folder cannot be written to.
    """
    found = sources()
    versions = [sys.version, importlib.metadata.version("numpy"), digest_of_file(Path(__file__))]
    target = cache_folder("builtin") / f"pydocs-{digest_of([versions, [str(source.root) for source in found]])[:16]}"
    if not target.is_dir():
        try:
            write(target, build(found))
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
    return target


def sources() -> list[Source]:
    """Where this machine keeps the standard library and numpy."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        raise InputError(f"{NAME} needs numpy's sources, which are not installed: pip install numpy")
    return [Source(Path(sysconfig.get_path("stdlib")), ""), Source(Path(spec.origin).parent, "numpy")]


def split_of(name: str) -> str:
    """The split of a qualified name, by its hash: about 80 % train, 10 % dev, 10 % test."""
    bucket = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "dev"}.get(bucket, "train")


def build(found: Iterable[Source]) -> list[Entry]:
    """Read all docstrings, in the order of their names, without short ones, doubles and those that leak their query."""
    files = [(module, path) for source in found for module, path in _modules(source)]
    candidates: dict[str, Entry] = {}
    for module, path in track(files, len(files), f"reading {NAME}", "files"):
        for entry in _entries(module, path):
            candidates.setdefault(entry.name, entry)
    kept: list[Entry] = []
    queries: set[str] = set()
    bodies: set[str] = set()
    for _, entry in sorted(candidates.items()):
        query, body = _plain(entry.query), _plain(entry.body)
        short = len(query.split()) < MIN_QUERY_WORDS or len(body.split()) < MIN_BODY_WORDS
        # A summary that stood for two documents would be an ambiguous query: the first keeps it.
        if short or query in queries or body in bodies or query in f"{_plain(entry.title)} {body}":
            continue
        queries.add(query)
        bodies.add(body)
        kept.append(entry)
    return kept


def write(target: Path, entries: Iterable[Entry]) -> None:
    """Write a BEIR folder. A query's id is `q/NAME`: an id equal to its document's would be dropped as a self-match."""
    entries = list(entries)
    with atomic_folder(target) as temporary:
        (temporary / "qrels").mkdir()
        with (temporary / "corpus.jsonl").open("w", encoding="utf-8") as stream:
            for entry in entries:
                stream.write(json.dumps({"_id": entry.name, "title": entry.title, "text": entry.body}) + "\n")
        with (temporary / "queries.jsonl").open("w", encoding="utf-8") as stream:
            for entry in entries:
                stream.write(json.dumps({"_id": f"q/{entry.name}", "text": entry.query}) + "\n")
        for split in ("train", "dev", "test"):
            names = [entry.name for entry in entries if split_of(entry.name) == split]
            if names:
                lines = ["query-id\tcorpus-id\tscore", *(f"q/{name}\t{name}\t1" for name in names)]
                (temporary / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _modules(source: Source) -> Iterator[tuple[str, Path]]:
    for where, folders, files in os.walk(source.root):
        # Left out before they are walked: site-packages holds more files than all the rest.
        folders[:] = [name for name in sorted(folders) if _is_wanted(name, source)]
        for file in sorted(files):
            path = Path(where, file)
            if path.suffix != ".py" or not (file == "__init__.py" or _is_wanted(path.stem, source)):
                continue
            parts = path.parent.relative_to(source.root).parts
            parts = parts if file == "__init__.py" else (*parts, path.stem)
            module = ".".join([source.package, *parts] if source.package else parts)
            if module:
                yield module, path


def _is_wanted(name: str, source: Source) -> bool:
    # numpy keeps what it makes public in modules with private names (numpy.lib._function_base_impl).
    private = name.startswith("_") and not source.package
    return name.isidentifier() and name not in _SKIPPED and not private


def _entries(module: str, path: Path) -> Iterator[Entry]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old sources hold escapes that newer Pythons warn of
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            return
    yield from _documented(tree, module)


def _documented(node: _Definition, name: str) -> Iterator[Entry]:
    docstring = ast.get_docstring(node)
    if docstring:
        query, body = _split_docstring(docstring.encode("utf-8", "replace").decode())
        yield Entry(name, name + _signature(node), body, query)
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in _definitions(node.body):
            if not child.name.startswith("_"):
                yield from _documented(child, f"{name}.{child.name}")


def _definitions(body: Iterable[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Definitions of a body, those behind `if` and `try` included."""
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
        elif isinstance(statement, ast.If | ast.Try):
            handlers = statement.handlers if isinstance(statement, ast.Try) else []
            for block in (statement.body, *(handler.body for handler in handlers), statement.orelse):
                yield from _definitions(block)


def _signature(node: _Definition) -> str:
    return f"({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""


def _split_docstring(docstring: str) -> tuple[str, str]:
    """The summary on one line, and the rest; a line that ends a sentence ends the summary, as its paragraph does."""
    lines = docstring.strip().split("\n")
    ends = (i for i, line in enumerate(lines) if not line.strip() or re.search(r"[.!?:]\s*$", line))
    end = next(ends, len(lines) - 1) + 1
    return " ".join(" ".join(lines[:end]).split()), "\n".join(lines[end:]).strip()


def _plain(text: str) -> str:
    """Text as it is compared: lower case, single spaces, without the full stop at its end."""
    return " ".join(text.lower().split()).rstrip(".")
