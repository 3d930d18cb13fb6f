"""Retrievers that search nothing: a run file that another system wrote, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from retrodistill.errors import InputError
from retrodistill.files import digest_of_file
from retrodistill.retrieval.retriever import Retriever
from retrodistill.runs import Run, cut, read_run

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class RunFile(Retriever):
    """The lists of a TREC run file."""

    argument: ClassVar[str | None] = "path"
    kind: Literal["run"] = "run"
    path: Path

    def check(self) -> None:
        """Find the file."""
        if not self.path.is_file():
            raise InputError(f"run file {self.path}: no such file; expected lines `query Q0 document rank score tag`")

    def open(self, collection: Collection) -> RunFileSearcher:
        """Find the file; it is read when first asked."""
        self.check()
        return RunFileSearcher(self.path, collection)


class RunFileSearcher:
    """The lists of a run file, for a collection's queries."""

    def __init__(self, path: Path, collection: Collection) -> None:
        self.path = path
        self.collection = collection

    @property
    def identity(self) -> dict[str, Any]:
        """The file's content."""
        return {"kind": "run", "file": digest_of_file(self.path)}

    @property
    def details(self) -> dict[str, Any]:
        """The file."""
        return {"system": "run file", "path": str(self.path)}

    @cached_property
    def run(self) -> Run:
        """The whole file."""
        return read_run(self.path)

    def search(self, query_ids: Sequence[str], depth: int) -> Run:
        """The file's first `depth` documents of each query; none for a query that the file leaves out.

        Raises:
            InputError: the file has none of the queries, or names documents that the collection does not hold.
        """
        if query_ids and not any(query in self.run for query in query_ids):
            raise InputError(
                f"{self.path}: none of the {len(query_ids)} queries asked for is in it; has {next(iter(self.run))!r}, "
                f"asked is {query_ids[0]!r}; is it a run of another collection or split?"
            )
        run = {query: cut(self.run.get(query, {}), depth) for query in query_ids}
        unknown = [(query, doc) for query, found in run.items() for doc in found if doc not in self.collection.corpus]
        if unknown:
            query, doc = unknown[0]
            raise InputError(
                f"{self.path}: {len(unknown)} documents are not in {self.collection.name}, the first is {doc!r} "
                f"under query {query!r}; is it a run of another collection?"
            )
        return run


class Random(Retriever):
    """Documents drawn by chance, the same ones for the same seed: easy negatives, and the floor of every metric."""

    kind: Literal["random"] = "random"
    seed: int = 0

    def open(self, collection: Collection) -> RandomSearcher:
        """Nothing to prepare."""
        return RandomSearcher(self.seed, collection)


class RandomSearcher:
    """Chance, over one collection."""

    def __init__(self, seed: int, collection: Collection) -> None:
        self.seed = seed
        self.collection = collection

    @property
    def identity(self) -> dict[str, Any]:
        """The seed and the corpus that is drawn from."""
        return {"kind": "random", "seed": self.seed, "corpus": self.collection.corpus.digest}

    @property
    def details(self) -> dict[str, Any]:
        """The seed."""
        return {"system": "random", "seed": self.seed}

    def search(self, query_ids: Sequence[str], depth: int) -> Run:
        """`depth` documents a query, without repetition; a query's draw does not depend on the others asked."""
        ids = self.collection.corpus.ids
        run = Run()
        for query in query_ids:
            generator = np.random.default_rng([self.seed, *query.encode()])
            rows = generator.choice(len(ids), size=min(depth, len(ids)), replace=False)
            run[query] = {ids[row]: 1.0 / (place + 1) for place, row in enumerate(rows)}
        return run


RETRIEVERS: dict[str, type[Retriever]] = {"run": RunFile, "random": Random}
