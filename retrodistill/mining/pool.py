"""What a sampler or a filter is shown: one query's unlabelled documents, and what was asked to be known of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np

from retrodistill.candidates import Candidate
from retrodistill.registry import Part

if TYPE_CHECKING:
    from retrodistill.collections import Collection

# Which of a query's positives its negatives are held against.
Against = Literal["min", "mean", "max"]
_OF: Mapping[Against, Any] = {"min": np.min, "mean": np.mean, "max": np.max}


class Rule(Part):
    """A part of mining that says what it has to know, so that it is found out once and for whole blocks of queries."""

    @property
    def judges(self) -> tuple[Part | None, ...]:
        """Teachers whose scores it reads; None stands for the scores of the one source that is mined from."""
        return ()

    @property
    def spaces(self) -> tuple[Part, ...]:
        """Dense retrievers whose vectors it reads."""
        return ()

    @property
    def needs_positives(self) -> bool:
        """Whether it means nothing without labels."""
        return False

    @property
    def alternative(self) -> str:
        """What to do about one that means nothing without labels, where there are none."""
        return "leave it out"

    @property
    def needs_all(self) -> bool:
        """Whether it must see all that was found, what no sampler chose included."""
        return False

    @property
    def samples(self) -> bool:
        """Whether it keeps some by chance or by number, not for what they are."""
        return False


class Space(Protocol):
    """The vectors of a collection by one model."""

    def query(self, query: str) -> np.ndarray:
        """The vector of a query, float32, shape (dimensions,)."""

    def documents(self, documents: Sequence[str]) -> np.ndarray:
        """The vectors of documents, float32, shape (documents, dimensions)."""

    def clusters(self, documents: Sequence[str], count: int) -> np.ndarray:
        """The k-means cluster of each document, of `count` in the whole collection, int64, shape (documents,)."""


@dataclass(frozen=True)
class Pool:
    """The documents of one query that may become its negatives.

    Attributes:
        query: its id.
        documents: the ids of its unlabelled documents by best rank.
        ranks: the best rank of each over the sources, from 1, ascending: int64, shape (documents,).
        positives: ids of its relevant documents, as labelled.
        collection: where the texts are.
        found: by source the score that it gave each document, best first.
        scores_by: by judge (`key_of`) the score of each document and positive that it judged.
        spaces: by retriever (`key_of`) its vectors.
    """

    query: str
    documents: Sequence[str]
    ranks: np.ndarray
    positives: Sequence[str]
    collection: Collection
    found: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scores_by: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    spaces: Mapping[str, Space] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.documents)

    def only(self, rows: np.ndarray) -> Pool:
        """The same pool with some of its rows: a mask or row numbers, (documents,) or (kept,)."""
        kept = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return replace(self, documents=[self.documents[row] for row in kept.tolist()], ranks=self.ranks[kept])

    @property
    def rows(self) -> list[Candidate]:
        """The documents as they are handed on."""
        return [self.row(at) for at in range(len(self))]

    def row(self, at: int, label: int | None = None) -> Candidate:
        """The document at a place: the sources that found it, the best rank, and the score that gave it."""
        document, rank = self.documents[at], int(self.ranks[at])
        sources = [source for source, scores in self.found.items() if document in scores]
        best = sources[0]
        if len(sources) > 1:
            best = next(source for source in sources if self.places[source][document] == rank)
        return Candidate(document, "+".join(sources), rank, self.found[best][document], label)

    @cached_property
    def places(self) -> dict[str, dict[str, int]]:
        """By source the rank, from 1, that it gave each document, those that are gone and labelled ones included."""
        return {source: {doc: rank for rank, doc in enumerate(found, 1)} for source, found in self.found.items()}

    def scores(self, judge: Part | None) -> np.ndarray:
        """What a judge makes of the documents: float32, shape (documents,), NaN where it gave nothing."""
        key = key_of(judge)
        if key not in self._scores:
            known = map(self.scores_by[key].get, self.documents, repeat(np.nan))
            self._scores[key] = np.fromiter(known, dtype=np.float32, count=len(self))
        return self._scores[key]

    @cached_property
    def _scores(self) -> dict[str, np.ndarray]:
        return {}

    def positive(self, judge: Part | None, against: Against) -> float:
        """What a judge makes of the query's positives together; NaN where it judged none."""
        known = self.scores_by[key_of(judge)]
        scores = np.array([known.get(doc, np.nan) for doc in self.positives], dtype=np.float32)
        scores = scores[~np.isnan(scores)]
        return float(_OF[against](scores)) if len(scores) else float("nan")

    def space(self, retriever: Part) -> Space:
        """The vectors by a retriever that the rule named among its `spaces`."""
        return self.spaces[key_of(retriever)]


def misfit(rules: Iterable[Part | None], sources: Sequence[Part], labels: bool) -> str | None:
    """Why a source cannot work without labels, or a rule with these sources or beside another; None where all can."""
    labelled = next((source for source in sources if cast(Any, source).reads_labels), None)
    if labelled is not None and not labels:
        return f"{labelled.label} looks at labels; leave it out, or mine with labels"
    given = [rule for rule in rules if isinstance(rule, Rule)]
    sampler = next((rule for rule in given if rule.samples), None)
    for rule in given:
        if rule.needs_positives and not labels:
            return f"{rule.label} is held against labelled positives; {rule.alternative}, or mine with labels"
        if None in rule.judges and len(sources) > 1:
            return (
                f"{rule.label}: scores of {len(sources)} sources are on scales of their own; "
                "name a teacher for it, such as one of the sources"
            )
        if rule.needs_all and sampler is not None:
            return (
                f"{rule.label} estimates from all that is found, and {sampler.label} would leave a part of it; leave "
                "the sampler out (training draws train.documents of each list), or do not weigh"
            )
    return None


def judges_of(rules: Iterable[Part | None]) -> list[Part]:
    """Every model that decides what rules do: teachers and retrievers, each once."""
    parts = [part for rule in rules if isinstance(rule, Rule) for part in (*rule.judges, *rule.spaces)]
    return list({key_of(part): part for part in parts if part is not None}.values())


def key_of(part: Part | None) -> str:
    """What a judge's scores or a retriever's vectors are filed under."""
    return part.model_dump_json() if part is not None else ""
