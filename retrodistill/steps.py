"""The stops of the road as functions: what the command line, the pipeline and Python call, all the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill import models
from retrodistill.candidates import IN_MEMORY, Candidates
from retrodistill.collections import Collection
from retrodistill.errors import InputError, nearest
from retrodistill.evaluation import protocol
from retrodistill.evaluation.protocol import DEFAULT_METRICS, Evaluation
from retrodistill.mining.once import found_once
from retrodistill.registry import Part, build, code_of, expand, table
from retrodistill.retrieval.encoded import EncoderRetriever
from retrodistill.runs import Qrels, Run
from retrodistill.scores.combine import default_combination
from retrodistill.scores.informative import Informative
from retrodistill.scores.kept import kept
from retrodistill.scores.learnt import Learnt, Lists
from retrodistill.scores.preferences import Preferences
from retrodistill.scores.store import ScoreStore
from retrodistill.spending import spend
from retrodistill.teachers import comparing, judging
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.ordering import Ordering
from retrodistill.teachers.teacher import form_of
from retrodistill.training.whole import WholeBatch

if TYPE_CHECKING:
    from retrodistill.retrieval.retriever import Retriever
    from retrodistill.sections import Score


def retriever_spec(system: str) -> dict[str, Any]:
    """What a system on the command line stands for: a retriever in its short form, or the name of a model."""
    kind = system.partition(":")[0]
    if kind in table("retriever") or ("." in kind and ":" in system and "/" not in kind):
        return expand("retriever", system)
    try:
        model_type = models.model_type(system)
    except InputError as error:
        if "/" in kind or Path(system).exists():
            raise
        raise InputError(f"{error}; if no model was meant: {nearest(kind, table('retriever'))}") from error
    if model_type == "CrossEncoder":
        raise InputError(
            f"model {system!r} is a CrossEncoder, expected a SentenceTransformer or another model that searches; it "
            f"re-ranks: {{kind: rerank, sources: [bm25], teacher: 'cross_encoder:{system}'}}"
        )
    return {"kind": _kind_that_reads(model_type), "model": system}


def _kind_that_reads(model_type: str) -> str:
    """The retriever for a class of sentence-transformers models; `dense`, which refuses it by name, where none is."""
    kinds = {
        part.encoder_class.model_type: kind
        for kind, part in table("retriever").items()
        if issubclass(part, EncoderRetriever)
    }
    return kinds.get(model_type, "dense")


def as_retriever(system: str | Part) -> Part:
    """A retriever from its short form, a model's name, or itself."""
    return system if isinstance(system, Part) else build("retriever", retriever_spec(system))


def evaluate(
    system: str | Part,
    collection: Collection,
    split: str = "test",
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    qrels: Qrels | None = None,
    depth: int | None = None,
    name: str | None = None,
) -> tuple[Evaluation, Run]:
    """Search for a split's queries and measure what is found, by BEIR's protocol.

    Args:
        system: a retriever, its short form (`bm25`, `run:FILE`, `index:FOLDER`) or a model's name.
        collection: what is searched.
        split: whose queries and judgements count.
        metrics: ir_measures names.
        qrels: judgements to use instead of the split's, with their own queries.
        depth: documents a query; enough for the metrics where None.
        name: what the report calls the system.
    """
    retriever = cast("Retriever", as_retriever(system))
    judgements = collection.qrels(split) if qrels is None else qrels
    unknown = [query for query in judgements if query not in collection.queries]
    if unknown:
        raise InputError(
            f"{len(unknown)} queries of the judgements are not in {collection.name}, such as {unknown[0]!r}"
        )
    depth = depth or protocol.needed_depth(metrics)
    searcher = retriever.open(collection)
    # one more than is measured, so that a query's own id can go without leaving a gap
    run = searcher.search(list(judgements), depth + 1)
    return protocol.evaluate_run(
        run,
        judgements,
        metrics=metrics,
        depth=depth,
        system=name or retriever.label,
        collection=collection.name,
        split=split,
        documents=len(collection.corpus),
        details=searcher.details,
    )


