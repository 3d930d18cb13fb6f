"""Filters: which found documents cannot stand as negatives."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from retrodistill.registry import Part

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class Filter(Part):
    """A rule that drops documents unlikely to be negative. Labelled documents are never asked about."""

    @abstractmethod
    def keep(self, documents: Sequence[str], positives: Sequence[str], collection: Collection) -> np.ndarray:
        """Which unlabelled documents stay, bool, shape (documents,).

        Args:
            documents: ids of a query's unlabelled documents.
            positives: ids of its relevant documents.
            collection: where their texts are.
        """


class DuplicatesOfPositives(Filter):
    """Drops documents that say the same as a positive, letter case, punctuation and spaces aside."""

    kind: Literal["duplicates"] = "duplicates"

    def keep(self, documents: Sequence[str], positives: Sequence[str], collection: Collection) -> np.ndarray:
        """Compare normalised texts."""
        relevant = {_normal(collection.corpus.text(doc)) for doc in positives if doc in collection.corpus}
        return np.array([_normal(collection.corpus.text(doc)) not in relevant for doc in documents], dtype=bool)


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


FILTERS = {"duplicates": DuplicatesOfPositives}
