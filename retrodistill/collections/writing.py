"""Writes a collection as a BEIR folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from retrodistill.collections.collection import Collection
from retrodistill.collections.texts import Texts
from retrodistill.files import atomic_folder, refuse_to_replace


def write_collection(collection: Collection, folder: Path) -> None:
    """Write corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; the folder appears when all of it is there.

    Raises:
        InputError: the folder holds something that is not ours.
    """
    refuse_to_replace(folder)
    with atomic_folder(folder) as temporary:
        _write_lines(temporary / "corpus.jsonl", _documents(collection.corpus))
        _write_lines(temporary / "queries.jsonl", _queries(collection.queries))
        (temporary / "qrels").mkdir()
        for split in collection.splits:
            rows = (
                f"{query}\t{doc}\t{grade}"
                for query, grades in collection.qrels(split).items()
                for doc, grade in grades.items()
            )
            _write_lines(temporary / "qrels" / f"{split}.tsv", _headed(rows))


def _documents(corpus: Texts) -> Iterator[str]:
    for doc in corpus.ids:
        yield json.dumps({"_id": doc, "title": corpus.title(doc), "text": corpus.body(doc)}, ensure_ascii=False)


def _queries(queries: Texts) -> Iterator[str]:
    for query in queries.ids:
        yield json.dumps({"_id": query, "text": queries.body(query)}, ensure_ascii=False)


def _headed(rows: Iterator[str]) -> Iterator[str]:
    yield "query-id\tcorpus-id\tscore"
    yield from rows


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
