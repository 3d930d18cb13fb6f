"""Claim: judgements that a rule chooses are worth more than as many drawn by chance.

A teacher of all candidates judges a share of what BM25 finds; the rest stands as it is expected from BM25's order.
nDCG@10 of that order, by rule and budget, the mean over seeds, and the standard deviation of what chance chooses; the
first column is BM25's own, the last the teacher's. Judgements are computed once and kept, so that every rule pays with
the same money.

    python benchmarks/score_budget.py DATA [TEACHER] [DEPTH] [SEEDS]    # DATA: a BEIR folder such as scifact
    python benchmarks/score_budget.py DATA '{kind: dense, model: FOLDER, precision: bf16}'
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from retrodistill.collections import open_collection
from retrodistill.console import markdown_table
from retrodistill.mining import mine
from retrodistill.recipe import part
from retrodistill.registry import build
from retrodistill.scores.store import ScoreStore
from retrodistill.spending import spend
from retrodistill.teachers import judging
from retrodistill.teachers.teacher import Teacher

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
RULES = ("random", "coverage", "uncertainty", "disagreement")


class Kept(Teacher):
    """A teacher whose judgements were computed before."""

    kind: str = "kept"

    def open(self, collection: object) -> Answers:
        """The one table there is."""
        return Answers.only


class Answers:
    """Judgements by (query, document)."""

    only: Answers
    pairs_a_part = 65_536

    def __init__(self, judge: object, known: dict[tuple[str, str], float]) -> None:
        self.query_text, self.document_text = judge.query_text, judge.document_text  # type: ignore[attr-defined]
        self.identity = {"kind": "kept"}
        self.known = known

    def score(self, query_ids: list[str], doc_ids: list[str]) -> np.ndarray:
        """Look them up."""
        return np.array([self.known[pair] for pair in zip(query_ids, doc_ids, strict=True)], dtype=np.float32)


def main(data: str, name: str, depth: int, seeds: int) -> None:
    collection = open_collection(data)
    candidates, _ = mine(collection, "test", [build("retriever", "bm25")], depth=depth, positives=False)
    teacher = part("teacher", name)
    with tempfile.TemporaryDirectory() as folder:
        store = ScoreStore(Path(folder) / "whole")
        judging.judge(candidates, collection, [teacher], store)
        scores = judging.read(candidates, collection, [teacher], store)[0].tolist()
        pairs = zip(candidates.query_ids, candidates.doc_ids, strict=True)
        Answers.only = Answers(teacher.open(collection), dict(zip(pairs, scores, strict=True)))  # type: ignore[attr-defined]
        rows = []
        for rule in RULES:
            row = [rule]
            for share in SHARES:
                found = []
                for seed in range(seeds):
                    purse = ScoreStore(Path(folder) / f"{rule}-{share}-{seed}")
                    budget = round(share * len(candidates))
                    *_, last = spend(build("spending", rule), budget, Kept(), candidates, collection, purse, seed=seed)
                    found.append(last.ndcg or 0.0)
                spread = f" ± {np.std(found):.4f}" if rule == "random" and seeds > 1 and 0 < share < 1 else ""
                row.append(f"{np.mean(found):.4f}{spread}")
            rows.append(row)
            print(" ".join(row), flush=True)
    print(f"\n{collection.name}, {len(candidates):,} candidates of BM25, depth {depth}; teacher {teacher.label}\n")
    print(markdown_table(["rule", *(f"{share:.0%}" for share in SHARES)], rows))


if __name__ == "__main__":
    asked = [*sys.argv[1:], *("dense:sentence-transformers/all-MiniLM-L6-v2", "50", "4")[len(sys.argv) - 2 :]]
    main(asked[0], asked[1], int(asked[2]), int(asked[3]))