def score(
    section: Score,
    candidates: Candidates,
    collection: Collection,
    store: ScoreStore,
    seed: int,
    tell: Callable[[str], None],
) -> None:
    """Have teachers judge candidates: all of them, or within a budget those that a rule chooses.

    Args:
        section: teachers, budget, rule and hints.
        candidates: what mining found.
        collection: where texts are.
        store: where judgements are kept.
        seed: of the rule's draws.
        tell: is told a line at a time what was done.
    """
    full = [teacher for teacher in section.teachers if section.bought_by(teacher) is None]
    for judged in judging.judge(candidates, collection, [*full, *section.looked_at], store):
        tell(str(judged))
        if judged.failed and not judged.judged and not judged.stored:
            raise InputError(f"teacher {judged.teacher} failed at all {len(judged.failed):,} {judged.unit}; see above")
    for teacher in section.teachers:
        rule = section.bought_by(teacher)
        if section.budget is not None and rule is not None:
            unit = judging.UNITS[form_of(teacher)]
            tell(f"{teacher.label}: {section.budget:,} {unit} by {rule.label}")
            hints = section.hints
            for spent in spend(rule, section.budget, teacher, candidates, collection, store, hints=hints, seed=seed):
                tell(f"  {spent}")


def teacher_scores(
    candidates: Candidates,
    collection: Collection,
    teachers: Sequence[Part],
    store: ScoreStore,
    combine: Part | None = None,
    learnt_from: Candidates | None = None,
    every: bool = False,
) -> np.ndarray | None:
    """The stored scores of several teachers as one, float32 (candidates,), NaN where missing; None without teachers.

    A combination that learns from labels learns from those of the candidates themselves, no query from its own, or from
    those of `learnt_from`, candidates of the train split, where the labels of these must not be looked at. One that
    chooses what to teach leaves nothing out where scores are asked of `every` row, to be measured.

    Those of more than `IN_MEMORY` candidates by teachers that score pairs are kept in the cache folder, and mapped.
    """
    if not teachers:
        return None
    combination = cast(Any, combine or default_combination(len(teachers)))
    if every:
        combination = combination.unfiltered()
    if isinstance(combination, Informative) and not every:
        scores = judging.read(candidates, collection, [*teachers, combination.student], store)
        return combination.chosen(scores[:-1], scores[-1], candidates.offsets)
    if isinstance(combination, Learnt):
        lists = _lists(candidates, collection, teachers, store)
        if learnt_from is None:
            return combination.cross_fitted(lists)
        return combination.learnt(_lists(learnt_from, collection, teachers, store))(lists.scores, lists.offsets)

    def joined() -> np.ndarray:
        return combination(judging.read(candidates, collection, teachers, store), candidates.offsets)

    if len(candidates) <= IN_MEMORY or any(isinstance(teacher, Comparing | Ordering) for teacher in teachers):
        return joined()
    found = judging.identities(collection, teachers)

    def described() -> dict[str, Any]:
        return {
            "candidates": candidates.digest,
            "texts": collection.digest,
            "scores": [[identity, store.part_names(identity)] for identity in found],
            "combine": [
                type(combination).__qualname__,
                {**combination.model_dump(exclude={"weigh"}), **code_of(combination)},
            ],
        }

    return kept(described, joined, lambda: not store.damaged)


def teacher_certainty(
    candidates: Candidates,
    collection: Collection,
    teachers: Sequence[Part],
    store: ScoreStore,
    combine: Part | None = None,
) -> np.ndarray | None:
    """How much each of `teacher_scores` counts, float32 (candidates,); None where the combination weighs by nothing."""
    combination = cast(Any, combine)
    if not teachers or combination is None or combination.weigh is None:
        return None
    scores = judging.read(candidates, collection, teachers, store)
    errors = judging.errors(candidates, collection, teachers, store) if combination.weigh == "error" else None
    return cast(np.ndarray, combination.certainty(scores, candidates.offsets, errors))


def taught(
    losses: Sequence[Part],
    candidates: Candidates,
    collection: Collection,
    teachers: Sequence[Part],
    store: ScoreStore,
    combine: Part | None = None,
) -> dict[str, Any]:
    """What a training takes from its teachers, as `train` is called with it.

    Scores, what they count, comparisons, and where one of the losses asks for it, who scores whole batches.
    """
    asking = any(cast(Any, loss).asks_teachers for loss in losses)
    return {
        "whole": WholeBatch(teachers, combine, collection) if asking else None,
        "teacher": teacher_scores(candidates, collection, teachers, store, combine),
        "certainty": teacher_certainty(candidates, collection, teachers, store, combine),
        "preferences": teacher_preferences(candidates, collection, teachers, store),
    }


def _lists(candidates: Candidates, collection: Collection, teachers: Sequence[Part], store: ScoreStore) -> Lists:
    return Lists(
        judging.read(candidates, collection, teachers, store),
        candidates.offsets,
        candidates.labels,
        [collection.queries.text(query) for query in candidates.queries],
    )


