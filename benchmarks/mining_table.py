"""Measures samplers and filters: how many of the negatives they choose are relevant, by labels held back from them.

    python benchmarks/mining_table.py --data DIR/scifact
    python benchmarks/mining_table.py --data DIR/nfcorpus --queries 300
    python benchmarks/mining_table.py --data DIR/scifact --sampler top --sampler uniform --filter none --filter margin \
      --train '{kind: dense, model: sentence-transformers/all-MiniLM-L6-v2, max_length: 128, dropout: 0}'

Of every query with several relevant documents half of the labels are hidden, by a fixed seed; mining sees the others. A
false negative is a hidden relevant document among the negatives. The first stages are BM25 and MiniLM, 100 documents
each; the teacher is MiniLM too, or another by `--teacher`. Cells: false negatives per 100 negatives, and in brackets
the mean of what share of its n negatives a query got. With `--train STUDENT`, a student is trained on the negatives of
each cell, of all queries and labels of the split, by InfoNCE, and a third number is its nDCG@10 on the test split.
`--sampler` and `--filter` leave only those that they name.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("RETRODISTILL_QUIET", "1")

import numpy as np

from retrodistill import console, steps
from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, open_collection
from retrodistill.mining import mine
from retrodistill.recipe import part
from retrodistill.runs import write_run
from retrodistill.scores.store import ScoreStore

DEPTH = 100


def samplers(teacher: Any, dense: Any, n: int) -> dict[str, dict[str, Any]]:
    by = {"n": n, "teacher": teacher}
    return {
        "top": {"kind": "top", "n": n},
        "window, skip 10": {"kind": "window", "n": n, "skip": 10},
        "uniform": {"kind": "uniform", "n": n},
        "log_uniform": {"kind": "log_uniform", "n": n},
        "top_and_random, 2": {"kind": "top_and_random", "n": n, "top": 2},
        "stratified": {"kind": "stratified", "n": n},
        "simans, a 50, b -.1": {"kind": "simans", **by, "a": 50.0, "b": -0.1},
        "quantile .5 to .9": {"kind": "quantile", **by},
        "disagreement with bm25": {"kind": "disagreement", **by, "student": "bm25"},
        "balanced": {"kind": "balanced", **by},
        "mmr .5": {"kind": "mmr", "n": n, "space": dense},
        "clusters": {"kind": "clusters", "n": n, "space": dense, "clusters": 50},
    }


def filters(teacher: Any) -> dict[str, list[dict[str, Any]]]:
    return {
        "none": [],
        "duplicates": [{"kind": "duplicates"}, {"kind": "near_duplicates"}],
        "margin": [{"kind": "margin", "teacher": teacher}],
        "perc_pos 95": [{"kind": "perc_pos", "teacher": teacher}],
        "perc_pos 80": [{"kind": "perc_pos", "teacher": teacher, "percent": 80}],
        "scores < .5": [{"kind": "scores", "teacher": teacher, "max": 0.5}],
    }


def hidden(collection: Collection, split: str, limit: int | None) -> tuple[Collection, set[tuple[str, str]]]:
    """The queries with several relevant documents, half of these, and the pairs that were held back."""
    random = np.random.default_rng(0)
    seen: dict[str, dict[str, int]] = {}
    held: set[tuple[str, str]] = set()
    qrels = collection.qrels(split)
    for query in collection.query_ids(split):
        relevant = sorted(doc for doc, grade in qrels[query].items() if grade > 0)
        if len(relevant) < 2:
            continue
        away = set(random.permutation(relevant)[: len(relevant) // 2].tolist())
        seen[query] = {doc: grade for doc, grade in qrels[query].items() if doc not in away}
        held |= {(query, doc) for doc in away}
    chosen = sorted(random.permutation(sorted(seen))[:limit].tolist())
    held = {(query, doc) for query, doc in held if query in set(chosen)}
    judgements = {"train": {query: seen[query] for query in chosen}}
    return Collection(collection.name, collection.corpus, collection.queries, judgements), held


def only(rows: dict[str, Any], names: list[str] | None) -> dict[str, Any]:
    """Those that are named, or all."""
    unknown = set(names or ()) - set(rows)
    if unknown:
        raise SystemExit(f"there is no {sorted(unknown)[0]!r} among {list(rows)}")
    return {name: row for name, row in rows.items() if names is None or name in names}


def searched(collection: Collection, dense: Any, folder: Path, split: str = "train") -> list[Any]:
    """The first stages' lists as run files, so that every cell mines from the same without searching again."""
    sources = []
    for spec in ("bm25", dense):
        source = part("retriever", spec)
        path = folder / f"{source.kind}.trec"
        # as mining asks: two more, so that a query's own id leaves no gap
        write_run(path, source.open(collection).search(collection.query_ids(split), DEPTH + 2), source.kind)
        sources.append(part("retriever", f"run:{path}"))
    return sources


