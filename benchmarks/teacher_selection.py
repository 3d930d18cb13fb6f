"""Rules that make one teacher of several: nDCG@10 on a split's own candidates, those that learn by cross-fitting.

Then what `informative` would teach the second teacher, were it the student of all others.

    python benchmarks/teacher_selection.py DATA STORE TEACHER TEACHER... > results/teacher_selection.txt

The teachers, which must also be retrievers, find 60 documents each; no labelled one is added. What STORE has of their
scores is not asked again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from retrodistill import steps
from retrodistill.collections import open_collection
from retrodistill.evaluation.metrics import measure, parse_metrics
from retrodistill.mining import mine
from retrodistill.registry import build
from retrodistill.scores.informative import Informative
from retrodistill.scores.learnt import Learnt, Lists
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging

RULES = [
    {"kind": "mean"},
    {"kind": "confident"},
    {"kind": "median"},
    *({"kind": "reinforced", "seed": seed} for seed in range(3)),
    *({"kind": "reinforced", "penalty": penalty} for penalty in (0.03, 0.3, 1.0)),
    {"kind": "reinforced", "select": True},
]


def main(data: str, root: Path, names: list[str]) -> None:
    collection, store = open_collection(data), ScoreStore(root)
    candidates, _ = mine(collection, "train", [build("retriever", name) for name in names], depth=60, positives=False)
    teachers = [build("teacher", name) for name in names]
    judging.judge(candidates, collection, teachers, store)
    qrels = collection.qrels("train")

    def values(scores: np.ndarray) -> np.ndarray:
        run = steps.run_of(candidates, scores)
        found = measure({query: run.get(query, {}) for query in qrels}, qrels, parse_metrics(["nDCG@10"]))["nDCG@10"]
        return np.array([found[query] for query in qrels])

    print(f"{len(qrels)} train queries of {collection.name}, {len(candidates):,} candidates\n")
    print("| rule | nDCG@10 | less the mean's | standard error | with a teacher of noise |\n|---|---:|---:|---:|---:|")
    for name, row in zip(names, judging.read(candidates, collection, teachers, store), strict=True):
        print(f"| {name} alone | {values(row).mean():.4f} | | | |")
    noise = np.random.default_rng(0).normal(size=(1, len(candidates))).astype(np.float32)
    texts = [collection.queries.text(query) for query in candidates.queries]
    noisy = np.concatenate([judging.read(candidates, collection, teachers, store), noise])
    lists = Lists(noisy, candidates.offsets, candidates.labels, texts)
    plain = None
    for spec in RULES:
        rule = build("combination", spec)
        got = values(steps.teacher_scores(candidates, collection, teachers, store, rule))
        beside = rule.cross_fitted(lists) if isinstance(rule, Learnt) else rule(noisy, candidates.offsets)
        plain = got if plain is None else plain
        error = (got - plain).std() / np.sqrt(len(got))
        print(
            f"| {spec} | {got.mean():.4f} | {(got - plain).mean():+.4f} | {error:.4f} | {values(beside).mean():.4f} |",
            flush=True,
        )

    student, others = teachers[1], [teachers[0], *teachers[2:]]
    knows = values(judging.read(candidates, collection, [student], store)[0])
    taught = values(steps.teacher_scores(candidates, collection, others, store, every=True))
    print(f"\nstudent {names[1]}, teachers the others: nDCG@10 of both on queries that are taught, and that are not\n")
    print("| unsure | known | queries | student | teachers | queries left out | student | teachers |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for unsure, known in ((0.25, 0.25), (0.5, 0.0), (0.0, 0.5)):
        rule = Informative(student=student, unsure=unsure, known=known)
        scores = steps.teacher_scores(candidates, collection, others, store, rule)
        run = steps.run_of(candidates, scores)
        kept = np.array([bool(run.get(query)) for query in qrels])
        cells = [f"{kept.sum()} | {knows[kept].mean():.4f} | {taught[kept].mean():.4f}"]
        cells += [f"{(~kept).sum()} | {knows[~kept].mean():.4f} | {taught[~kept].mean():.4f}"]
        print(f"| {unsure} | {known} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
