"""Mines candidates: several sources searched, merged, filtered, sampled, and every row accounted for."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from operator import ge
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from retrodistill.candidates import QRELS, Candidate, Candidates
from retrodistill.errors import InputError
from retrodistill.memory import Budget
from retrodistill.mining.account import MERGED, OWN, Account
from retrodistill.mining.filters import Filter
from retrodistill.mining.fitting import QUERIES_AT_ONCE, fit, foresee, observe, queries_at_once, search_in_place
from retrodistill.mining.pool import Pool, Rule, judges_of
from retrodistill.mining.samplers import Sampler
from retrodistill.mining.signals import Signals
from retrodistill.runs import Run, cut

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.mining.pooling import Weigher
    from retrodistill.registry import Part
    from retrodistill.retrieval.retriever import Retriever
    from retrodistill.scores.store import ScoreStore


def mine(
    collection: Collection,
    split: str,
    sources: Sequence[Part],
    *,
    depth: int = 100,
    sampler: Part | None = None,
    filters: Sequence[Part] = (),
    refill: bool = False,
    weigh: Part | None = None,
    positives: bool = True,
    labels: bool = True,
    store: ScoreStore | None = None,
    memory: int | None = None,
    seed: int = 0,
) -> tuple[Candidates, Account]:
    """Find the documents that stand against each query of a split.

    Filters go first, one after the other, then the sampler: what a filter drops, documents of the next ranks take the
    place of, as far as the sources' `depth` reaches.

    Args:
        collection: where to search.
        split: whose queries to search for.
        sources: retrievers; what several find is merged into one row with the best rank.
        depth: how many documents each source gives a query, its own id left out; all there are in a smaller collection.
        sampler: keeps some of the unlabelled documents of each query; all where None.
        filters: drop unlabelled documents that may not be negative.
        refill: where the sampler finds fewer than it was asked for, take the next in rank behind its last one, and,
            where there are none, those in front of it, the last one first. Else the account names the queries that are
            short.
        weigh: says how much each document counts in training; all alike where None.
        positives: add labelled relevant documents that no source found, as training needs them. Leave them out to
            judge what a teacher makes of what was found.
        labels: say which documents are labelled; left out, candidates are as if nobody had judged them.
        store: where the scores of teachers that samplers, filters and `weigh` name are read, and go to where they are
            missing.
        memory: bytes that the process may take as a whole; dense vectors are then searched from disk, and what cannot
            be kept within is refused. None: as much as is needed.
        seed: of the sampler.

    Returns:
        Candidates, each query's by best rank, and the account of what was dropped and why.

    Raises:
        InputError: no source is given, a source or a rule needs something that is not there, or no query has a
            candidate.
    """
    if not sources:
        raise InputError("mining needs a source, such as bm25; got none")
    if refill and sampler is None:
        raise InputError("refill makes up for what a sampler lacks, and there is no sampler; name one, or leave refill")
    queries, qrels = collection.query_ids(split), collection.qrels(split)
    if not labels:
        qrels = {query: {} for query in queries}
    budget = Budget(memory) if memory is not None else None
    if budget is not None:
        foresee(sources, judges_of((*filters, sampler, weigh)), collection, budget)
    opened: dict[str, tuple[Part, Any]] = {}
    for source in sources:
        label = source.label if source.label not in opened else f"{source.label}#{len(opened)}"
        opened[label] = source, cast("Retriever", source).open(collection)
    searchers = {label: searcher for label, (_, searcher) in opened.items()}
    rules = [cast(Rule, rule) for rule in (*filters, *([sampler] if sampler else []))]
    signals = Signals(collection, queries, searchers, store, seed)
    signals.check([*rules, *([cast(Rule, weigh)] if weigh else [])], sources, labels)
    for searcher in searchers.values():
        if hasattr(searcher, "query_vectors"):
            searcher.query_vectors(queries)  # all at once, so that no block of queries decides how they are batched
    at_once = QUERIES_AT_ONCE
    if budget is None:
        search_in_place(opened)
    else:
        fit(opened, collection, budget)
        found = depth * len(sources)
        kept = cast(Sampler, sampler).n if sampler else found
        at_once = queries_at_once(budget, len(queries), found, kept, at_once)
    account = Account(queries=len(queries))
    work = _Mining(collection, searchers, depth, rules, refill, positives, seed, signals, budget, account)
    tables = []
    for start in range(0, len(queries), at_once):
        block = queries[start : start + at_once]
        tables.append(work.mined({query: qrels[query] for query in block}).table)
    if not account.kept:
        raise InputError(f"no source found a document for any of the {len(queries)} queries of {split!r}; add a source")
    candidates = Candidates(pa.concat_tables(tables))
    return signals.weighed(cast("Weigher", weigh), candidates) if weigh else candidates, account


@dataclass
class _Mining:
    """One call's options, and the account it keeps."""

    collection: Collection
    searchers: Mapping[str, Any]
    depth: int
    rules: Sequence[Rule]
    refill: bool
    positives: bool
    seed: int
    signals: Signals
    budget: Budget | None
    account: Account

    def mined(self, qrels: Mapping[str, Mapping[str, int]]) -> Candidates:
        """The candidates of a block of queries."""
        runs = {label: self._search(label, list(qrels)) for label in self.searchers}
        with _uncollected():
            both = [self._merged(query, judged, runs) for query, judged in qrels.items()]
        labelled, pools = [rows for rows, _ in both], [pool for _, pool in both]
        for rule in self.rules:
            pools = self.signals.of(rule, pools, runs)
            with _uncollected():
                pools = [self._ruled(rule, pool) for pool in pools]
        rows = {pool.query: self._rows(pool, known) for pool, known in zip(pools, labelled, strict=True)}
        return Candidates.of({query: found for query, found in rows.items() if found})

    def _merged(self, query: str, judged: Mapping[str, int], runs: Mapping[str, Run]) -> tuple[list[Candidate], Pool]:
        """What is labelled of what was found for a query, with what is to be added, and what is not."""
        # a query's own id is no answer to it, whatever the labels say; evaluation drops it too
        grades = {doc: grade for doc, grade in judged.items() if doc not in self.collection.barred(query)}
        self.account.barred += len(judged) - len(grades)
        found = {label: run[query] for label, run in runs.items()}
        documents, ranks = _merge(found)
        if len(found) > 1:
            self.account.dropped[MERGED] += sum(map(len, found.values())) - len(documents)
        relevant = [doc for doc, grade in grades.items() if grade > 0]
        pool = Pool(query, documents, ranks, relevant, self.collection, found)
        known = [at for at, doc in enumerate(documents) if doc in grades] if grades else []
        labelled = [pool.row(at, grades[documents[at]]) for at in known]
        if self.positives:
            labelled = self._added(labelled, grades)
        left = np.ones(len(documents), dtype=np.bool_)
        left[known] = False
        return labelled, pool.only(left) if known else pool

    def _search(self, label: str, queries: Sequence[str]) -> Run:
        # two more than asked for, so that a query's own id and what it is made of can go without leaving a gap
        found = self.searchers[label].search(queries, self.depth + 2)
        run: Run = {}
        for query in queries:
            ranked = _in_order(found.get(query, {}))
            barred = [doc for doc in self.collection.barred(query) if doc in ranked]
            left = ((doc, score) for doc, score in ranked.items() if doc not in barred) if barred else ranked.items()
            run[query] = dict(islice(left, self.depth))
            own = sum(doc in barred for doc in islice(ranked, len(run[query]) + len(barred))) if barred else 0
            self.account.found[label] += len(run[query]) + own
            if own:
                self.account.dropped[OWN] += own
        if self.budget is not None:
            observe(self.budget, label)
        return run

    def _added(self, labelled: list[Candidate], grades: Mapping[str, int]) -> list[Candidate]:
        seen = {row.doc_id for row in labelled}
        relevant = [doc for doc, grade in grades.items() if grade > 0 and doc not in seen]
        self.account.added += len(relevant)
        return [Candidate(doc, QRELS, 0, float("nan"), grades[doc]) for doc in relevant] + labelled

    def _ruled(self, rule: Rule, pool: Pool) -> Pool:
        """What a rule leaves of a pool."""
        if rule.judges:
            self.account.unjudged[rule.label] += _unjudged(rule, pool)
        if isinstance(rule, Sampler):
            kept = self._sampled(rule, pool)
            self.account.dropped[f"not sampled by {rule.label}"] += len(pool) - len(kept)
        else:
            kept = np.flatnonzero(cast(Filter, rule).keep(pool))
            self.account.dropped[f"filter {rule.label}"] += len(pool) - len(kept)
        return pool.only(kept)

    def _sampled(self, sampler: Sampler, pool: Pool) -> np.ndarray:
        """The sampler's rows, made up where it lacks some and that is asked for; what lacks still is told."""
        chosen = np.empty(0, dtype=np.int64)
        if len(pool):
            chosen = sampler.choose(pool, np.random.default_rng([self.seed, *pool.query.encode()]))
        if self.refill and len(chosen) < sampler.n:
            more = _next_in_rank(chosen, len(pool))[: sampler.n - len(chosen)]
            self.account.refilled += len(more)
            chosen = np.sort(np.concatenate([chosen, more]))
        if len(chosen) < sampler.n:
            self.account.short[pool.query] = sampler.n - len(chosen)
        return chosen

    def _rows(self, pool: Pool, labelled: list[Candidate]) -> list[Candidate]:
        if not len(pool) and all(row.label is None or row.label > 0 for row in labelled):
            self.account.without.append(pool.query)
        self.account.kept += len(pool) + len(labelled)
        return sorted([*labelled, *pool.rows], key=lambda row: row.rank)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looks for cyclic garbage: rows make none, and looking at millions takes longer than making them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _in_order(found: Mapping[str, float]) -> Mapping[str, float]:
    """What a source found, best first, as it should be already."""
    scores = list(found.values())
    return found if all(map(ge, scores, scores[1:])) else cut(found, len(found))


