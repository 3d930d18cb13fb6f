"""Cross-fitting: which part of the labels a model has not seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retrodistill import console
from retrodistill.collections import Collection
from retrodistill.errors import InputError
from retrodistill.files import digest_of, write_json
from retrodistill.models import read_json

FOLDS = "folds.json"


class Folds:
    """Which fold each labelled query is in; the model of a fold is trained on all others.

    Args:
        count: how many folds there are.
        by_text: the fold of a query, by a digest of its text, so that it is known under whatever id.
    """

    def __init__(self, count: int, by_text: dict[str, int]) -> None:
        self.count = count
        self._by_text = by_text

    @classmethod
    def of(cls, collection: Collection, split: str, count: int) -> Folds:
        """Deal the labelled queries of a split into folds of about one size.

        Queries of one text, and those that share a relevant document, are kept together: a claim and its denial, both
        answered by one abstract, would tell each other's labels. What sharing joins into more than a fold holds, as in
        collections with many relevant documents a query, is dealt out by texts alone, which is said.

        Raises:
            InputError: there are fewer groups than folds.
        """
        qrels = collection.qrels(split)
        labelled = [query for query in collection.query_ids(split) if any(grade > 0 for grade in qrels[query].values())]
        texts = {query: _digest(collection.queries.text(query)) for query in labelled}
        shared = {query: [doc for doc, grade in qrels[query].items() if grade > 0] for query in labelled}
        groups = _joined(labelled, {query: [texts[query], *map("d".__add__, shared[query])] for query in labelled})
        fit = -(-len(labelled) // count)
        apart = [query for group in groups if len(group) > fit for query in group]
        if apart:
            console.say(
                f"folds of {split}: {len(apart):,} of {len(labelled):,} queries are joined by relevant documents that "
                f"they share, more than the {fit:,} of a fold; a fold's model has seen such documents of other queries"
            )
            groups = [group for group in groups if len(group) <= fit]
            groups += _joined(apart, {query: [texts[query]] for query in apart})
        if len(groups) < count:
            raise InputError(
                f"{collection.name}, {split}: {len(labelled)} labelled queries make {len(groups)} groups that share "
                f"texts or relevant documents, too few for {count} folds; ask for fewer"
            )
        # The largest first, each to the smallest fold; among equals a digest decides, so that no order of files does.
        sizes, by_text = [0] * count, dict[str, int]()
        for group in sorted(groups, key=lambda group: (-len(group), min(texts[query] for query in group))):
            fold = sizes.index(min(sizes))
            sizes[fold] += len(group)
            by_text.update((texts[query], fold) for query in group)
        return cls(count, by_text)

    @classmethod
    def read(cls, folder: Path) -> Folds:
        """The folds of a folder of models.

        Raises:
            InputError: it has none.
        """
        path = folder / FOLDS
        if not path.is_file():
            raise InputError(f"{folder} holds no folds; expected what `train: {{folds: N, ...}}` of a round wrote")
        kept = read_json(path)
        return cls(int(kept["folds"]), {str(key): int(fold) for key, fold in kept["queries"].items()})

    def write(self, folder: Path) -> None:
        """Keep them beside the models."""
        write_json(folder / FOLDS, {"folds": self.count, "queries": self._by_text})

    @property
    def digest(self) -> str:
        """Of all that they say."""
        return digest_of([self.count, self._by_text])

    def fold_of(self, text: str) -> int | None:
        """The fold of a query, whose model has not seen its labels; None where no model has."""
        return self._by_text.get(_digest(text))

    def unseen(self, fold: int, collection: Collection, queries: Iterable[str]) -> list[str]:
        """Of some queries those that the model of a fold may be trained on."""
        return [query for query in queries if self.fold_of(collection.queries.text(query)) != fold]


def place_of(folder: Path, fold: int) -> Path:
    """Where the model of a fold lies."""
    return folder / f"fold-{fold}"


def _digest(text: str) -> str:
    return hashlib.blake2b(" ".join(text.lower().split()).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _joined(queries: list[str], marks: dict[str, list[str]]) -> list[list[str]]:
    """Groups of queries that share a mark, directly or through others."""
    parent: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for query in queries:
        for mark in marks[query]:
            parent[root(("query", query))] = root(("mark", mark))
    groups: dict[Any, list[str]] = {}
    for query in queries:
        groups.setdefault(root(("query", query)), []).append(query)
    return list(groups.values())
