"""Spends a budget of judgements, slice by slice, and tells what each slice bought."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from retrodistill.candidates import Candidates
from retrodistill.evaluation.metrics import measure, parse_metrics
from retrodistill.registry import Part
from retrodistill.scores.combine import Mean
from retrodistill.spending.offers import Offer, offer_of
from retrodistill.spending.rule import Rule
from retrodistill.teachers import judging

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.runs import Run
    from retrodistill.scores.store import ScoreStore


@dataclass(frozen=True)
class Spent:
    """Where the money went so far.

    Attributes:
        judged: candidates of which the teacher has said anything, now or before.
        candidates: how many there are.
        ndcg: nDCG@10 on labelled queries of the teacher's order, what it did not judge standing as it is expected to;
            None where no query has a label.
        failed: judgements that the teacher failed at.
        seconds: that judging took.
        judgements: that were paid for, now or before.
        unit: what they are: pairs, comparisons or windows.
        before: the account before the last slice.
    """

    judged: int
    candidates: int
    ndcg: float | None
    failed: int = 0
    seconds: float = 0.0
    judgements: int = 0
    unit: str = "pairs"
    before: Spent | None = None

    @property
    def gain(self) -> float | None:
        """nDCG@10 that 1,000 judgements of the last slice bought; None where it cannot be told."""
        if self.before is None or self.ndcg is None or self.before.ndcg is None:
            return None
        bought = self.judgements - self.before.judgements
        return 1000 * (self.ndcg - self.before.ndcg) / bought if bought else None

    def __str__(self) -> str:
        """One line for the person who may stop it."""
        told = f"{self.judged:,} of {self.candidates:,} judged"
        if self.unit != "pairs":
            told = f"{self.judgements:,} {self.unit}, {told}"
        if self.ndcg is not None:
            told += f", nDCG@10 {self.ndcg:.4f}"
        if self.gain is not None:
            told += f" ({self.gain:+.4f} a thousand {self.unit})"
        return f"{told}, {self.failed:,} failed" if self.failed else told


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
    """Have a teacher make `budget` judgements, those that a rule thinks are worth it.

    A judgement is what the teacher is asked for once: a document, a comparison in one of its two orders, or a window.
    One that the store had before counts as spent: called again with the same arguments, nothing is asked; after
    a crash the rest of the budget is spent; with a greater one, what is new is added. Candidates that are left out have
    no score, and losses mask them.

    Args:
        rule: which ones.
        budget: judgements that are made in the end.
        teacher: of any form.
        candidates: what mining found.
        collection: where texts are.
        store: where judgements are kept.
        hints: cheaper teachers, which judge all candidates first; what they say is where rules look.
        slices: after each the rule looks again at what was said.
        seed: of draws.

    Yields:
        What was there before the first slice, and after each.

    Raises:
        InputError: the teacher compares by sorting, which leaves a rule nothing to choose, or too many pairs to choose
            among.
    """
    offered = offer_of(teacher, candidates, collection, store)
    judging.judge(candidates, collection, hints, store)
    told = _hints(candidates, collection, hints, store)
    labelled = bool(np.nan_to_num(candidates.labels).max(initial=0) > 0)
    last = _account(candidates, offered, told, labelled)
    yield last
    lost = 0  # what the teacher failed at is not asked again for this money
    for number in range(slices):
        room = round(budget * (number + 1) / slices) - offered.paid - lost
        if room < 1 or not offered.open.any():
            continue
        worth = rule.worth(offered.known(told), np.random.default_rng([seed, number]))
        chosen = _chosen(offered, worth, room)
        if not len(chosen):
            continue
        done = offered.buy(chosen)
        lost += len(done.failed)
        account = _account(candidates, offered, told, labelled)
        yield replace(account, failed=len(done.failed), seconds=done.seconds, before=last)
        last = account


def _chosen(offered: Offer, worth: np.ndarray, room: int) -> np.ndarray:
    """The worthiest units that are open and that the room pays for, one of those that exclude each other: int64."""
    left = np.flatnonzero(offered.open)
    whole = {int(offered.groups[unit]): unit for unit in left.tolist()}  # a group's last unit is all of it
    if sum(int(offered.units.prices[unit]) for unit in whole.values()) <= room:
        return np.array(sorted(whole.values()), dtype=np.int64)
    chosen, taken = [], set[int]()
    for unit in left[np.argsort(-worth[left], kind="stable")].tolist():
        price, group = int(offered.units.prices[unit]), int(offered.groups[unit])
        if price > room or group in taken:
            continue
        room -= price
        taken.add(group)
        chosen.append(unit)
        if room < 1:
            break
    return np.array(sorted(chosen), dtype=np.int64)


def _hints(candidates: Candidates, collection: Collection, hints: Sequence[Part], store: ScoreStore) -> np.ndarray:
    """The sources' order, and what cheap teachers say, as z-scores within a query: float64 (1 + hints, N)."""
    ranks = np.where(candidates.ranks > 0, candidates.ranks, np.nan)
    rows = np.vstack([-np.log(ranks), judging.read(candidates, collection, hints, store)])
    scale = Mean(normalise="zscore")
    return np.array([scale(row[None], candidates.offsets) for row in rows], dtype=np.float64)


def _account(candidates: Candidates, offered: Offer, hints: np.ndarray, labelled: bool) -> Spent:
    count = int((~np.isnan(offered.judged)).sum())
    spent = Spent(count, len(candidates), None, judgements=offered.paid, unit=offered.unit)
    if not labelled:
        return spent
    run: Run = {query: {} for query in candidates.queries}
    qrels: dict[str, dict[str, int]] = {query: {} for query in candidates.queries}
    rows = zip(
        candidates.query_ids,
        candidates.doc_ids,
        offered.ranking(hints).tolist(),
        candidates.labels.tolist(),
        strict=True,
    )
    for query, doc, score, label in rows:
        run[query][doc] = score
        if label > 0:
            qrels[query][doc] = int(label)
    asked = {query: grades for query, grades in qrels.items() if grades}
    values = measure({query: run[query] for query in asked}, asked, parse_metrics(["nDCG@10"]))["nDCG@10"]
    return replace(spent, ndcg=float(np.mean(list(values.values()))))
