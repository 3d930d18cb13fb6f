"""A corpus or a set of queries: ids and texts in the order of their file, in Arrow columns that may lie on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retrodistill.errors import InputError

# Ids up to which a dictionary, which stays, is quicker than a hash table of all ids, which is made for each question.
_FEW = 1 << 16

# What `str.split` takes for white space, and nothing at all.
_SPACED = r"^$|[\x09-\x0d\x1c-\x20\x{85}\p{Z}]"

Kind = Literal["document", "query"]
SCHEMAS = {
    "document": pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())]),
    "query": pa.schema([("id", pa.string()), ("text", pa.string())]),
}


class Facts:
    """What one pass over ids and texts finds out: the digest of them in order, and how many texts are empty."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.empty = 0

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Go on with the next ids and the texts that models read under them."""
        for key, text in zip(ids, texts, strict=True):
            encoded_id, encoded = key.encode(), text.encode()
            # Lengths first: without them ("a", "bc") and ("ab", "c") would be the same bytes.
            self._sha.update(b"%d %d " % (len(encoded_id), len(encoded)) + encoded_id + encoded)
            self.empty += not text.strip()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what was added so far."""
        return self._sha.hexdigest()


@dataclass(frozen=True)
class KnownFacts:
    """Facts found out earlier, and kept beside a converted file."""

    digest: str
    empty: int


class Texts:
    """What models read: documents or queries by id and by row, without holding a mapped file in memory.

    A document is read as BEIR has it, `(title + " " + text).strip()`; a query is its text, untouched.

    Args:
        name: the collection's name, for messages.
        kind: `document` or `query`.
        table: columns as `SCHEMAS[kind]` has them; ids are unique.
        facts: digest and count of empty texts, where they are known already.
    """

    def __init__(self, name: str, kind: Kind, table: pa.Table, facts: KnownFacts | None = None) -> None:
        self.name = name
        self.kind = kind
        self._ids = table.column("id")
        self._titles = table.column("title") if kind == "document" else None
        self._bodies = table.column("text")
        self._known = facts

    @classmethod
    def documents(cls, name: str, rows: Iterable[tuple[str, str, str]]) -> Texts:
        """Make a corpus of (id, title, text)."""
        return cls._of(name, "document", rows)

    @classmethod
    def queries(cls, name: str, rows: Iterable[tuple[str, str]]) -> Texts:
        """Make queries of (id, text)."""
        return cls._of(name, "query", rows)

    @classmethod
    def _of(cls, name: str, kind: Kind, rows: Iterable[tuple[str, ...]]) -> Texts:
        schema = SCHEMAS[kind]
        columns = list(zip(*rows, strict=True)) or [()] * len(schema)
        made = cls(name, kind, pa.table([pa.array(column, pa.string()) for column in columns], schema=schema))
        if len(made._rows) != len(made):
            raise InputError(f"{name}: a {kind} id stands twice; ids are unique")
        return made

    def with_queries(self, rows: Sequence[tuple[str, str]]) -> Texts:
        """These queries, and more (id, text) behind them."""
        own = pa.table([self._ids, self._bodies], schema=SCHEMAS["query"])
        ids, texts = zip(*rows, strict=True) if rows else ((), ())
        more = pa.table([pa.array(ids, pa.string()), pa.array(texts, pa.string())], schema=SCHEMAS["query"])
        joined = Texts(self.name, "query", pa.concat_tables([own, more]))
        if len(joined._rows) != len(joined):
            raise InputError(f"{self.name}: a query id stands twice; ids are unique")
        return joined

    def __len__(self) -> int:
        return len(self._bodies)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    @cached_property
    def ids(self) -> list[str]:
        """The ids, in the order of the file."""
        return self._ids.to_pylist()

    def spaced(self) -> str | None:
        """The first id that is empty or holds white space; None where there is none."""
        found = pc.index(pc.match_substring_regex(self._ids, _SPACED), True).as_py()
        return None if found < 0 else self._ids[found].as_py()

    def places(self, keys: pa.ChunkedArray) -> np.ndarray:
        """Where each of some ids stands, int32 (n,); -1 for one that is not here. Many cost no Python string each."""
        if len(keys) <= _FEW:
            return np.array([self._rows.get(key, -1) for key in keys.to_pylist()], dtype=np.int32)
        return pc.index_in(keys, value_set=self._ids).fill_null(-1).to_numpy()

    def ids_of(self, rows: Sequence[int] | np.ndarray | slice) -> list[str]:
        """The ids of some rows, without a Python string for every other."""
        return self._pick(self._ids, rows)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.ids)}

    def row(self, key: str) -> int:
        """The place of an id in `ids`.

        Raises:
            InputError: there is no such id.
        """
        try:
            return self._rows[key]
        except KeyError:
            raise InputError(f"{self.name} has no {self.kind} {key!r}") from None

    def title(self, key: str) -> str:
        """A document's title, which may be empty; a query has none and gives an empty one."""
        return "" if self._titles is None else self._titles[self.row(key)].as_py()

    def body(self, key: str) -> str:
        """The `text` field as it stands in the file."""
        return self._bodies[self.row(key)].as_py()

    def text(self, key: str) -> str:
        """What a model reads of one document or query."""
        return self.texts([self.row(key)])[0]

    def texts(self, rows: Sequence[int] | np.ndarray | slice | None = None) -> list[str]:
        """What a model reads of many documents or queries: all of them, a slice, or rows in any order."""
        bodies = self._pick(self._bodies, rows)
        if self._titles is None:
            return bodies
        titles = self._pick(self._titles, rows)
        return [f"{title} {body}".strip() for title, body in zip(titles, bodies, strict=True)]

    @staticmethod
    def _pick(column: pa.ChunkedArray, rows: Sequence[int] | np.ndarray | slice | None) -> list[str]:
        if rows is None:
            return column.to_pylist()
        if isinstance(rows, slice):
            picked = range(len(column))[rows]
            if picked.step == 1:
                return column.slice(picked.start, len(picked)).to_pylist()
            rows = picked
        # One by one: `take` on a column of many chunks first joins them, which would read a mapped file into memory.
        return [column[int(row)].as_py() for row in rows]

    @property
    def sequence(self) -> Sequence[str]:
        """What a model reads of all of them, read when asked for."""
        return _Sequence(self)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the ids and the texts that models read, in order."""
        return self._facts.digest

    @cached_property
    def titles_digest(self) -> str:
        """SHA-256 (hex) over the titles in order: where one ends and its text begins, `digest` does not tell."""
        sha = hashlib.sha256()
        for start in range(0, 0 if self._titles is None else len(self), 8192):
            sha.update(json.dumps(self._pick(self._titles, slice(start, start + 8192))).encode())
        return sha.hexdigest()

    @property
    def empty(self) -> int:
        """How many have nothing to read: BEIR's corpora hold such documents, and they are kept."""
        return self._facts.empty

    @cached_property
    def _facts(self) -> Facts | KnownFacts:
        if self._known is not None:
            return self._known
        facts = Facts()
        for start in range(0, len(self), 8192):
            part = slice(start, start + 8192)
            facts.add(self._pick(self._ids, part), self.texts(part))
        return facts


class _Sequence(Sequence[str]):
    """Texts in their order, of which only those asked for are in memory."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, rows: int) -> str: ...
    @overload
    def __getitem__(self, rows: slice) -> list[str]: ...
    def __getitem__(self, rows: int | slice) -> str | list[str]:
        if isinstance(rows, slice):
            return self._texts.texts(rows)
        return self._texts.texts([range(len(self))[rows]])[0]
