"""What a budget can buy of a teacher, by the form of its judgements: documents, pairs of them, or windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from retrodistill.candidates import Candidates
from retrodistill.errors import InputError
from retrodistill.scores.bradley_terry import bradley_terry
from retrodistill.spending.rule import Coverage, Known, Rule, Units
from retrodistill.spending.uncertain import Uncertainty
from retrodistill.teachers import comparing, judging, ordering
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.judging import Judged
from retrodistill.teachers.ordering import Ordering

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.registry import Part
    from retrodistill.scores.store import ScoreStore

_MOST_PAIRS = 20_000_000  # some 2 GB of places, worths and chances


class Offer(ABC):
    """What one teacher can be asked about candidates, and what of it was.

    Attributes:
        unit: what is counted.
        usual: the rule that chooses where none is named.
        units: all that can be bought.
        open: bool (U,), what was not tried yet.
        groups: int (U,), of units with the same number one is bought at a time.
        paid: judgements in the store.
        judged: what they make of candidates, float64 (N,), NaN where nothing is known.
        errors: standard errors of that, float64 (N,); None where there are none.
    """

    unit: str
    usual: ClassVar[Rule]
    units: Units
    open: np.ndarray
    groups: np.ndarray
    paid: int
    judged: np.ndarray
    errors: np.ndarray | None = None

    def __init__(self, teacher: Any, candidates: Candidates, collection: Collection, store: ScoreStore) -> None:
        self.teacher = teacher
        self.candidates = candidates
        self.collection = collection
        self.store = store
        self.spans = [slice(start, stop) for start, stop in pairwise(candidates.offsets.tolist())]
        self.units = self._units()
        self.open = np.ones(len(self.units), dtype=bool)
        self.groups = np.arange(len(self.units))
        self.look()

    def known(self, hints: np.ndarray) -> Known:
        """For rules to look at."""
        candidates = self.candidates
        return Known(candidates.ranks, candidates.offsets, self.judged, hints, self.errors, self.units)

    def ranking(self, hints: np.ndarray) -> np.ndarray:
        """Scores to rank each query's candidates by, whether judged or not: float64 (N,)."""
        return self.known(hints).merged

    def buy(self, chosen: np.ndarray) -> Judged:
        """Have units judged; none of them is offered again, whatever comes of it."""
        done = self._bought(chosen)
        self.open[chosen] = False
        return done

    @abstractmethod
    def look(self) -> None:
        """See what the store has."""

    @abstractmethod
    def _units(self) -> Units:
        """All that can be bought."""

    @abstractmethod
    def _bought(self, chosen: np.ndarray) -> Judged:
        """Have units judged, and look at what was said."""

    def _judge(self, candidates: Candidates, **pairs: Any) -> Judged:
        (done,) = judging.judge(candidates, self.collection, [self.teacher], self.store, **pairs)
        return done


class Documents(Offer):
    """One candidate at a time."""

    unit = "pairs"
    usual = Coverage()

    def look(self) -> None:
        """Every score."""
        found = judging.read(self.candidates, self.collection, [self.teacher], self.store)[0]
        self.judged = found.astype(np.float64)
        self.open &= np.isnan(self.judged)
        self.paid = int((~np.isnan(self.judged)).sum())

    def _units(self) -> Units:
        return Units.documents(len(self.candidates))

    def _bought(self, chosen: np.ndarray) -> Judged:
        done = self._judge(Candidates(self.candidates.table.take(chosen)))
        self.look()
        return done


