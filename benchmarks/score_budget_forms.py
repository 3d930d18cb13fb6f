"""Claim: the rule that spends a budget best depends on what is bought: documents, comparisons or windows.

Lists whose documents have a worth drawn by chance; the first stage ranks them by it and much noise, the teacher by it
and less or as much, and each query's three worthiest are relevant. nDCG@10 as `spend` tells it, what was not judged
standing as it is expected to, by rule and judgements a query; the mean over seeds. Synthetic: it tells which rule, not
how much.

    python benchmarks/score_budget_forms.py [QUERIES] [SEEDS]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.console import markdown_table
from retrodistill.registry import Part, build
from retrodistill.scores.orders import Order
from retrodistill.scores.store import ScoreStore
from retrodistill.spending import spend
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.ordering import Ordering
from retrodistill.teachers.teacher import Teacher

DEPTH, RELEVANT, FIRST_STAGE = 30, 3, 2.0
TEACHERS = {"far better than the first stage": 0.3, "no better": FIRST_STAGE}
RULES = ("random", "coverage", "uncertainty", "disagreement")


class Answers:
    """What a teacher says of documents whose opinion of each stands in their text."""

    pairs_a_part = 4_096

    def __init__(self, collection: Collection) -> None:
        self.query_text, self.document_text = collection.queries.text, collection.corpus.text
        self.identity = {"kind": "synthetic"}

    def _values(self, doc_ids: Sequence[str]) -> np.ndarray:
        return np.array([float(self.document_text(doc)) for doc in doc_ids], dtype=np.float32)

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """The opinions."""
        return self._values(doc_ids)

    def prefer(self, query_ids: Sequence[str], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """Log-odds that the first is better."""
        return 2 * (self._values(first) - self._values(second))

    def order(self, windows: Sequence[Any]) -> list[Order]:
        """The best first."""
        orders = (np.argsort(-self._values(window.doc_ids)).tolist() for window in windows)
        return [Order(tuple(places), None, "", 0) for places in orders]


class Scoring(Teacher):
    """Scores documents."""

    kind: Literal["scoring"] = "scoring"

    def open(self, collection: Collection) -> Answers:
        """Nothing to load."""
        return Answers(collection)


class Preferring(Comparing):
    """Compares two."""

    kind: Literal["preferring"] = "preferring"
    model: str = ""

    def open(self, collection: Collection) -> Answers:
        """Nothing to load."""
        return Answers(collection)


class Sorting(Ordering):
    """Orders ten."""

    kind: Literal["sorting"] = "sorting"
    model: str = ""

    def open(self, collection: Collection) -> Answers:
        """Nothing to load."""
        return Answers(collection)


FORMS: dict[str, tuple[Part, tuple[int, ...]]] = {
    "documents": (Scoring(), (0, 2, 4, 8, 15, DEPTH)),
    "comparisons": (Preferring(), (0, 10, 30, 80, 200)),
    "windows": (Sorting(window=10, stride=5), (0, 1, 2, 3, 5)),
}


def world(queries: int, noise: float, seed: int) -> tuple[Collection, Candidates]:
    """A collection whose documents say what the teacher thinks of them, and its candidates."""
    generator = np.random.default_rng(seed)
    texts, rows = [], {}
    for number in range(queries):
        worth = generator.normal(size=DEPTH)
        found = np.argsort(-(worth + FIRST_STAGE * generator.normal(size=DEPTH))).tolist()
        opinion = worth + noise * generator.normal(size=DEPTH)
        relevant = set(np.argsort(-worth)[:RELEVANT].tolist())
        texts += [(f"{number}.{doc}", "", repr(float(opinion[doc]))) for doc in range(DEPTH)]
        rows[str(number)] = [
            (f"{number}.{doc}", "first", rank, 0.0, 1 if doc in relevant else None)
            for rank, doc in enumerate(found, start=1)
        ]
    asked = Texts.queries("synthetic", [(str(number), f"query {number}") for number in range(queries)])
    return Collection("synthetic", Texts.documents("synthetic", texts), asked, {}), Candidates.of(rows)


def bought(rule: str, teacher: Part, judgements: int, queries: int, noise: float, seed: int) -> float:
    """The nDCG@10 in the end."""
    collection, candidates = world(queries, noise, seed)
    with tempfile.TemporaryDirectory() as folder:
        store = ScoreStore(Path(folder))
        accounts = spend(
            build("spending", rule), judgements * queries, teacher, candidates, collection, store, seed=seed
        )
        *_, last = accounts
    return last.ndcg or 0.0


def main(queries: int, seeds: int) -> None:
    for told, noise in TEACHERS.items():
        for form, (teacher, budgets) in FORMS.items():
            rows = []
            for rule in RULES:
                means = [
                    np.mean([bought(rule, teacher, budget, queries, noise, seed) for seed in range(seeds)])
                    for budget in budgets
                ]
                rows.append([rule, *(f"{mean:.4f}" for mean in means)])
            print(f"\nteacher {told}; {form} a query\n")
            print(markdown_table(["rule", *map(str, budgets)], rows), flush=True)


if __name__ == "__main__":
    given = [*sys.argv[1:], *("40", "2")[len(sys.argv) - 1 :]]
    main(int(given[0]), int(given[1]))
