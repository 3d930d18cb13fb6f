"""Cross-fitting: each query is judged by a model that has not seen its labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from retrodistill.errors import InputError
from retrodistill.folds import Folds, place_of
from retrodistill.registry import Part, of
from retrodistill.teachers.teacher import Judge, Teacher, form_of

if TYPE_CHECKING:
    from retrodistill.collections import Collection


class CrossFitted(Teacher):
    """The models that a round trained with `folds:`, such as `cross_encoder:@ROUND`, as one teacher.

    A labelled query of the train split is judged by the model whose fold it is in, which was not trained on it; a query
    that none was trained on by the labels of, such as one of the test split, by the mean of all. A teacher that was
    trained on the labels of the very query that it judges says little that they do not; this one says what it would of
    a new query (the sample-splitting of Chernozhukov et al. 2018, as Dao et al. 2021 use it to distil).
    """

    argument: ClassVar[str | None] = "teacher"
    kind: Literal["cross_fitted"] = "cross_fitted"
    teacher: of("teacher")  # type: ignore[valid-type]

    @property
    def folder(self) -> Path:
        """Where the models lie."""
        return Path(self.teacher.model)

    def check(self) -> None:
        """Find the models."""
        if not hasattr(self.teacher, "model") or form_of(self.teacher) != "pointwise":
            raise InputError(f"cross_fitted: {self.teacher.kind} is no teacher that scores by a model of its own")
        for member in self.members(Folds.read(self.folder)):
            member.check()

    def members(self, folds: Folds) -> list[Part]:
        """The teacher of each fold."""
        models = [str(place_of(self.folder, fold)) for fold in range(folds.count)]
        return [cast(Part, self.teacher.model_copy(update={"model": model})) for model in models]

    def open(self, collection: Collection) -> CrossFittedJudge:
        """Find the models; weights are loaded when first needed."""
        self.check()
        return CrossFittedJudge(self, collection)


class CrossFittedJudge:
    """The models of all folds on one collection."""

    def __init__(self, options: CrossFitted, collection: Collection) -> None:
        self.folds = Folds.read(options.folder)
        self.collection = collection
        self.judges: list[Judge] = [cast(Any, member).open(collection) for member in options.members(self.folds)]

    @property
    def pairs_a_part(self) -> int:
        """As its models have it."""
        return self.judges[0].pairs_a_part

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The models, and who is in which fold."""
        return {
            "kind": "cross_fitted",
            "models": [judge.identity for judge in self.judges],
            "folds": self.folds.digest,
        }

    def query_text(self, query_id: str) -> str:
        """As its models read it."""
        return self.judges[0].query_text(query_id)

    def document_text(self, doc_id: str) -> str:
        """As its models read it."""
        return self.judges[0].document_text(doc_id)

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """Raw scores, float32 (pairs,), each by the one model that has not seen the query, or the mean of all."""
        asked = {query: self.folds.fold_of(self.collection.queries.text(query)) for query in set(query_ids)}
        fold_of = [asked[query] for query in query_ids]
        total, heard = np.zeros(len(query_ids)), np.zeros(len(query_ids))
        for fold, judge in enumerate(self.judges):
            rows = [row for row, found in enumerate(fold_of) if found is None or found == fold]
            if rows:
                total[rows] += judge.score([query_ids[row] for row in rows], [doc_ids[row] for row in rows])
                heard[rows] += 1
        return (total / heard).astype(np.float32)


TEACHERS = {"cross_fitted": CrossFitted}
