"""Combinations that learn from labels which teachers to listen to, and what they learn from."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from retrodistill.errors import InputError
from retrodistill.scores.combine import Combination, Groups

# Scores (T, N) and offsets to what they are as one, float32 (N,).
Combined = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Lists:
    """Judged lists of labelled queries.

    Attributes:
        scores: the teachers' raw scores, (teachers T, rows N), NaN where a teacher has none.
        offsets: where each query's rows start, and N: int64, (queries + 1,).
        grades: of the labels, (N,), NaN where nobody judged.
        queries: the queries' texts, so that one text is one query under whatever id.
    """

    scores: np.ndarray
    offsets: np.ndarray
    grades: np.ndarray
    queries: Sequence[str]

    def only(self, chosen: np.ndarray) -> Lists:
        """Those of some queries, bool (queries,)."""
        lengths = np.diff(self.offsets)
        rows = np.repeat(chosen, lengths)
        offsets = np.append(0, np.cumsum(lengths[chosen]))
        queries = [text for text, kept in zip(self.queries, chosen, strict=True) if kept]
        return Lists(self.scores[:, rows], offsets, self.grades[rows], queries)

    @property
    def labelled(self) -> np.ndarray:
        """Queries with a relevant document in their list, bool (queries,)."""
        found = np.append(0, np.cumsum(self.grades > 0))[self.offsets]
        return np.diff(found) > 0


class Learnt(Combination):
    """A combination that learns from the labels of train queries what each teacher is worth for a query.

    Attributes:
        folds: a train query's weights come from what was learnt without the labels of its fold. Queries of one text are
            in one fold.
        seed: of the deal into folds.
    """

    folds: int = Field(5, ge=2, description="parts of the train queries, each weighed without its own labels")
    seed: int = Field(0, ge=0, description="of the deal into folds")

    @abstractmethod
    def learn(self, lists: Lists) -> Combined:
        """What labelled queries teach, as a combination for any other queries of the same teachers."""

    def combined(self, values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
        """Never without labels."""
        raise InputError(f"{self.kind} has learnt nothing yet; `learn` or `cross_fitted` take the labels it needs")

    def learnt(self, lists: Lists) -> Combined:
        """What lists with labels teach.

        Raises:
            InputError: fewer queries than folds have a relevant document.
        """
        labelled = lists.labelled
        if labelled.sum() < self.folds:
            raise InputError(
                f"combine: {self.kind} learns from labels, and {labelled.sum()} of {len(labelled)} queries have a "
                f"relevant document among their candidates, fewer than its {self.folds} folds; mine with labels, or "
                "combine by a rule that needs none, such as mean"
            )
        return self.learn(lists.only(labelled))

    def cross_fitted(self, lists: Lists) -> np.ndarray:
        """Combine the very lists that are learnt from, no query by its own labels: float32 (N,).

        Raises:
            InputError: fewer queries than folds have a relevant document, or all of those are in one fold.
        """
        fold, result = self._dealt(lists), np.full(lists.scores.shape[1], np.nan, dtype=np.float32)
        self.learnt(lists)
        for number in range(self.folds):
            chosen = fold == number
            if chosen.any():
                learnt = self.learn(lists.only(~chosen & lists.labelled))
                rows = np.repeat(chosen, np.diff(lists.offsets))
                # all of them, as a scale may be of all queries
                result[rows] = learnt(lists.scores, lists.offsets)[rows]
        return result

    def _dealt(self, lists: Lists) -> np.ndarray:
        """The fold of each query, by a digest of its text: int64 (queries,)."""
        salt = self.seed.to_bytes(8, "little")
        digests = [_digest(text, salt) for text in lists.queries]
        place = {digest: number for number, digest in enumerate(sorted(set(digests)))}
        return np.array([place[digest] % self.folds for digest in digests], dtype=np.int64)


def _digest(text: str, salt: bytes) -> bytes:
    words = " ".join(text.lower().split()).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(words, digest_size=16, salt=salt).digest()