class Comparisons(Offer):
    """Two candidates of a query at a time, in both orders; what is known is read by Bradley-Terry."""

    unit = "comparisons"
    usual = Uncertainty()

    def look(self) -> None:
        """Every pair in the store, strengths and their standard errors."""
        self.judged, self.errors = (np.full(len(self.candidates), np.nan) for _ in range(2))
        self.paid = comparing.count(self.teacher, self.candidates, self.collection, self.store)[1]
        self._look_at(list(range(len(self.spans))))

    def _look_at(self, owners: Sequence[int]) -> None:
        """Read some queries alone: to look for a pair is to hash two texts, and few queries change at a time."""
        some = self.candidates.select([self.candidates.queries[owner] for owner in owners])
        matrices = comparing.preferences(self.teacher, some, self.collection, self.store)
        first, second = self.units.rows.reshape(-1, 2).T
        begins = np.searchsorted(first, self.candidates.offsets).tolist()
        for owner, wins in zip(owners, matrices, strict=True):
            span, mine = self.spans[owner], slice(begins[owner], begins[owner + 1])
            strengths, errors = bradley_terry(wins)
            self.judged[span], cast(np.ndarray, self.errors)[span] = strengths, errors
            self.open[mine] &= np.isnan(wins[first[mine] - span.start, second[mine] - span.start])

    def _units(self) -> Units:
        if self.teacher.pairs == "sort":
            raise InputError(
                f"teacher {self.teacher.label}: pairs: sort asks what a sort needs, and a budget leaves nothing of it; "
                "use pairs: all, or a number of pairs a query, for a rule to choose among"
            )
        count = sum(self.teacher.judgements(span.stop - span.start) for span in self.spans) // 2
        if count > _MOST_PAIRS:
            raise InputError(
                f"teacher {self.teacher.label}: a rule would choose among {count:,} pairs, more than {_MOST_PAIRS:,}; "
                "use pairs: N for at most so many a query"
            )
        queries = self.candidates.queries
        chosen = [
            np.array(sorted(self.teacher.chosen(query, span.stop - span.start)), dtype=np.int64).reshape(-1, 2)
            + span.start
            for query, span in zip(queries, self.spans, strict=True)
        ]
        rows = np.concatenate([*chosen, np.empty((0, 2), dtype=np.int64)])
        return Units(rows.ravel(), 2 * np.arange(len(rows) + 1), np.full(len(rows), 2))

    def _bought(self, chosen: np.ndarray) -> Judged:
        places = self.units.rows.reshape(-1, 2)[chosen]
        owners = np.searchsorted(self.candidates.offsets, places[:, 0], side="right") - 1
        pairs: dict[str, list[tuple[int, int]]] = {}
        for owner, (i, j) in zip(owners.tolist(), places.tolist(), strict=True):
            start = self.spans[owner].start
            pairs.setdefault(self.candidates.queries[owner], []).append((i - start, j - start))
        done = self._judge(self.candidates.select(list(pairs)), pairs=pairs)
        self.paid += done.judged
        self._look_at(np.unique(owners).tolist())
        return done


class Windows(Offer):
    """The beginning of a query's list, by one pass over it: the first window alone, or a pass from further down."""

    unit = "windows"
    usual = Uncertainty()

    def look(self) -> None:
        """How far down each query was judged, and in which order; the rest of a list counts as behind that."""
        scores = ordering.read(self.teacher, self.candidates, self.collection, self.store)
        self.judged = np.full(len(self.candidates), np.nan)
        reach = np.zeros(len(self.spans), dtype=np.int64)
        for number, span in enumerate(self.spans):
            mine = np.flatnonzero(~np.isnan(scores[span]))
            reach[number], count = len(mine), span.stop - span.start
            order = mine[np.argsort(-scores[span][mine], kind="stable")]
            self.judged[span.start + order] = 1 - np.arange(len(order)) / max(1, count - 1)
        self.groups = np.searchsorted(self.candidates.offsets, self.units.rows[self.units.offsets[:-1]], "right") - 1
        self.open &= np.diff(self.units.offsets) > reach[self.groups]
        self.paid = ordering.paid(self.teacher, self.candidates, self.collection, self.store)

    def ranking(self, hints: np.ndarray) -> np.ndarray:
        """What no window reached stays behind what one did, in the order expected, as where lists are re-ranked."""
        expected, _ = self.known(hints).expected
        ahead = float(np.ptp(expected)) + 1 if len(expected) else 0.0
        return np.where(np.isnan(self.judged), expected, self.judged + ahead + expected.max(initial=0.0))

    def _units(self) -> Units:
        rows, prices = list[np.ndarray](), list[int]()
        for span in self.spans:
            for number, depth in enumerate(self.teacher.depths(span.stop - span.start), start=1):
                rows.append(span.start + ordering.beginning(self.candidates.ranks[span], depth))
                prices.append(number * self.teacher.runs)
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return Units(np.concatenate([*rows, np.empty(0, np.int64)]), offsets, np.array(prices, dtype=np.int64))

    def _bought(self, chosen: np.ndarray) -> Judged:
        parts = [self.units.rows[self.units.offsets[unit] : self.units.offsets[unit + 1]] for unit in chosen.tolist()]
        done = self._judge(Candidates(self.candidates.table.take(np.sort(np.concatenate(parts)))))
        self.look()
        return done


def offer_of(teacher: Part, candidates: Candidates, collection: Collection, store: ScoreStore) -> Offer:
    """What a teacher offers."""
    return _kind(teacher)(teacher, candidates, collection, store)


def usual_rule(teacher: Part) -> Rule:
    """What spends a budget of a teacher's judgements where the user names no rule.

    Of single documents `coverage`: where the teacher is far better than the first stage it brings most, and one that is
    no better is not worth paying for by any rule. Comparisons and windows show many documents, of which the best-ranked
    would be paid for again and again; there it is `uncertainty`.
    """
    return _kind(teacher).usual


def _kind(teacher: Part) -> type[Offer]:
    return next((kind for form, kind in _OFFERS if isinstance(teacher, form)), Documents)


_OFFERS: Sequence[tuple[type, type[Offer]]] = ((Comparing, Comparisons), (Ordering, Windows))
