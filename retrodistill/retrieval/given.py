"""Dense vectors that the user brings: of any model, made anywhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from retrodistill.emissions import Emission, pair_scores
from retrodistill.errors import InputError
from retrodistill.files import digest_of_file
from retrodistill.indexing.index import BuiltIndex, search
from retrodistill.indexing.mapped import Mapped
from retrodistill.retrieval.retriever import Retriever
from retrodistill.runs import Run, id_order

if TYPE_CHECKING:
    from retrodistill.collections import Collection, Texts

_DOCUMENTS, _QUERIES = "documents.npy", "queries.npy"


class GivenVectors(Retriever):
    """Exact search by vectors in a folder, of any model, compared by their inner product.

    `documents.npy` and `queries.npy` have a row for each of the collection's documents and queries, in the order of
    corpus.jsonl and queries.jsonl, float32 or float16. They are read from disk, never held whole.
    """

    argument: ClassVar[str | None] = "path"
    kind: Literal["vectors"] = "vectors"
    path: Path

    @property
    def emits(self) -> Emission:
        """Dense vectors."""
        return "dense"

    def check(self) -> None:
        """Find the files."""
        missing = [name for name in (_DOCUMENTS, _QUERIES) if not (self.path / name).is_file()]
        if missing:
            raise InputError(
                f"{self.path}: there is no {' and no '.join(missing)}; expected {_DOCUMENTS} and {_QUERIES}, "
                "a row a document and a query in the order of the collection's files"
            )

    def open(self, collection: Collection) -> GivenSearcher:
        """Map the files.

        Raises:
            InputError: they are missing, are no matrices, or do not fit the collection or each other.
        """
        self.check()
        return GivenSearcher(self.path, collection)


class GivenSearcher:
    """Given vectors of one collection."""

    pairs_a_part = 65_536

    def __init__(self, folder: Path, collection: Collection) -> None:
        self.folder = folder
        self.collection = collection
        self.document_vectors = _mapped(folder / _DOCUMENTS, collection.corpus, "documents")
        self._queries = _mapped(folder / _QUERIES, collection.queries, "queries")
        if self._queries.shape[1] != self.document_vectors.shape[1]:
            raise InputError(
                f"{folder}: queries of {self._queries.shape[1]} dimensions cannot be compared with documents of "
                f"{self.document_vectors.shape[1]}"
            )
        self._index: BuiltIndex = Mapped().build(self.document_vectors)
        self._measured: dict[str, Any] = {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The files' content, and the texts that their rows stand for."""
        files = [digest_of_file(self.folder / name) for name in (_DOCUMENTS, _QUERIES)]
        return {"kind": "vectors", "files": files, "collection": self.collection.digest}

    @property
    def details(self) -> dict[str, Any]:
        """The folder, and queries searched a second once there was a search."""
        return {"system": "given vectors", "path": str(self.folder), **self._measured}

    @cached_property
    def _order(self) -> np.ndarray:
        return id_order(self.collection.corpus.ids)

    def use(self, built: BuiltIndex) -> None:
        """Search another index than the exact one on disk."""
        self._index = built

    def query_vectors(self, query_ids: Sequence[str]) -> np.ndarray:
        """The rows of some queries, shape (queries, dimensions)."""
        rows = np.fromiter(map(self.collection.queries.row, query_ids), dtype=np.int64, count=len(query_ids))
        return np.asarray(self._queries[rows], dtype=np.float32)

    def query_text(self, query_id: str) -> str:
        """What the vector is of, as far as we know."""
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id: str) -> str:
        """What the vector is of, as far as we know."""
        return self.collection.corpus.text(doc_id)

    def search(self, query_ids: Sequence[str], depth: int) -> Run:
        """The nearest documents of each query."""
        order = self._order
        began = time.perf_counter()
        found = search(self._index, self.collection.corpus.ids, self.query_vectors(query_ids), depth, order)
        self._measured["search_queries_per_second"] = len(query_ids) / (time.perf_counter() - began)
        return dict(zip(query_ids, found, strict=True))

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """The inner product of each pair, float32, shape (pairs,)."""
        queries = list(dict.fromkeys(query_ids))
        place = {query: row for row, query in enumerate(queries)}
        left = np.fromiter(map(place.__getitem__, query_ids), dtype=np.int64, count=len(query_ids))
        right = np.fromiter(map(self.collection.corpus.row, doc_ids), dtype=np.int64, count=len(doc_ids))
        return pair_scores(self.query_vectors(queries), self.document_vectors, left, right)


def _mapped(path: Path, texts: Texts, what: str) -> np.ndarray:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as a matrix ({error}); write it by numpy.save") from error
    if vectors.ndim != 2 or vectors.dtype not in (np.float32, np.float16):
        raise InputError(
            f"{path}: got {vectors.dtype} of shape {vectors.shape}, expected float32 or float16, a row a vector"
        )
    if len(vectors) != len(texts):
        raise InputError(f"{path}: got {len(vectors):,} rows for the {len(texts):,} {what} of {texts.name}")
    return vectors


RETRIEVERS = {"vectors": GivenVectors}
