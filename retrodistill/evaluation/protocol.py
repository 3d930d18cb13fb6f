"""BEIR's protocol in one place, so that every number was made the same way, and the files that hold the numbers.

The query's own id is dropped, then the run is cut, then every judged query counts, with or without results.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrodistill.console import say
from retrodistill.errors import InputError
from retrodistill.evaluation.metrics import measure, parse_metrics
from retrodistill.evaluation.significance import bootstrap_interval
from retrodistill.files import atomic_file, write_json
from retrodistill.runs import Qrels, Run, cut, write_run

DEFAULT_METRICS = ("nDCG@10", "AP@100", "R@100", "RR@10")
RUN, RESULTS, PER_QUERY = "run.trec", "results.json", "per_query.parquet"

_LEAST_DEPTH = 100
_DEPTH_WITHOUT_CUTOFF = 1000
_DISTRIBUTIONS = (
    "retrodistill",
    "numpy",
    "torch",
    "transformers",
    "sentence-transformers",
    "faiss-cpu",
    "bm25s",
)


@dataclass
class Evaluation:
    """What one system is worth on one split of one collection.

    Attributes:
        system: the system's name.
        metrics: metric -> mean over the judged queries.
        per_query: metric -> query id -> value.
        intervals: metric -> ends of the mean's 95 % interval.
        collection: the collection's name.
        split: the split's name.
        counts: queries (judged), documents, judgements, queries_without_results, unjudged_queries (in the run, left
            out), own_id_dropped, retrieved.
        protocol: what the numbers stand on: gains, ties, own id, denominator, intervals, depth.
        versions: of Python and the packages.
        details: free: the model, its options, speed, sizes.
    """

    system: str
    metrics: dict[str, float]
    per_query: dict[str, dict[str, float]]
    intervals: dict[str, tuple[float, float]]
    collection: str
    split: str
    counts: dict[str, int]
    protocol: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def needed_depth(metrics: Sequence[str]) -> int:
    """How deep to search for these metrics: the greatest cutoff, at least 100; 1000 where one has no cutoff.

    1000 is TREC's custom: a metric over the whole ranking means a ranking of that depth.
    """
    cutoffs = [metric.cutoff or _DEPTH_WITHOUT_CUTOFF for metric in parse_metrics(metrics)]
    return max(_LEAST_DEPTH, *cutoffs)


def drop_own_id(run: Run) -> tuple[Run, int]:
    """Take each query's own id out of its results, as BEIR does (ArguAna and Quora hold their queries as documents).

    Returns:
        A run without them, and how many there were.
    """
    kept = {query: {doc: score for doc, score in scores.items() if doc != query} for query, scores in run.items()}
    return kept, sum(query in scores for query, scores in run.items())


def evaluate_run(
    run: Run,
    qrels: Qrels,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    depth: int,
    system: str,
    collection: str,
    split: str,
    documents: int,
    details: Mapping[str, Any] | None = None,
) -> tuple[Evaluation, Run]:
    """Measure a run by the protocol; the run given is not changed.

    Args:
        run: results by query.
        qrels: grades by query; every query here counts.
        metrics: their names.
        depth: how many results of a query count.
        system: the system's name.
        collection: the collection's name.
        split: the split's name.
        documents: how many the collection has.
        details: what else to keep with the numbers.

    Returns:
        The evaluation, and the run as it was evaluated: judged queries only, own ids dropped, cut to `depth`.

    Raises:
        InputError: there are no judgements, none is for a query of the run, a score is not finite, a metric is unknown
            or looks deeper than `depth`.
    """
    parsed = parse_metrics(metrics)
    _refuse_unmeasurable(run, qrels)
    for metric in parsed:
        if metric.cutoff is not None and metric.cutoff > depth:
            raise InputError(
                f"{metric.name} looks at {metric.cutoff} results, but the depth is {depth}; raise the depth"
            )

    judged, dropped = drop_own_id({query: run[query] for query in qrels if query in run})
    evaluated = {query: cut(scores, depth) for query, scores in judged.items()}
    own_id_relevant = sum(grades.get(query, 0) > 0 for query, grades in qrels.items())
    if own_id_relevant:
        say(
            f"{collection}: {own_id_relevant:,} queries have their own id judged relevant; "
            f"it is dropped from the results all the same, as BEIR does"
        )

    per_query = measure(evaluated, qrels, parsed)
    values = {name: np.array(list(by_query.values())) for name, by_query in per_query.items()}
    evaluation = Evaluation(
        system=system,
        metrics={name: float(array.mean()) for name, array in values.items()},
        per_query=per_query,
        intervals={name: bootstrap_interval(array) for name, array in values.items()},
        collection=collection,
        split=split,
        counts={
            "queries": len(qrels),
            "documents": documents,
            "judgements": sum(map(len, qrels.values())),
            "queries_without_results": sum(not evaluated.get(query) for query in qrels),
            "unjudged_queries": len(run.keys() - qrels.keys()),
            "own_id_dropped": dropped,
            "retrieved": sum(map(len, evaluated.values())),
        },
        protocol={
            "gains": "the judged grades, negative ones as 0",
            "ties": "the greater document id first where float32 scores are equal, as trec_eval",
            "own_id": "dropped before the cut, as BEIR",
            "denominator": "all judged queries, one without results as 0",
            "intervals": "95 % percentile bootstrap over queries, 10,000 resamples",
            "depth": depth,
        },
        versions=_versions(),
        details=dict(details or {}),
    )
    return evaluation, evaluated


def _refuse_unmeasurable(run: Run, qrels: Qrels) -> None:
    if not qrels:
        raise InputError("there are no judgements to evaluate with; check the split or the qrels file")
    if not run.keys() & qrels.keys():
        raise InputError(
            f"no query of the run is judged: the run has {_examples(run)}, the qrels have {_examples(qrels)}; "
            f"use the qrels of the same collection and split"
        )
    for query, scores in run.items():
        if not np.isfinite(np.fromiter(scores.values(), dtype=np.float64, count=len(scores))).all():
            document = next(doc for doc, score in scores.items() if not np.isfinite(score))
            raise InputError(
                f"the run has the score {scores[document]} for query {query!r}, document {document!r}; "
                f"expected finite numbers (a model that gives NaN has diverged in training)"
            )


def _examples(ids: Mapping[str, Any]) -> str:
    shown = ", ".join(map(repr, islice(ids, 3)))
    return f"{shown}, ... ({len(ids):,})" if len(ids) > 3 else shown or "no query at all"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save(folder: Path, evaluation: Evaluation, run: Run) -> None:
    """Write `run.trec`, `per_query.parquet` and, last, `results.json`; other files in the folder stay.

    An old `results.json` goes first: whoever finds one finds the files that belong to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).unlink(missing_ok=True)
    write_run(folder / RUN, run, tag=evaluation.system)
    queries = list(next(iter(evaluation.per_query.values()), {}))
    columns = {"query_id": pa.array(queries, pa.string())}
    for metric, values in evaluation.per_query.items():
        columns[metric] = pa.array([values[query] for query in queries], pa.float64())
    with atomic_file(folder / PER_QUERY) as temporary:
        pq.write_table(pa.table(columns), temporary)
    results = {name: value for name, value in asdict(evaluation).items() if name != "per_query"}
    write_json(folder / RESULTS, {**results, "created": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")})


def refuse_others(folder: Path) -> None:
    """Keep files from being replaced that bear the names of ours and are not.

    Raises:
        InputError: the folder has one of them without the others.
    """
    found = [name for name in (RUN, RESULTS) if (folder / name).exists()]
    if found and not (folder / PER_QUERY).exists():
        raise InputError(
            f"{folder / found[0]} is not of an evaluation and would be replaced; name a new or an empty folder"
        )


def load(folder: Path) -> Evaluation:
    """Read what `save` wrote.

    Raises:
        InputError: a file is missing or damaged; it names the verb that writes it.
    """
    for name in (RESULTS, PER_QUERY):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name} is missing; `retrodistill evaluate SYSTEM --data DIR --out {folder}` writes it"
            )
    results = _read_results(folder / RESULTS)
    per_query = _read_per_query(folder / PER_QUERY)
    if per_query.keys() != results["metrics"].keys():
        raise InputError(
            f"{folder}: {RESULTS} has the metrics {', '.join(results['metrics'])}, {PER_QUERY} has "
            f"{', '.join(per_query)}; they are not of one evaluation: evaluate again"
        )
    return Evaluation(per_query=per_query, **results)


def _read_results(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        results = {f.name: stored[f.name] for f in fields(Evaluation) if f.name != "per_query"}
        results["metrics"] = {str(name): float(value) for name, value in results["metrics"].items()}
        results["intervals"] = {name: (float(low), float(high)) for name, (low, high) in results["intervals"].items()}
        results["counts"] = {str(name): int(value) for name, value in results["counts"].items()}
        results.update({name: str(results[name]) for name in ("system", "collection", "split")})
        if not (isinstance(results["details"], dict) and isinstance(results["protocol"]["depth"], int)):
            raise TypeError("details must be an object and protocol.depth a number")
        if results["metrics"].keys() != results["intervals"].keys():
            raise KeyError("intervals")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged or no results of an evaluation ({type(error).__name__}: {error}); evaluate again"
        ) from error
    return results


def _read_per_query(path: Path) -> dict[str, dict[str, float]]:
    try:
        columns = pq.read_table(path).to_pydict()
        queries = columns.pop("query_id")
        return {str(metric): dict(zip(queries, map(float, values), strict=True)) for metric, values in columns.items()}
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: damaged or no per-query results ({type(error).__name__}: {error}); evaluate again"
        ) from error
