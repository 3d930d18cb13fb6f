"""Formats that hold the texts themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from retrodistill.errors import InputError
from retrodistill.formats.format import Format, JudgedList, Listed, dumped, field, number, objects, write_lines


class TextFormat(Format):
    """Queries and documents as texts, as models read them: a document's title before its text."""

    @property
    def texts(self) -> bool:
        """Always."""
        return True


class FlagEmbedding(TextFormat):
    """FlagEmbedding: `{"query": ..., "pos": [...], "neg": [...], "pos_scores": [...], "neg_scores": [...]}` a line."""

    kind: Literal["flagembedding"] = "flagembedding"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """Texts, with their scores where the file has them."""
        for where, row in objects(path):
            documents: list[Listed] = []
            for name, label in (("pos", 1), ("neg", 0)):
                texts = field(row, name, list, where)
                scores = row.get(f"{name}_scores") or [None] * len(texts)
                if len(scores) != len(texts):
                    raise InputError(f"{where}: got {len(scores)} {name}_scores for {len(texts)} texts in {name!r}")
                documents += [
                    Listed(str(text), None if score is None else number(score, where), label)
                    for text, score in zip(texts, scores, strict=True)
                ]
            yield JudgedList(field(row, "query", str, where), tuple(documents))

    def write(self, lists: Iterable[JudgedList], path: Path) -> int:
        """A line a query that has a positive; scores where every document of it has one."""

        def found() -> Iterator[str]:
            for query, documents, _ in lists:
                sides = {"pos": [d for d in documents if d.label], "neg": [d for d in documents if not d.label]}
                if not sides["pos"]:
                    continue
                row: dict[str, Any] = {"query": query} | {
                    name: [d.document for d in side] for name, side in sides.items()
                }
                if all(doc.score is not None for doc in documents):
                    row |= {f"{name}_scores": [d.score for d in side] for name, side in sides.items()}
                yield dumped(row)

        return write_lines(path, found())


class Tevatron(TextFormat):
    """Tevatron: `{"query_id", "query", "positive_passages": [{docid, title, text}], "negative_passages"}` a line."""

    kind: Literal["tevatron"] = "tevatron"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """Texts, titles before them, and the ids; where they are not the collection's, texts alone count."""
        for where, row in objects(path):
            documents = []
            for name, label in (("positive_passages", 1), ("negative_passages", 0)):
                for passage in field(row, name, list, where):
                    if not isinstance(passage, dict):
                        raise InputError(
                            f"{where}: {name!r} holds {type(passage).__name__}, expected objects with text"
                        )
                    text = f"{passage.get('title') or ''} {field(passage, 'text', str, where)}".strip()
                    documents.append(Listed(text, None, label, _id_in(passage, "docid")))
            yield JudgedList(field(row, "query", str, where), tuple(documents), _id_in(row, "query_id"))

    def write(self, lists: Iterable[JudgedList], path: Path) -> int:
        """A line a query that has a positive. Scores have no place in it."""

        def found() -> Iterator[str]:
            for query, documents, name in lists:
                if not any(doc.label for doc in documents):
                    continue
                sides = {
                    side: [
                        {"docid": doc.name, "title": "", "text": doc.document}
                        for doc in documents
                        if bool(doc.label) is wanted
                    ]
                    for side, wanted in (("positive_passages", True), ("negative_passages", False))
                }
                yield dumped({"query_id": name, "query": query, **sides})

        return write_lines(path, found())


def _id_in(row: dict[str, Any], name: str) -> str | None:
    return None if row.get(name) is None else str(row[name])


class Triplets(TextFormat):
    """sentence-transformers' triplets: `{"anchor": ..., "positive": ..., "negative": ...}` a line."""

    kind: Literal["triplets"] = "triplets"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """A positive and a negative a line."""
        for where, row in objects(path):
            query, positive, negative = (field(row, name, str, where) for name in ("anchor", "positive", "negative"))
            yield JudgedList(query, (Listed(positive, None, 1), Listed(negative, None, 0)))

    def write(self, lists: Iterable[JudgedList], path: Path) -> int:
        """Every positive with every negative of its query."""

        def found() -> Iterator[str]:
            for query, documents, _ in lists:
                for positive in (doc for doc in documents if doc.label):
                    for negative in (doc for doc in documents if not doc.label):
                        yield dumped({"anchor": query, "positive": positive.document, "negative": negative.document})

        return write_lines(path, found())


class NTuples(TextFormat):
    """sentence-transformers' n-tuples: `{"anchor", "positive", "negative_1", "negative_2", ...}` a line."""

    kind: Literal["ntuples"] = "ntuples"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """A positive and all negatives a line."""
        for where, row in objects(path):
            negatives = [field(row, name, str, where) for name in row if name.startswith("negative")]
            documents = (Listed(field(row, "positive", str, where), None, 1), *(Listed(n, None, 0) for n in negatives))
            yield JudgedList(field(row, "anchor", str, where), documents)

    def write(self, lists: Iterable[JudgedList], path: Path) -> int:
        """A line for each positive. A data set wants columns of one number: the fewest negatives that any query has."""
        kept = [row for row in lists if any(doc.label for doc in row.documents)]
        width = min((sum(not doc.label for doc in row.documents) for row in kept), default=0)
        if kept and not width:
            raise InputError("a query has no negative, and n-tuples need one of each; filter it out, or export another")

        def found() -> Iterator[str]:
            for query, documents, _ in kept:
                negatives = [doc.document for doc in documents if not doc.label][:width]
                named = {f"negative_{number}": text for number, text in enumerate(negatives, start=1)}
                for positive in (doc for doc in documents if doc.label):
                    yield dumped({"anchor": query, "positive": positive.document, **named})

        return write_lines(path, found())


FORMATS = {"flagembedding": FlagEmbedding, "tevatron": Tevatron, "triplets": Triplets, "ntuples": NTuples}
