"""Rules that ask where an answer would change most."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from retrodistill.spending.rule import Known, Rule


class Uncertainty(Rule):
    """Candidates of which it is uncertain whether they belong among a query's first `top`.

    The teacher's score is expected from the sources' order and the scores of cheaper teachers, by a regression on what
    it said so far; its error, taken to be normal, makes of the distance from the `top`-th expected score a probability
    p of belonging, and p (1 - p) is what a judgement is worth: uncertainty sampling (Lewis and Gale 1994, "A Sequential
    Algorithm for Training Text Classifiers") of the one question that nDCG at `top` asks.

    Of two documents the question is which comes first: expected strengths and their standard errors, those of
    Bradley-Terry where they were compared, make of it a probability q, and q (1 - q) times the greater chance of the
    two to belong is what a comparison is worth. A window is worth the sum over its documents, a judgement. What is
    bought of comparisons and windows where no rule is named.
    """

    kind: Literal["uncertainty"] = "uncertainty"
    top: int = Field(10, ge=1, description="places of a query that count")

    def worth(self, known: Known, generator: np.random.Generator) -> np.ndarray:
        """That product; chance between equals."""
        from scipy.stats import norm

        expected, wrong = known.expected
        wrong = np.maximum(wrong, 1e-9)
        belongs = np.empty(len(expected))
        for rows in known.queries():
            mine = np.sort(expected[rows])[::-1]
            edge = mine[: self.top + 1][-2:].mean()  # between the last that belongs and the first that does not
            belongs[rows] = norm.cdf((expected[rows] - edge) / wrong[rows])
        if (pairs := known.units.pairs) is None:
            worth = known.units.total(belongs * (1 - belongs))
        else:
            first, second = pairs.T
            wins = norm.cdf((expected[first] - expected[second]) / np.hypot(wrong[first], wrong[second]))
            worth = wins * (1 - wins) * np.maximum(belongs[first], belongs[second])
        return worth + 1e-9 * generator.random(len(worth))


class Disagreement(Rule):
    """Candidates that those who judge cheaply place differently, such as the student and the first stage.

    Worth is the spread of a candidate's places, as shares of 1 / log2(1 + place), over the sources' order, each of
    `hints` and what the teacher is expected to say: what stands high with one and low with another counts, what all
    place low does not. A student as a hint makes it the disagreement of student and teacher. Of two documents it is the
    spread of how far one stands before the other; a window is worth the sum over its documents, a judgement.
    """

    kind: Literal["disagreement"] = "disagreement"

    def worth(self, known: Known, generator: np.random.Generator) -> np.ndarray:
        """The standard deviation over judges of discounts, or of the difference of two."""
        expected, _ = known.expected
        judges = np.vstack([known.hints, expected])
        discounts = np.empty_like(judges)
        for rows in known.queries():
            order = np.argsort(-np.where(np.isnan(judges[:, rows]), -np.inf, judges[:, rows]), axis=1, kind="stable")
            places = np.argsort(order, axis=1, kind="stable") + 1
            discounts[:, rows] = 1 / np.log2(1 + places)
        if (pairs := known.units.pairs) is None:
            worth = known.units.total(np.where(np.isnan(known.judged), discounts.std(axis=0), 0.0))
        else:
            worth = (discounts[:, pairs[:, 0]] - discounts[:, pairs[:, 1]]).std(axis=0)
        return worth + 1e-9 * generator.random(len(worth))


SPENDING = {"uncertainty": Uncertainty, "disagreement": Disagreement}