def negatives(candidates: Candidates) -> set[tuple[str, str]]:
    labels = candidates.table.column("label").to_pylist()
    rows = zip(candidates.query_ids, candidates.doc_ids, labels, strict=True)
    return {(query, doc) for query, doc, label in rows if label is None}


def trained(collection: Collection, candidates: Candidates, student: str, steps_at_most: int | None) -> float:
    """nDCG@10 on the test split of a student that learns from labels and these negatives."""
    from retrodistill.training.options import TrainOptions
    from retrodistill.training.train import train

    learner, loss = part("student", student), part("loss", "{kind: infonce, temperature: 0.05}")
    options = TrainOptions(
        batch_size=32, documents=4, learning_rate=6e-5, pick="log_uniform", max_steps=steps_at_most, max_tokens=16_384
    )
    with tempfile.TemporaryDirectory() as name:
        train(learner, [loss], candidates, collection, Path(name) / "model", options=options)
        system = part("retriever", {"kind": learner.kind, "model": f"{name}/model", "precision": "bf16"})
        evaluation, _ = steps.evaluate(system, collection, "test", metrics=["nDCG@10"])
    return float(evaluation.metrics["nDCG@10"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scifact")
    parser.add_argument("--split", default="train")
    parser.add_argument("--queries", type=int, help="at most so many, by chance")
    parser.add_argument("--n", type=int, default=10, help="negatives a query")
    parser.add_argument(
        "--dense", default="dense:sentence-transformers/all-MiniLM-L6-v2", help="first stage beside BM25"
    )
    parser.add_argument("--teacher", help="the dense first stage where left out")
    parser.add_argument("--train", metavar="STUDENT")
    parser.add_argument("--max-steps", type=int, help="of a training; one epoch where left out")
    parser.add_argument("--sampler", action="append", help="a row of the table; all where left out")
    parser.add_argument("--filter", action="append", help="a column")
    options = parser.parse_args()
    whole = open_collection(options.data)
    part_of_it, held = hidden(whole, options.split, options.queries)
    dense = part("retriever", options.dense).model_dump()
    teacher = part("teacher", options.teacher).model_dump() if options.teacher else dense
    rules = only(filters(teacher), options.filter)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = ScoreStore(folder / "scores")
        sources = searched(part_of_it, dense, folder)
        everything, _ = mine(part_of_it, "train", sources, depth=DEPTH, positives=False)
        pool = negatives(everything)
        print(
            f"{whole.name}: {len(part_of_it.query_ids('train')):,} queries, {len(held):,} labels hidden, "
            f"{len(held & pool):,} of them among the {len(pool):,} documents found ({len(held & pool) / len(pool):.2%})"
        )
        table = []
        if options.train:
            (folder / "whole").mkdir()
            stages = searched(whole, dense, folder / "whole", options.split)
        for sampler, spec in only(samplers(teacher, dense, options.n), options.sampler).items():
            cells = []
            for chosen in rules.values():
                rule = {"sampler": part("sampler", spec), "filters": [part("filter", one) for one in chosen]}
                candidates, account = mine(part_of_it, "train", sources, depth=DEPTH, store=store, **rule)
                found = negatives(candidates)
                full = 1 - sum(account.short.values()) / (options.n * account.queries)
                cells.append(f"{100 * len(found & held) / max(1, len(found)):.1f} ({full:.2f})")
                if options.train:
                    all_of_it, _ = mine(whole, options.split, stages, depth=DEPTH, store=store, **rule)
                    cells[-1] += f" {trained(whole, all_of_it, options.train, options.max_steps):.4f}"
            table.append([sampler, *cells])
            console.say(" | ".join(table[-1]))
        print(console.markdown_table(["sampler", *rules], table))


if __name__ == "__main__":
    main()
