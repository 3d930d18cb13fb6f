"""Before anything is trained: does the teacher know more than its student, and than the first stage?"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from retrodistill import console, steps
from retrodistill.candidates import Candidates
from retrodistill.collections import Collection
from retrodistill.errors import InputError
from retrodistill.evaluation.metrics import measure, parse_metrics
from retrodistill.mining.mine import mine
from retrodistill.pipeline import Walk
from retrodistill.recipe import Recipe
from retrodistill.registry import Part
from retrodistill.runs import Qrels
from retrodistill.scores.store import ScoreStore
from retrodistill.sections import Score
from retrodistill.teachers import judging


@dataclass(frozen=True)
class Audit:
    """What each system makes of the same candidates.

    Attributes:
        split: whose labels count.
        queries: how many of its queries were looked at.
        rows: (system, its part in the recipe, nDCG@10).
        warnings: what speaks against training so.
    """

    split: str
    queries: int
    rows: list[tuple[str, str, float]]
    warnings: list[str]

    def table(self) -> str:
        """For the person who decides."""
        rows = [[name, part, f"{value:.4f}"] for name, part, value in self.rows]
        header = [f"{self.queries} queries of {self.split}", "part", "nDCG@10"]
        return "\n".join([console.markdown_table(header, rows, numbers=False), *self.warnings])


def audit(recipe: Recipe, limit: int = 200) -> Audit:
    """Hold teachers, students and sources of a recipe's first round against the labels, on the same candidates.

    The candidates are what the sources find for labelled queries of dev, or of train where there is no dev; no labelled
    document is added. What teachers judge goes into the store, as in any other judging. Where the recipe has a budget,
    so many queries are audited as it pays for, of each teacher that is no hint.

    Args:
        recipe: what is to be run.
        limit: queries at most, the first of the split.

    Raises:
        InputError: there is no teacher, no labelled query, or a budget that does not pay for one of them.
    """
    walk = Walk(recipe)
    stage = walk.stages[0]
    if not stage.score.teachers:
        raise InputError("there is no teacher to audit; name one in score.teachers")
    split = recipe.data.measured_on or recipe.data.train
    collection = _only(walk.collection, split, limit)
    sources, teachers = stage.mine.searching, stage.score.teachers
    candidates, _ = mine(collection, _SPLIT, sources, depth=stage.mine.depth, positives=False)
    if stage.score.budget is not None:
        paid = candidates.queries[: _paid(stage.score, candidates, collection, walk.store)]
        candidates, collection = candidates.select(paid), _audited(collection, paid, collection.qrels(_SPLIT))
    for judged in judging.judge(candidates, collection, teachers, walk.store):
        console.say(str(judged))
    rows = [(source.label, "source", _found(source, collection)) for source in sources]
    for teacher in teachers:
        scores = steps.teacher_scores(candidates, collection, [teacher], walk.store)
        rows.append((teacher.label, "teacher", _ndcg(candidates, scores, collection)))
    best = rows[-1][2]
    if len(teachers) > 1:
        combine = stage.score.combine
        together = steps.teacher_scores(candidates, collection, teachers, walk.store, combine, every=True)
        best = _ndcg(candidates, together, collection)
        rows.append(("all of them", "teacher", best))
    warnings = []
    for name, train in stage.students.items():
        if cast(Any, train.student).emits == "pairs":
            continue  # a fresh cross-encoder knows nothing yet
        student = walk.system_of(stage, train, walk.before(stage, name))
        scores = _scores_of(student, candidates, collection)
        rows.append((f"{name} before training", "student", _ndcg(candidates, scores, collection)))
        if best <= rows[-1][2]:
            warnings.append(
                f"WARNING: THE TEACHER ({best:.4f}) IS NO BETTER THAN {name.upper()} BEFORE TRAINING "
                f"({rows[-1][2]:.4f}); THERE IS NOTHING TO LEARN FROM IT ON THIS COLLECTION"
            )
    first = max(value for _, part, value in rows if part == "source")
    if best <= first:
        warnings.append(
            f"WARNING: THE TEACHER ({best:.4f}) IS NO BETTER THAN THE BEST SOURCE ALONE ({first:.4f}); "
            "IT REORDERS WHAT WAS IN ORDER"
        )
    return Audit(split, len(collection.query_ids(_SPLIT)), rows, warnings)


_SPLIT = "audited"


def _only(collection: Collection, split: str, limit: int) -> Collection:
    """The collection with the first labelled queries of a split as a split of their own."""
    qrels = collection.qrels(split)
    labelled = [query for query in collection.query_ids(split) if any(grade > 0 for grade in qrels[query].values())]
    if not labelled:
        raise InputError(f"no query of {split!r} has a relevant document; an audit needs labels")
    return _audited(collection, labelled[:limit], qrels)


def _audited(collection: Collection, queries: Sequence[str], qrels: Qrels) -> Collection:
    chosen = {query: qrels[query] for query in queries}
    return Collection(collection.name, collection.corpus, collection.queries, {_SPLIT: chosen})


def _paid(section: Score, candidates: Candidates, collection: Collection, store: ScoreStore) -> int:
    """How many queries, from the first, each teacher that is no hint can judge within the budget."""
    teachers = [teacher for teacher in section.teachers if teacher not in section.hints]

    def needed(queries: int) -> int:
        some = candidates.select(candidates.queries[:queries])
        return max((judging.missing(teacher, some, collection, store) for teacher in teachers), default=0)

    budget = cast(int, section.budget)
    paid = bisect_right(range(1, len(candidates.queries) + 1), budget, key=needed)
    if not paid:
        raise InputError(
            f"score.budget: {budget:,} does not pay for the audit of one query, which takes {needed(1):,} judgements; "
            "raise it, or lower mine.depth"
        )
    if paid < len(candidates.queries):
        console.say(f"score.budget: {budget:,} pays for {paid:,} of {len(candidates.queries):,} queries")
    return paid


def _found(source: Part, collection: Collection) -> float:
    evaluation, _ = steps.evaluate(source, collection, _SPLIT, metrics=["nDCG@10"])
    return evaluation.metrics["nDCG@10"]


def _scores_of(student: Part, candidates: Candidates, collection: Collection) -> np.ndarray:
    return cast(np.ndarray, cast(Any, student).open(collection).score(candidates.query_ids, candidates.doc_ids))


def _ndcg(candidates: Candidates, scores: np.ndarray | None, collection: Collection) -> float:
    run = {} if scores is None else steps.run_of(candidates, scores)
    qrels = collection.qrels(_SPLIT)
    measured = measure({query: run.get(query, {}) for query in qrels}, qrels, parse_metrics(["nDCG@10"]))
    return float(np.mean(list(measured["nDCG@10"].values())))
