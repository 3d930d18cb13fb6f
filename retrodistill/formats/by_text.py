"""Formats that hold the texts themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from retrodistill.errors import InputError
from retrodistill.formats.format import (
    NO_POSITIVE,
    Format,
    JudgedList,
    Left,
    Listed,
    Written,
    dumped,
    field,
    number,
    objects,
    scores_of,
    sides,
    write_lines,
)


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

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """A line a query that has a positive; scores where every document of it has one."""

        def found() -> Iterator[str | Left]:
            for query, documents, _ in lists:
                positives, negatives = sides(documents)
                if not positives:
                    yield Left(len(negatives), NO_POSITIVE)
                    continue
                named = {"pos": positives, "neg": negatives}
                row: dict[str, Any] = {"query": query}
                row |= {name: [doc.document for doc in side] for name, side in named.items()}
                if all(doc.score is not None for doc in documents):
                    row |= {f"{name}_scores": [doc.score for doc in side] for name, side in named.items()}
                else:
                    scores = scores_of(documents)
                    yield scores._replace(what="scores, as not every document of their query has one")
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

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """A line a query that has a positive. Scores have no place in it."""

        def found() -> Iterator[str | Left]:
            for query, documents, name in lists:
                positives, negatives = sides(documents)
                if not positives:
                    yield Left(len(negatives), NO_POSITIVE)
                    continue
                yield scores_of(documents)
                passages = {
                    f"{side}_passages": [{"docid": doc.name, "title": "", "text": doc.document} for doc in some]
                    for side, some in (("positive", positives), ("negative", negatives))
                }
                yield dumped({"query_id": name, "query": query, **passages})

        return write_lines(path, found())


def _id_in(row: dict[str, Any], name: str) -> str | None:
    return None if row.get(name) is None else str(row[name])


class _Rows(TextFormat):
    """Rows of a query, a positive and negatives, in columns that data sets name as they like.

    Attributes:
        query: the column of queries.
        positive: the column of positives.
        negative: the column of negatives.
    """

    query: str = Field("anchor", min_length=1, description="column of queries")
    positive: str = Field("positive", min_length=1, description="column of positives")
    negative: str = Field("negative", min_length=1, description="column of negatives")

    @model_validator(mode="after")
    def _three_columns(self) -> _Rows:
        if len({self.query, self.positive, self.negative}) < 3:
            raise ValueError(
                f"query: {self.query!r}, positive: {self.positive!r} and negative: {self.negative!r} must differ"
            )
        return self


class Triplets(_Rows):
    """sentence-transformers' triplets: `{"anchor": ..., "positive": ..., "negative": ...}` a line."""

    kind: Literal["triplets"] = "triplets"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """A positive and a negative a line."""
        names = self.query, self.positive, self.negative
        for where, row in objects(path):
            query, positive, negative = (field(row, name, str, where) for name in names)
            yield JudgedList(query, (Listed(positive, None, 1), Listed(negative, None, 0)))

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """Every positive with every negative of its query."""

        def found() -> Iterator[str | Left]:
            for query, documents, _ in lists:
                positives, negatives = sides(documents)
                if not (positives and negatives):
                    yield Left(len(documents), "documents of queries without a positive and a negative")
                    continue
                yield scores_of(documents)
                for positive in positives:
                    for negative in negatives:
                        names = {self.positive: positive.document, self.negative: negative.document}
                        yield dumped({self.query: query, **names})

        return write_lines(path, found())


class NTuples(_Rows):
    """sentence-transformers' n-tuples: `{"anchor", "positive", "negative_1", "negative_2", ...}` a line.

    Attributes:
        negatives: how many a line has when they are written; queries that have fewer are left out, and told. The fewest
            that any query has where not said.
    """

    kind: Literal["ntuples"] = "ntuples"
    negatives: int | None = Field(None, ge=1, description="negatives a written line; the fewest that any query has")

    def read(self, path: Path) -> Iterator[JudgedList]:
        """A positive and all negatives a line: the columns whose names begin as `negative` says."""
        for where, row in objects(path):
            columns = [name for name in row if name.startswith(self.negative) and name != self.positive]
            negatives = [Listed(field(row, name, str, where), None, 0) for name in columns]
            positive = Listed(field(row, self.positive, str, where), None, 1)
            yield JudgedList(field(row, self.query, str, where), (positive, *negatives))

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """A line for each positive. A data set wants columns of one number.

        Raises:
            InputError: a query has no negative, and nobody said how many are wanted.
        """
        kept = list(lists)
        counts = [len(negatives) for positives, negatives in (sides(row.documents) for row in kept) if positives]
        width = self.negatives or min(counts, default=1)
        if not width:
            raise InputError(
                "a query has no negative, and n-tuples need some of each; say how many, as {kind: ntuples, "
                "negatives: 5}, which leaves out queries that have fewer"
            )

        def found() -> Iterator[str | Left]:
            for query, documents, _ in kept:
                positives, negatives = sides(documents)
                if not positives or len(negatives) < width:
                    what = f"documents of queries with fewer than {width} negatives" if positives else NO_POSITIVE
                    yield Left(len(documents), what)
                    continue
                yield scores_of((*positives, *negatives[:width]))
                yield Left(len(negatives) - width, f"negatives behind the first {width} of their query")
                texts = [doc.document for doc in negatives[:width]]
                named = {f"{self.negative}_{number}": text for number, text in enumerate(texts, start=1)}
                for positive in positives:
                    yield dumped({self.query: query, self.positive: positive.document, **named})

        return write_lines(path, found())


FORMATS = {"flagembedding": FlagEmbedding, "tevatron": Tevatron, "triplets": Triplets, "ntuples": NTuples}
