"""Mines candidates: several sources searched, merged, filtered, sampled, and every row accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill import console
from retrodistill.candidates import QRELS, Candidate, Candidates
from retrodistill.errors import InputError
from retrodistill.mining.filters import Filter
from retrodistill.mining.samplers import Sampler
from retrodistill.runs import Run, cut

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.registry import Part
    from retrodistill.retrieval.retriever import Retriever


@dataclass
class Account:
    """What became of every document that a source found.

    Attributes:
        found: documents by source, before merging.
        dropped: documents by the reason they went.
        kept: rows handed on.
        queries: queries asked for.
        without: queries that no unlabelled document is left for.
    """

    found: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    queries: int = 0
    without: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Kept and dropped, by reason, for the person who waits."""
        rows = [[f"found by {source}", f"{count:,}"] for source, count in self.found.items()]
        rows += [[f"dropped: {reason}", f"{count:,}"] for reason, count in self.dropped.items()]
        rows += [["kept", f"{self.kept:,}"]]
        if self.without:
            named = ", ".join(self.without[:3]) + (", ..." if len(self.without) > 3 else "")
            rows += [[f"queries without any negative: {named}", f"{len(self.without):,}"]]
        return console.markdown_table([f"{self.queries:,} queries", "documents"], rows)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "queries": self.queries,
            "found": dict(self.found),
            "dropped": dict(self.dropped),
            "kept": self.kept,
            "queries_without_negatives": len(self.without),
        }


def mine(
    collection: Collection,
    split: str,
    sources: Sequence[Part],
    *,
    depth: int = 100,
    sampler: Part | None = None,
    filters: Sequence[Part] = (),
    positives: bool = True,
    labels: bool = True,
    seed: int = 0,
) -> tuple[Candidates, Account]:
    """Find the documents that stand against each query of a split.

    Args:
        collection: where to search.
        split: whose queries to search for.
        sources: retrievers; what several find is merged into one row with the best rank.
        depth: how many documents each source gives a query, its own id left out; all there are in a smaller collection.
        sampler: keeps some of the unlabelled documents of each query; all where None.
        filters: drop unlabelled documents that may not be negative.
        positives: add labelled relevant documents that no source found, as training needs them. Leave them out to
            judge what a teacher makes of what was found.
        labels: say which documents are labelled; left out, candidates are as if nobody had judged them.
        seed: of the sampler.

    Returns:
        Candidates, each query's by best rank, and the account of what was dropped and why.

    Raises:
        InputError: no source is given, a source needs something that is not there, or no query has a candidate.
    """
    if not sources:
        raise InputError("mining needs a source, such as bm25; got none")
    queries, qrels = collection.query_ids(split), collection.qrels(split)
    if not labels:
        qrels = {query: {} for query in queries}
    account = Account(queries=len(queries))
    runs: dict[str, Run] = {}
    for source in sources:
        label = source.label if source.label not in runs else f"{source.label}#{len(runs)}"
        runs[label] = _search(cast("Retriever", source), collection, queries, depth)
        account.found[label] = sum(map(len, runs[label].values()))
    picked: dict[str, list[Candidate]] = {}
    for query in queries:
        # a query's own id is no answer to it, whatever the labels say; evaluation drops it too
        grades = {doc: grade for doc, grade in qrels[query].items() if doc not in collection.barred(query)}
        merged = _merge({label: run[query] for label, run in runs.items()}, grades, account)
        labelled = [row for row in merged if row.label is not None]
        unlabelled = _filtered([row for row in merged if row.label is None], grades, filters, collection, account)
        unlabelled = _sampled(unlabelled, cast("Sampler | None", sampler), seed, query, account)
        if positives:
            seen = {row.doc_id for row in labelled}
            relevant = [doc for doc, grade in grades.items() if grade > 0 and doc not in seen]
            labelled = [Candidate(doc, QRELS, 0, float("nan"), grades[doc]) for doc in relevant] + labelled
        if not unlabelled:
            account.without.append(query)
        picked[query] = sorted(labelled + unlabelled, key=lambda row: row.rank)
        account.kept += len(picked[query])
    if not account.kept:
        raise InputError(f"no source found a document for any of the {len(queries)} queries of {split!r}; add a source")
    return Candidates.of({query: rows for query, rows in picked.items() if rows}), account


def _search(source: Retriever, collection: Collection, queries: Sequence[str], depth: int) -> Run:
    # two more than asked for, so that a query's own id and what it is made of can go without leaving a gap
    run = source.open(collection).search(queries, depth + 2)
    return {
        query: cut({d: s for d, s in run.get(query, {}).items() if d not in collection.barred(query)}, depth)
        for query in queries
    }


def _merge(found: Mapping[str, Mapping[str, float]], grades: Mapping[str, int], account: Account) -> list[Candidate]:
    """One row a document: the sources that found it, the best rank, and the score that gave it."""
    rows: dict[str, Candidate] = {}
    for label, scores in found.items():
        for rank, (document, score) in enumerate(scores.items(), start=1):
            before = rows.get(document)
            if before is None:
                rows[document] = Candidate(document, label, rank, score, grades.get(document))
                continue
            account.dropped["found by several sources, merged"] += 1
            sources = f"{before.source}+{label}"
            better = rank < before.rank
            rows[document] = before._replace(
                source=sources, rank=rank if better else before.rank, score=score if better else before.score
            )
    return list(rows.values())


def _filtered(
    rows: list[Candidate], grades: Mapping[str, int], filters: Sequence[Part], collection: Collection, account: Account
) -> list[Candidate]:
    positives = [doc for doc, grade in grades.items() if grade > 0]
    for part in filters:
        kept = cast(Filter, part).keep([row.doc_id for row in rows], positives, collection)
        account.dropped[f"filter {part.label}"] += int((~kept).sum())
        rows = [row for row, stays in zip(rows, kept, strict=True) if stays]
    return rows


def _sampled(
    rows: list[Candidate], sampler: Sampler | None, seed: int, query: str, account: Account
) -> list[Candidate]:
    rows = sorted(rows, key=lambda row: row.rank)
    if sampler is None or not rows:
        return rows
    ranks = np.array([row.rank for row in rows], dtype=np.int64)
    scores = np.array([row.score for row in rows], dtype=np.float32)
    chosen = sampler.choose(ranks, scores, np.random.default_rng([seed, *query.encode()]))
    account.dropped[f"not sampled by {sampler.label}"] += len(rows) - len(chosen)
    return [rows[i] for i in chosen]