def teacher_preferences(
    candidates: Candidates, collection: Collection, teachers: Sequence[Part], store: ScoreStore
) -> Preferences | None:
    """What those of the teachers that compare documents say of candidates, their mean; None where none does."""
    comparing_ones = [teacher for teacher in teachers if isinstance(teacher, Comparing)]
    if not comparing_ones:
        return None
    said = zip(
        *(comparing.preferences(teacher, candidates, collection, store) for teacher in comparing_ones), strict=True
    )
    return Preferences.of((_mean(matrices) for matrices in said), candidates.offsets[:-1].tolist())


def _mean(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Entry by entry over those that are no NaN."""
    stacked = np.stack(matrices)
    heard = (~np.isnan(stacked)).sum(axis=0)
    return np.divide(np.nansum(stacked, axis=0), heard, out=np.full(heard.shape, np.nan), where=heard > 0)


def evaluate_teacher(
    collection: Collection,
    split: str,
    *,
    sources: Sequence[Part],
    depth: int,
    teachers: Sequence[Part],
    store: ScoreStore,
    combine: Part | None = None,
    learnt_from: Candidates | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> tuple[Evaluation, Run]:
    """Have the teachers re-rank what the sources find for a split: what the student could at best learn to do.

    No labelled document is added to the candidates, and none is filtered or sampled away. A combination that learns
    from labels learns from those of `learnt_from`, never from those of the split.
    """
    if not teachers:
        raise InputError("there is no teacher to evaluate; name one in score.teachers")
    if isinstance(combine, Learnt) and learnt_from is None:
        raise InputError(
            f"combine: {combine.kind} learns from labels, which must not be those of {split!r}, the split that is "
            "measured; give candidates of the train split as learnt_from"
        )
    candidates = found_once(collection, split, sources, depth)
    judging.judge(candidates, collection, teachers, store)
    scores = cast(np.ndarray, teacher_scores(candidates, collection, teachers, store, combine, learnt_from, every=True))
    run: Run = {query: {} for query in collection.query_ids(split)}
    run.update(run_of(candidates, scores))
    return protocol.evaluate_run(
        run,
        collection.qrels(split),
        metrics=metrics,
        depth=protocol.needed_depth(metrics),
        system="teacher",
        collection=collection.name,
        split=split,
        documents=len(collection.corpus),
        details={
            "system": "teacher over candidates",
            "teachers": [teacher.label for teacher in teachers],
            "candidates_from": [source.label for source in sources],
            "depth": depth,
            **_speed_of(teachers, collection),
        },
    )


def beyond(
    limit: int | None,
    section: Score,
    collection: Collection,
    split: str,
    sources: Sequence[Part],
    depth: int,
    store: ScoreStore,
) -> str | None:
    """Why an evaluation of teachers is not paid for; None where each that is no hint stays within the limit."""
    teachers = [teacher for teacher in section.teachers if teacher not in section.hints]
    if limit is None or not teachers:
        return None
    candidates = found_once(collection, split, sources, depth)
    for teacher in teachers:
        if (needed := judging.missing(teacher, candidates, collection, store)) > limit:
            return (
                f"{teacher.label} would be asked for {needed:,} judgements of test candidates, and "
                f"evaluate.teacher_budget allows {limit:,}"
            )
    return None


def run_of(candidates: Candidates, scores: np.ndarray) -> Run:
    """Candidates as results, those without a score left out."""
    run: Run = {query: {} for query in candidates.queries}
    for query, doc, score in zip(candidates.query_ids, candidates.doc_ids, scores, strict=True):
        if not np.isnan(score):
            run[query][doc] = float(score)
    return run


def _speed_of(teachers: Sequence[Part], collection: Collection) -> dict[str, Any]:
    """The encoding speed and size of the teacher that encodes, where exactly one does."""
    speeds = []
    for teacher in teachers:
        details = getattr(cast(Any, teacher).open(collection), "details", {})
        if "encode_documents_per_second" in details:
            speeds.append({key: details[key] for key in _SIZES if key in details})
    return speeds[0] if len(speeds) == 1 else {}


_SIZES = ("parameters", "encode_documents_per_second", "encode_queries_per_second")


def save_evaluation(folder: Path, evaluation: Evaluation, run: Run) -> None:
    """Write run.trec, results.json and per_query.parquet."""
    protocol.save(folder, evaluation, run)