def _next_in_rank(chosen: np.ndarray, size: int) -> np.ndarray:
    """Rows that were not chosen: those behind the last chosen one, then those in front of it from the last on."""
    last = int(chosen.max(initial=-1))
    left = np.setdiff1d(np.arange(size), chosen)
    return np.concatenate([left[left > last], left[left <= last][::-1]])


def _unjudged(rule: Rule, pool: Pool) -> int:
    """Documents that a rule has no score for; all of them where it needs a positive's and has none."""
    if rule.needs_positives and any(np.isnan(pool.positive(judge, "min")) for judge in rule.judges):
        return len(pool)
    return int(np.isnan([pool.scores(judge) for judge in rule.judges]).any(axis=0).sum())


def _merge(found: Mapping[str, Mapping[str, float]]) -> tuple[list[str], np.ndarray]:
    """Every document once, by the best rank that a source gave it: ids, and ranks of shape (documents,)."""
    if len(found) == 1:
        (scores,) = found.values()
        return list(scores), np.arange(1, len(scores) + 1)
    best: dict[str, int] = {}
    for scores in found.values():
        for rank, document in enumerate(scores, start=1):
            best[document] = min(rank, best.get(document, rank))
    documents, ranks = list(best), np.fromiter(best.values(), dtype=np.int64, count=len(best))
    order = np.argsort(ranks, kind="stable")
    return [documents[row] for row in order.tolist()], ranks[order]
