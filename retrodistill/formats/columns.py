"""The format of data sets: columns in a Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from retrodistill import files
from retrodistill.errors import InputError
from retrodistill.formats.format import Format, JudgedList, Listed, Written

SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("documents", pa.list_(pa.string())),
        ("labels", pa.list_(pa.int8())),
        ("scores", pa.list_(pa.float32())),
    ]
)
_ROWS = 1024


class Columns(Format):
    """Parquet for Hugging Face's datasets, `load_dataset("parquet", data_files=FILE)`, a row a query.

    Columns are query, documents, labels (1, 0) and scores, null where there is none. sentence-transformers' losses for
    cross-encoders on lists take query, documents and either of the other two.
    """

    kind: Literal["dataset"] = "dataset"

    @property
    def texts(self) -> bool:
        """Always."""
        return True

    def read(self, path: Path) -> Iterator[JudgedList]:
        """Rows; labels and scores may be missing."""
        try:
            file = pq.ParquetFile(path)
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file") from error
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: cannot be read as Parquet ({error})") from error
        names = set(file.schema_arrow.names)
        if missing := {"query", "documents"} - names:
            raise InputError(f"{path}: has no column {sorted(missing)[0]!r}; got {', '.join(sorted(names))}")
        with file:
            wanted = [name for name in SCHEMA.names if name in names]
            found = (row for batch in file.iter_batches(_ROWS, columns=wanted) for row in batch.to_pylist())
            for number, row in enumerate(found, start=1):
                yield self._list(row, f"{path}, row {number}")

    @staticmethod
    def _list(row: dict[str, Any], where: str) -> JudgedList:
        query, documents = row["query"], row["documents"]
        if not isinstance(query, str) or not isinstance(documents, list):
            raise InputError(f"{where}: expected a text as query and a list of texts as documents")
        beside = [row.get(name) or [None] * len(documents) for name in ("scores", "labels")]
        if any(len(values) != len(documents) for values in beside):
            raise InputError(f"{where}: labels and scores must be one for each of the {len(documents)} documents")
        return JudgedList(query, tuple(Listed(*each) for each in zip(documents, *beside, strict=True)))

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """A row a query; there is a place for everything."""
        count, rows = 0, iter(lists)
        with files.atomic_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            while some := list(islice(rows, _ROWS)):
                columns = [
                    [row.query for row in some],
                    [[doc.document for doc in row.documents] for row in some],
                    [[doc.label for doc in row.documents] for row in some],
                    [[doc.score for doc in row.documents] for row in some],
                ]
                arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
                writer.write_table(pa.table(arrays, schema=SCHEMA))
                count += len(some)
        return Written(count, Counter())


FORMATS = {"dataset": Columns}
