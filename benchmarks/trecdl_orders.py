"""LLMs' re-rankings as teachers: each one's nDCG@10, and that of their ensembles, on TREC DL 2019.

    python benchmarks/trecdl_orders.py DATA

DATA is a BEIR folder with nist-qrels.tsv, whose NIST grades count, and rerank/FIRST_STAGE/*.trec.

Orders go through the score store as those of any teacher (`run_order`) and are combined when they are read.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrodistill.candidates import Candidates
from retrodistill.collections import open_collection, read_qrels
from retrodistill.evaluation.protocol import evaluate_run
from retrodistill.registry import build
from retrodistill.runs import Run, read_run
from retrodistill.scores.combine import Mean
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging


def candidates_of(run: Run) -> Candidates:
    """What a first stage found, as mining would hand it on."""
    return Candidates.of(
        {q: [(d, "run", rank, s, None) for rank, (d, s) in enumerate(docs.items(), 1)] for q, docs in run.items()}
    )


def main(data: Path) -> None:
    collection = open_collection(data)
    qrels = read_qrels(data / "nist-qrels.tsv")

    def ndcg(candidates: Candidates, scores: np.ndarray) -> float:
        run: Run = {}
        for query, doc, score in zip(candidates.query_ids, candidates.doc_ids, scores.tolist(), strict=True):
            if score == score:
                run.setdefault(query, {})[doc] = score
        found, _ = evaluate_run(
            run, qrels, metrics=["nDCG@10"], depth=100, system="x", collection="trecdl19", split="nist", documents=0
        )
        return found.metrics["nDCG@10"]

    def listed(files: Sequence[Path]) -> Candidates:
        union: Run = {}
        for file in files:
            for query, docs in read_run(file).items():
                if query in collection.queries:
                    known = {doc: 0.0 for doc in docs if doc in collection.corpus}
                    union[query] = {**known, **union.get(query, {})}
        return candidates_of(union)

    def compare(title: str, files: Sequence[Path]) -> None:
        candidates = listed(files)
        teachers = [build("teacher", {"kind": "run_order", "path": file}) for file in files]
        judging.judge(candidates, collection, teachers, store)
        scores = judging.read(candidates, collection, teachers, store)
        alone = [ndcg(candidates, row) for row in scores]
        print(f"\n{title}: {len(candidates.queries)} queries; alone {min(alone):.4f} to {max(alone):.4f}, ", end="")
        print(f"mean {np.mean(alone):.4f}")
        for file, value in zip(files, alone, strict=True):
            print(f"  {value:.4f}  {file.parent.name}/{file.name}")
        for normalise in ("rank", "zscore", "reciprocal_rank"):
            joined = Mean(normalise=normalise)(scores, candidates.offsets)
            print(f"  {ndcg(candidates, joined):.4f}  all {len(files)}, mean of {normalise}")

    with tempfile.TemporaryDirectory() as store_folder:
        store = ScoreStore(Path(store_folder))
        stages = sorted(path for path in (data / "rerank").iterdir() if path.is_dir())
        for folder in stages:
            compare(folder.name, sorted(folder.glob("*.trec")))
        compare("one of each first stage", [sorted(folder.glob("output_v2*.trec"))[-1] for folder in stages])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
