"""What a teacher is expected to say of what it was not asked, from what cheaper ones say and what it said so far."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_ROUNDS = 20


class Expectation(NamedTuple):
    """A regression with a level of its own for each query.

    Attributes:
        level: of a candidate's query, float64 (N,).
        fitted: what hints add to it, float64 (N,).
        wrong: the standard deviation of what is left.
        share: of the candidates of a query that was judged, float64 (N,).
    """

    level: np.ndarray
    fitted: np.ndarray
    wrong: float
    share: np.ndarray

    @classmethod
    def of(cls, judged: np.ndarray, hints: np.ndarray, offsets: np.ndarray) -> Expectation:
        """Regression of what was judged on the hints, in turn with the levels of queries.

        No hint speaks against a candidate: slopes are at least 0, since what was judged first may all stand at the top,
        where hints that go together get slopes of both signs that turn the rest upside down.

        A teacher likes all documents of one query better than all of another. A level is shrunk towards 0 by how much
        levels vary and how many judgements tell it: the best linear unbiased prediction of a random intercept
        (Henderson 1975, "Best Linear Unbiased Estimation and Prediction under a Selection Model"), by moments.

        Args:
            judged: float64 (N,), NaN where not.
            hints: float64 (H, N), without NaN.
            offsets: int64 (queries + 1,).
        """
        known = ~np.isnan(judged)
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        mine, said, whose = hints[:, known].T, judged[known], owner[known]
        count = np.bincount(whose, minlength=len(offsets) - 1)
        heard, level = count > 0, np.zeros(len(count))
        repeated = len(said) - int(heard.sum())  # with one judgement a query, levels are not to be told from errors
        weights, base = _slopes(mine, said)
        for _ in range(_ROUNDS if repeated >= 2 * (len(hints) + 1) else 0):
            rest = said - base - mine @ weights
            mean = np.bincount(whose, rest, minlength=len(count)) / np.maximum(count, 1)
            within = max(((rest - mean[whose]) ** 2).sum() / repeated, 1e-12)
            between = max(0.0, (mean[heard] ** 2).mean() - (within / count[heard]).mean())
            level = mean * count * between / (count * between + within)
            weights, base = _slopes(mine, said - level[whose])
        fitted = weights @ hints
        wrong = max(float((said - (base + level[whose] + fitted[known])).std()), 1e-6)
        fitted = fitted + 1e-6 * wrong * hints.mean(axis=0)  # where none is worth anything, their order stands
        share = (count / np.maximum(np.diff(offsets), 1))[owner]
        return cls(base + level[owner], fitted, wrong, share)

    @property
    def matched(self) -> np.ndarray:
        """The hints' order with the spread of the teacher's scores, float64 (N,)."""
        spread = float(self.fitted.std())
        return self.level + self.fitted * (np.hypot(spread, self.wrong) / spread if spread > 1e-12 else 1.0)

    def merged(self, stands: np.ndarray, known: np.ndarray) -> np.ndarray:
        """A ranking of what was judged, as it `stands`, among what was not: float64 (N,).

        What was judged has the spread of the teacher's scores, and what is expected only that of the hints, so that
        of many middling documents the few judged ones with luck would float above all that are expected to be good. So
        what was not judged stands one standard deviation of its error higher, as what is relevant is among the best
        that it may be; and what was judged is drawn to its hints, brought to the same spread, by half where its query
        is as good as unjudged, and not at all where all of it is judged, which leaves the teacher's own order.
        """
        trust = 1 - (1 - self.share) / 2
        drawn = trust * np.where(known, stands, 0.0) + (1 - trust) * self.matched
        return np.where(known, drawn, self.level + self.fitted + self.wrong)


def _slopes(hints: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, float]:
    """Slopes of hints (n, H), at least 0, by ridge regression, and the intercept."""
    from scipy.optimize import nnls

    centre, mean = hints.mean(axis=0), float(said.mean())
    ridge = np.sqrt(1e-3 * len(said)) * np.eye(hints.shape[1])
    found, _ = nnls(np.vstack([hints - centre, ridge]), np.concatenate([said - mean, np.zeros(len(ridge))]))
    return found, mean - float(centre @ found)
