"""Reads BEIR's corpus.jsonl and queries.jsonl; large files are converted once and then mapped, not held in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from retrodistill.cache import cache_folder
from retrodistill.collections.reading import Mistakes, byte_bar, numbered_lines
from retrodistill.collections.texts import SCHEMAS, Facts, Kind, KnownFacts, Texts
from retrodistill.errors import InputError
from retrodistill.files import atomic_folder, digest_of, write_json

IN_MEMORY = 64 * 1024 * 1024
FORMAT = 1  # of the converted files; another number leaves the old ones unread
_ARROW = "texts.arrow"
_EXAMPLES = {
    "document": '{"_id": "d1", "title": "", "text": "..."}',
    "query": '{"_id": "q1", "text": "..."}',
}


def read_texts(path: Path, kind: Kind, name: str, in_memory: int = IN_MEMORY) -> Texts:
    """Read a file of documents or queries, one JSON object a line.

    Args:
        path: `{"_id", "title", "text"}` or `{"_id", "text"}` a line; further fields are ignored.
        kind: `document` or `query`.
        name: the collection's name, for messages.
        in_memory: a file of more bytes is converted into an Arrow file in the cache folder, and that is mapped.

    Raises:
        InputError: naming file and line: malformed JSON, a line that is no object, fields missing or of the wrong
            type, an id that stands twice, a query without text, a file without lines. The first five are told at once.
    """
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if facts.st_size <= in_memory:
        batches = list(_batches(path, kind))
        return Texts(name, kind, pa.Table.from_batches(batches, SCHEMAS[kind]))
    key = digest_of([FORMAT, kind, str(path.resolve()), facts.st_size, facts.st_mtime_ns])
    folder = cache_folder("collections") / key[:32]
    converted = _open_converted(folder, kind, name)
    if converted is None:
        _convert(path, kind, facts.st_size, folder)
        converted = _open_converted(folder, kind, name)
    if converted is None:
        raise InputError(f"{folder}: the converted copy of {path} cannot be read back; remove that folder")
    return converted


def _open_converted(folder: Path, kind: Kind, name: str) -> Texts | None:
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        table = pa.ipc.open_file(pa.memory_map(str(folder / _ARROW))).read_all()
        return Texts(name, kind, table, KnownFacts(facts["digest"], facts["empty"]))
    # Absent or damaged: it is made again. Arrow's own errors are ValueErrors.
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _convert(path: Path, kind: Kind, size: int, folder: Path) -> None:
    try:
        with atomic_folder(folder) as temporary:
            found = Facts()
            with byte_bar(size, f"converting {path.name}") as advance, _writer(temporary / _ARROW, kind) as writer:
                for batch in _batches(path, kind, advance):
                    writer.write_batch(batch)
                    part = Texts(path.name, kind, pa.Table.from_batches([batch]))
                    found.add(part.ids, part.texts())
            write_json(temporary / "facts.json", {"digest": found.digest, "empty": found.empty, "source": str(path)})
    except OSError as error:
        raise InputError(
            f"{path}: its converted copy cannot be written to {folder.parent} ({error.strerror or error});"
            f" about {size / 1e9:.1f} GB are needed there, or set RETRODISTILL_CACHE to another folder"
        ) from error


@contextmanager
def _writer(path: Path, kind: Kind) -> Iterator[Any]:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMAS[kind]) as writer:
        yield writer


def _batches(
    path: Path, kind: Kind, on_bytes: Callable[[int], None] | None = None, rows: int = 8192, characters: int = 1 << 24
) -> Iterator[pa.RecordBatch]:
    """Arrow batches of at most `rows` rows, and not many more than `characters` characters."""
    pending: list[tuple[str, ...]] = []
    room = characters
    found = False

    def batch() -> pa.RecordBatch:
        return pa.record_batch([pa.array(column, pa.string()) for column in zip(*pending, strict=True)], SCHEMAS[kind])

    for row in _rows(path, kind, on_bytes):
        found = True
        pending.append(row)
        room -= sum(map(len, row))
        if len(pending) == rows or room <= 0:
            yield batch()
            pending, room = [], characters
    if pending:
        yield batch()
    if not found:
        raise InputError(f"{path}: the file is empty; expected one {kind} a line: {_EXAMPLES[kind]}")


def _rows(path: Path, kind: Kind, on_bytes: Callable[[int], None] | None) -> Iterator[tuple[str, ...]]:
    mistakes = Mistakes(path)
    seen: dict[str, int] = {}
    for number, line in numbered_lines(path, on_bytes):
        try:
            row = _parse(line, kind)
        except InputError as error:
            mistakes.add(number, str(error))
            continue
        first = seen.setdefault(row[0], number)
        if first != number:
            mistakes.add(number, f"the id {row[0]!r} stands in line {first} already; ids are unique")
        elif not mistakes.found:
            yield row
    mistakes.tell()


def _parse(line: str, kind: Kind) -> tuple[str, ...]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"malformed JSON ({error.msg}, column {error.colno}); expected {_EXAMPLES[kind]}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"malformed JSON ({error}); expected {_EXAMPLES[kind]}") from error
    if not isinstance(value, dict):
        raise InputError(f"got {_shown(value)}, expected an object: {_EXAMPLES[kind]}")
    key, text = _id(value, kind), _text(value, kind)
    if kind == "query":
        if not text.strip():
            raise InputError(f"the query {key!r} has an empty `text`; remove it or give it a text")
        row: tuple[str, ...] = (key, text)
    else:
        row = (key, _title(value), text)
    # Only escapes such as \\ud800 can bring half a surrogate pair, which no UTF-8 text can hold.
    if "\\u" in line and any(not _encodable(field) for field in row):
        raise InputError("an escape such as \\ud800 stands alone, which is no character; remove it")
    return row


def _id(value: dict[str, Any], kind: Kind) -> str:
    if "_id" not in value:
        raise InputError(f"the {kind} has no `_id`; expected {_EXAMPLES[kind]}")
    key = value["_id"]
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    if not isinstance(key, str):
        raise InputError(f"`_id` is {_shown(key)}, expected a string")
    if not key.strip():
        raise InputError("`_id` is empty")
    return key


def _text(value: dict[str, Any], kind: Kind) -> str:
    if "text" not in value:
        raise InputError(f"the {kind} has no `text`; expected {_EXAMPLES[kind]}")
    if not isinstance(value["text"], str):
        raise InputError(f"`text` is {_shown(value['text'])}, expected a string")
    return value["text"]


def _title(value: dict[str, Any]) -> str:
    title = value.get("title")
    if title is None:
        return ""
    if not isinstance(title, str):
        raise InputError(f"`title` is {_shown(title)}, expected a string or null")
    return title


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
