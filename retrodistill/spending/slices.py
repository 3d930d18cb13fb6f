"""Spends a budget of judgements, slice by slice, and tells what each slice bought."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retrodistill.candidates import Candidates
from retrodistill.errors import InputError
from retrodistill.evaluation.metrics import measure, parse_metrics
from retrodistill.registry import Part
from retrodistill.scores.combine import Mean
from retrodistill.spending.rule import Known, Rule
from retrodistill.teachers import judging
from retrodistill.teachers.teacher import form_of

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.runs import Run
    from retrodistill.scores.store import ScoreStore


@dataclass(frozen=True)
class Spent:
    """Where the money went so far.

    Attributes:
        judged: candidates that the teacher has judged, now or before.
        candidates: how many there are.
        ndcg: nDCG@10 on labelled queries of the teacher's order, what it did not judge standing as it is expected to;
            None where no query has a label.
        failed: judgements that the teacher failed at.
        seconds: that judging took.
    """

    judged: int
    candidates: int
    ndcg: float | None
    failed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """One line for the person who may stop it."""
        quality = "" if self.ndcg is None else f", nDCG@10 {self.ndcg:.4f}"
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.judged:,} of {self.candidates:,} judged{quality}{failed}"


def spend(
    rule: Rule,
    budget: int,
    teacher: Part,
    candidates: Candidates,
    collection: Collection,
    store: ScoreStore,
    *,
    hints: Sequence[Part] = (),
    slices: int = 5,
    seed: int = 0,
) -> Iterator[Spent]:
    """Have a teacher judge `budget` candidates, those that a rule thinks are worth it.

    A judgement that the store had before counts as spent: called again with the same arguments, nothing is asked; after
    a crash the rest of the budget is spent; with a greater one, what is new is added. Candidates that are left out have
    no score, and losses mask them.

    Args:
        rule: which ones.
        budget: candidates that are judged in the end.
        teacher: a pointwise one.
        candidates: what mining found.
        collection: where texts are.
        store: where judgements are kept.
        hints: cheaper teachers, which judge all candidates first; what they say is where rules look.
        slices: after each the rule looks again at what was said.
        seed: of draws.

    Yields:
        What was there before the first slice, and after each.

    Raises:
        InputError: the teacher compares or orders documents, which are bounded by their own options.
    """
    if form_of(teacher) != "pointwise":
        raise InputError(
            f"teacher {teacher.label} is {form_of(teacher)}; a budget counts single documents: set its pairs, or its "
            "window, stride and runs, instead"
        )
    judging.judge(candidates, collection, hints, store)
    told = _hints(candidates, collection, hints, store)
    judged = _judged(teacher, candidates, collection, store)
    labelled = bool(np.nan_to_num(candidates.labels).max(initial=0) > 0)
    yield _account(candidates, _known(candidates, judged, told), labelled)
    tried = ~np.isnan(judged)
    for number in range(slices):
        room = round(budget * (number + 1) / slices) - int(tried.sum())
        left = np.flatnonzero(~tried)[: None if room > 0 else 0]
        if not len(left):
            continue
        worth = rule.worth(_known(candidates, judged, told), np.random.default_rng([seed, number]))
        rows = left[np.argsort(-worth[left], kind="stable")[:room]]
        tried[rows] = True  # what the teacher fails at is not asked again for this money
        chosen = Candidates(candidates.table.take(np.sort(rows)))
        (done,) = judging.judge(chosen, collection, [teacher], store)
        judged = _judged(teacher, candidates, collection, store)
        tried |= ~np.isnan(judged)
        account = _account(candidates, _known(candidates, judged, told), labelled)
        yield Spent(account.judged, account.candidates, account.ndcg, len(done.failed), done.seconds)


def _judged(teacher: Part, candidates: Candidates, collection: Collection, store: ScoreStore) -> np.ndarray:
    return judging.read(candidates, collection, [teacher], store)[0].astype(np.float64)


def _hints(candidates: Candidates, collection: Collection, hints: Sequence[Part], store: ScoreStore) -> np.ndarray:
    """The sources' order, and what cheap teachers say, as z-scores within a query: float64 (1 + hints, N)."""
    ranks = np.where(candidates.ranks > 0, candidates.ranks, np.nan)
    rows = np.vstack([-np.log(ranks), judging.read(candidates, collection, hints, store)])
    scale = Mean(normalise="zscore")
    return np.array([scale(row[None], candidates.offsets) for row in rows], dtype=np.float64)


def _known(candidates: Candidates, judged: np.ndarray, hints: np.ndarray) -> Known:
    return Known(candidates.ranks, candidates.offsets, judged, hints)


def _account(candidates: Candidates, known: Known, labelled: bool) -> Spent:
    count = int((~np.isnan(known.judged)).sum())
    if not labelled:
        return Spent(count, len(candidates), None)
    expected, _ = known.expected
    run: Run = {query: {} for query in candidates.queries}
    qrels: dict[str, dict[str, int]] = {query: {} for query in candidates.queries}
    rows = zip(candidates.query_ids, candidates.doc_ids, expected.tolist(), candidates.labels.tolist(), strict=True)
    for query, doc, score, label in rows:
        run[query][doc] = score
        if label > 0:
            qrels[query][doc] = int(label)
    asked = {query: grades for query, grades in qrels.items() if grades}
    values = measure({query: run[query] for query in asked}, asked, parse_metrics(["nDCG@10"]))["nDCG@10"]
    return Spent(count, len(candidates), float(np.mean(list(values.values()))))
