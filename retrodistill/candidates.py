"""What mining hands on: which documents stand against each query, who found them, and what the labels say."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrodistill import files
from retrodistill.cache import cache_folder
from retrodistill.errors import InputError, Problems
from retrodistill.runs import Run

if TYPE_CHECKING:
    from retrodistill.collections.texts import Texts

# The source of a labelled positive that no retriever found.
QRELS = "qrels"

# Rows of a file that is read whole, about 50 MB; a larger one is mapped.
IN_MEMORY = 1 << 20
_ARROW = "candidates.arrow"

# Rows that are converted, checked or hashed at once.
_ROWS_AT_ONCE = 1 << 17

SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float32()),
        ("label", pa.int32()),
    ]
)
# How much a document counts in training, where mining weighed it; a table need not have it.
WEIGHT = pa.field("weight", pa.float32())


class Candidate(NamedTuple):
    """One document that stands against a query.

    `source` names those who found it, joined by "+", or is "qrels" for a labelled positive that none of them found.
    `rank` is the best over the sources, from 1, and `score` that source's; a row of "qrels" has rank 0 and score NaN.
    `label` is the grade of the qrels, None where nobody judged.
    """

    doc_id: str
    source: str
    rank: int
    score: float
    label: int | None


class Candidates:
    """One row a (query, document), the rows of a query together: the artefact of `mine` that scoring and training read.

    Attributes:
        table: Arrow table with the columns of `SCHEMA`; `Candidate` tells what they mean; and `WEIGHT`, if documents
            are weighed. Where a query's rows were apart, they are brought together at the first of them, otherwise the
            order is kept.
    """

    def __init__(self, table: pa.Table) -> None:
        starts = _starts(table)
        if pc.count_distinct(_at(table, starts)).as_py() < len(starts):
            # Codes number the queries by appearance.
            codes = table.column("query_id").combine_chunks().dictionary_encode().indices.to_numpy()
            table = table.take(pa.array(np.argsort(codes, kind="stable")))
            starts = _starts(table)
        self.table = table
        self._offsets = np.append(starts, table.num_rows).astype(np.int64)

    @classmethod
    def of(cls, rows: Mapping[str, Sequence[Candidate | tuple[str, str, int, float, int | None]]]) -> Candidates:
        """Build from rows by query, each (doc_id, source, rank, score, label); a query without rows is not kept.

        Raises:
            InputError: a document stands twice under a query, or a rank or score cannot be.
        """
        flat = [(query, *row) for query, documents in rows.items() for row in documents]
        columns = list(zip(*flat, strict=True)) or [()] * len(SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        return cls(_checked(pa.table(arrays, schema=SCHEMA), "candidates"))

    @classmethod
    def read(cls, path: Path, in_memory: int = IN_MEMORY) -> Candidates:
        """Read a Parquet file of candidates.

        Args:
            path: the file.
            in_memory: a file of more rows is converted into an Arrow file in the cache folder, and that is mapped.

        Raises:
            InputError: the file is missing, is no Parquet, has other columns, or rows that cannot be: all of them told
                at once, with their row numbers.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(f"{path}: no such file; `retrodistill mine ... --out {path}` writes it")
        try:
            if pq.read_metadata(path).num_rows > in_memory:
                return _mapped(path)
            table = pq.ParquetFile(path).read()
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{path}: cannot be read as Parquet ({error}); expected a file that `retrodistill mine` wrote"
            ) from error
        return cls(_checked(_typed(table, path), path))

    def write(self, path: Path) -> None:
        """Write as Parquet, whole or not at all."""
        with files.atomic_file(Path(path)) as temporary:
            pq.write_table(self.table, temporary, compression="zstd", use_dictionary=["query_id", "source"])

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def offsets(self) -> np.ndarray:
        """Where each query's rows start, and the end: int64, shape (queries + 1,)."""
        return self._offsets

    @cached_property
    def queries(self) -> list[str]:
        """Query ids, each once, in the order of the rows."""
        return _at(self.table, self._offsets[:-1]).to_pylist()

    @cached_property
    def query_ids(self) -> list[str]:
        """The query id of each row."""
        return self.table.column("query_id").to_pylist()

    @cached_property
    def doc_ids(self) -> list[str]:
        """The document id of each row."""
        return self.table.column("doc_id").to_pylist()

    def query_rows(self, queries: Texts) -> np.ndarray:
        """Where each query stands in a collection's queries: int64 (queries,).

        Raises:
            InputError: a query is not there.
        """
        return _places("query_id", _at(self.table, self._offsets[:-1]), queries).astype(np.int64)

    def doc_rows(self, corpus: Texts) -> np.ndarray:
        """Where each row's document stands in a corpus: int32 (rows,).

        Raises:
            InputError: a document is not there.
        """
        return _places("doc_id", self.table.column("doc_id"), corpus)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Best rank over the sources, from 1; 0 where no source found the document: int32, shape (rows,)."""
        return self.table.column("rank").to_numpy()

    @cached_property
    def scores(self) -> np.ndarray:
        """The best-ranking source's score, NaN where none found the document: float32, shape (rows,)."""
        return self.table.column("score").to_numpy()

    @cached_property
    def labels(self) -> np.ndarray:
        """The grade of the qrels, NaN where nobody judged: float32, shape (rows,)."""
        grades = self.table.column("label").cast(pa.float32(), safe=False)
        return grades.fill_null(np.nan).to_numpy()

    @cached_property
    def weights(self) -> np.ndarray | None:
        """How much each row counts in training: float32, shape (rows,); None where all count alike."""
        return self.table.column(WEIGHT.name).to_numpy() if WEIGHT.name in self.table.column_names else None

    def weighed(self, weights: np.ndarray) -> Candidates:
        """The same rows with weights, (rows,), of their own.

        Raises:
            InputError: a weight is no number or is below 0.
        """
        bare = self.table.select(SCHEMA.names)
        return Candidates(_checked(bare.append_column(WEIGHT, pa.array(weights, pa.float32())), "candidates"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the rows in their order: the same however a file encodes or chunks them."""
        hashed = hashlib.sha256(str(len(self)).encode())
        for name in ("query_id", "doc_id", "source"):
            column = self.table.column(name)
            for chunk in column.chunks:
                hashed.update(pc.binary_length(chunk).to_numpy().astype("<i8"))
            for chunk in column.chunks:
                hashed.update(_characters(chunk))
        label = self.table.column("label")
        for chunk in self.table.column("rank").chunks:
            hashed.update(chunk.to_numpy().astype("<i4"))
        for chunk in self.table.column("score").chunks:
            scores = chunk.to_numpy()
            # All NaNs are one.
            hashed.update(np.where(np.isnan(scores), np.float32(np.nan), scores).astype("<f4").tobytes())
        for chunk in label.chunks:
            hashed.update(chunk.is_null().to_numpy(zero_copy_only=False))
        for chunk in label.chunks:
            hashed.update(chunk.fill_null(0).to_numpy().astype("<i4"))
        if self.weights is not None:
            hashed.update(self.weights.astype("<f4").tobytes())
        return hashed.hexdigest()

    def select(self, queries: Collection[str]) -> Candidates:
        """The rows of some queries, in the order of this table; a query that has no rows here has none there."""
        chosen = pc.is_in(self.table.column("query_id"), value_set=pa.array(list(queries), pa.string()))
        return Candidates(self.table.filter(chosen))

    def to_run(self) -> Run:
        """The candidates as a ranking by their scores; rows without a score, those of "qrels" alone, are left out.

        Scores of several sources in one query are on scales of their own: rank by them only where the source is one.
        """
        run: Run = {query: {} for query in self.queries}
        for query, document, score in zip(self.query_ids, self.doc_ids, self.scores.tolist(), strict=True):
            if score == score:  # not NaN
                run[query][document] = score
        return run


def _characters(chunk: pa.StringArray) -> memoryview:
    """The UTF-8 of all strings of an array, one after another, as they lie in memory or on disk."""
    _, offsets, data = chunk.buffers()
    if not len(chunk) or data is None:
        return memoryview(b"")
    first, last = np.frombuffer(offsets, dtype=np.int32)[[chunk.offset, chunk.offset + len(chunk)]].tolist()
    return memoryview(data)[first:last]


def _starts(table: pa.Table) -> np.ndarray:
    """Rows where another query begins, the first among them: int64."""
    column = table.column("query_id")
    if not len(column):
        return np.empty(0, dtype=np.int64)
    changes = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
    return np.append(0, np.flatnonzero(changes.to_numpy()) + 1)


def _at(table: pa.Table, rows: np.ndarray) -> pa.ChunkedArray:
    """The query ids of some rows, in ascending order."""
    wanted = np.zeros(table.num_rows, dtype=bool)
    wanted[rows] = True
    # unlike `take`, a filter does not join the chunks of a column first
    return table.column("query_id").filter(pa.array(wanted))


def _places(name: str, column: pa.ChunkedArray, texts: Texts) -> np.ndarray:
    found = texts.places(column)
    missing = np.flatnonzero(found < 0)
    if len(missing):
        raise InputError(
            f"candidates: {name} {column[int(missing[0])].as_py()!r} is not in the collection; "
            "were they mined from another one?"
        )
    return found


def _schema(names: Collection[str]) -> pa.Schema:
    """That of candidates whose columns have these names: with weights, if there are any."""
    return SCHEMA.append(WEIGHT) if WEIGHT.name in names else SCHEMA


def _typed(table: pa.Table, where: object) -> pa.Table:
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise InputError(
            f"{where}: got the columns {', '.join(table.column_names) or '(none)'}, "
            f"expected {', '.join(SCHEMA.names)}; missing: {', '.join(missing)}"
        )
    columns, problems = [], []
    schema = _schema(table.column_names)
    for field in schema:
        try:
            columns.append(table.column(field.name).cast(field.type))
        except pa.ArrowException as error:
            got = table.schema.field(field.name).type
            problems.append(f"column {field.name}: got {got}, expected {field.type} ({error})")
    if problems:
        raise Problems(f"{where}: the columns are not those of candidates", problems)
    return pa.table(columns, schema=schema)


def _checked(table: pa.Table, where: object) -> pa.Table:
    """The same table, once its rows are known to be such as can be.

    Raises:
        Problems: naming the first row (from 1) of each kind of mistake.
    """
    problems = []
    for name in table.column_names:
        if name == "label":
            continue
        empty = _first(pc.is_null(table.column(name)))
        if empty is not None:
            problems.append(f"row {empty + 1}: {name} is null; only label may be")
    if not problems:
        low = _first(pc.less(table.column("rank"), 0))
        if low is not None:
            problems.append(f"row {low + 1}: rank {table['rank'][low]}, expected 1 or more, or 0 for {QRELS!r}")
        endless = _first(pc.is_inf(table.column("score")))
        if endless is not None:
            problems.append(f"row {endless + 1}: score {table['score'][endless]}, expected a number, or NaN for none")
        if WEIGHT.name in table.column_names:
            weights = table.column(WEIGHT.name)
            odd = _first(pc.or_(pc.invert(pc.is_finite(weights)), pc.less(weights, 0)))
            if odd is not None:
                problems.append(f"row {odd + 1}: weight {weights[odd]}, expected a number of 0 or more")
        twice = pa.concat_tables([_twice(part) for part in _whole_queries(table)])
        if twice.num_rows:
            query, document = twice["query_id"][0].as_py(), twice["doc_id"][0].as_py()
            problems.append(
                f"{twice.num_rows} pairs stand more than once, such as query {query!r} with document {document!r}; "
                "keep one row of each"
            )
    if problems:
        raise Problems(f"{where}: these rows are no candidates", problems)
    return table


def _whole_queries(table: pa.Table) -> Iterator[pa.Table]:
    """The table in parts that hold all rows of their queries."""
    starts = _starts(table)
    if pc.count_distinct(_at(table, starts)).as_py() < len(starts):
        yield table
        return
    begin = 0
    while begin < table.num_rows:
        beyond = np.searchsorted(starts, begin + _ROWS_AT_ONCE)
        end = int(starts[beyond]) if beyond < len(starts) else table.num_rows
        yield table.slice(begin, end - begin)
        begin = end
    if not table.num_rows:
        yield table


def _twice(table: pa.Table) -> pa.Table:
    pairs = table.group_by(["query_id", "doc_id"]).aggregate([([], "count_all")])
    return pairs.filter(pc.greater(pairs.column("count_all"), 1))


def _mapped(path: Path) -> Candidates:
    """A large file, converted and checked once, of which only what is asked for is in memory."""
    facts = path.stat()
    folder = cache_folder("candidates") / files.digest_of([str(path.resolve()), facts.st_size, facts.st_mtime_ns])[:32]
    try:
        return Candidates(_opened(folder / _ARROW))
    except (OSError, pa.ArrowException):
        pass  # absent or damaged: it is made again
    file = pq.ParquetFile(path)
    schema = _schema(file.schema_arrow.names)
    with files.atomic_folder(folder) as temporary:
        with pa.OSFile(str(temporary / _ARROW), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                writer.write_table(_typed(pa.Table.from_batches([batch]), path))
        _checked(_opened(temporary / _ARROW), path)
    return Candidates(_opened(folder / _ARROW))


def _opened(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _first(mask: pa.ChunkedArray) -> int | None:
    found = pc.index(mask, True).as_py()
    return None if found < 0 else found
