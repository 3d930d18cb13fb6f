"""Retrievers that search nothing and look at labels: what a data set says is not relevant, and what answers others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from retrodistill.errors import InputError
from retrodistill.files import digest_of
from retrodistill.retrieval.retriever import Retriever
from retrodistill.runs import Qrels, Run, cut

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class _Judged(Retriever):
    """A source for the queries of one split.

    Attributes:
        split: whose labels are looked at; no other's queries can be asked.
    """

    split: str = Field("train", min_length=1, description="whose labels are looked at")

    @property
    def reads_labels(self) -> bool:
        """Always."""
        return True

    @abstractmethod
    def of(self, query: str, searcher: JudgedSearcher, depth: int) -> dict[str, float]:
        """A query's documents, best first."""

    def open(self, collection: Collection) -> JudgedSearcher:
        """Read the split's judgements when first asked."""
        return JudgedSearcher(self, collection)


class JudgedSearcher:
    """The judgements of a split."""

    def __init__(self, options: _Judged, collection: Collection) -> None:
        self.options = options
        self.collection = collection

    @cached_property
    def qrels(self) -> Qrels:
        """The split's."""
        return self.collection.qrels(self.options.split)

    @cached_property
    def relevant(self) -> list[str]:
        """Each document that is relevant to a query of the split."""
        return list(dict.fromkeys(doc for grades in self.qrels.values() for doc, grade in grades.items() if grade > 0))

    @property
    def identity(self) -> dict[str, Any]:
        """The options and the judgements."""
        return {**self.options.model_dump(), "judgements": digest_of(cast(Any, self.qrels))}

    @property
    def details(self) -> dict[str, Any]:
        """Whose labels."""
        return {"system": self.options.kind, "split": self.options.split}

    def search(self, query_ids: Sequence[str], depth: int) -> Run:
        """At most `depth` documents a query.

        Raises:
            InputError: a query is of another split.
        """
        other = next((query for query in query_ids if query not in self.qrels), None)
        if other is not None:
            raise InputError(
                f"{self.options.kind} looks at the labels of {self.options.split!r}, and query {other!r} is not of it; "
                f"name the split, as {{kind: {self.options.kind}, split: NAME}}"
            )
        return {query: self.options.of(query, self, depth) for query in query_ids}


class Labelled(_Judged):
    """What the data set itself labels as not relevant to a query (grade 0 or less), found by a source or not.

    Its score is the grade. They stay labelled: no filter or sampler drops them.
    """

    kind: Literal["labelled"] = "labelled"

    def of(self, query: str, searcher: JudgedSearcher, depth: int) -> dict[str, float]:
        """By falling grade."""
        grades: Mapping[str, int] = searcher.qrels[query]
        return cut({doc: float(grade) for doc, grade in grades.items() if grade <= 0}, depth)


class OtherPositives(_Judged):
    """What is relevant to other queries of the split, drawn by chance: answers, and to another question.

    Documents that somebody judged for the query itself are left out. The same seed draws the same for a query,
    whatever else is asked.
    """

    kind: Literal["other_positives"] = "other_positives"
    seed: int = Field(0, ge=0)

    def of(self, query: str, searcher: JudgedSearcher, depth: int) -> dict[str, float]:
        """In the order of the draw."""
        relevant, own = searcher.relevant, searcher.qrels[query]
        generator = np.random.default_rng([self.seed, *query.encode()])
        drawn = generator.choice(len(relevant), size=min(depth + len(own), len(relevant)), replace=False)
        left = [relevant[row] for row in drawn if relevant[row] not in own][:depth]
        return {doc: 1.0 / (place + 1) for place, doc in enumerate(left)}


RETRIEVERS: dict[str, type[Retriever]] = {"labelled": Labelled, "other_positives": OtherPositives}
