"""What CET makes of labels that were taken away: is a hidden relevant document told from what is not relevant?

    python benchmarks/missing_labels.py DATA STORE TEACHER TEACHER... > results/missing_labels.txt

The first two teachers are the sources, 60 documents each. Labels of the train split are taken away as a pool would that
only looked where the first source ranks high: all within its first 3 are kept, half of those to rank 10, a tenth of the
rest. Then CET weighs, with all teachers, and with the last one alone. AUC: of a hidden relevant document and another
unlabelled one, how often the hidden one weighs less; at the end the same by the teachers' mean alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrodistill.candidates import SCHEMA, Candidates
from retrodistill.collections import open_collection
from retrodistill.mining import mine
from retrodistill.mining.pooling import CET
from retrodistill.registry import build
from retrodistill.scores.combine import Mean
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging


def auc(low: np.ndarray, high: np.ndarray) -> float:
    """How often an entry of the first is below one of the second, ties half."""
    ordered = np.sort(high)
    above = len(high) - np.searchsorted(ordered, low, "right")
    level = np.searchsorted(ordered, low, "right") - np.searchsorted(ordered, low, "left")
    return float((above + level / 2).mean() / len(high))


def main(data: str, root: Path, names: list[str]) -> None:
    collection, store, random = open_collection(data), ScoreStore(root), np.random.default_rng(0)
    sources, teachers = [build("retriever", name) for name in names[:2]], [build("teacher", name) for name in names]
    whole, _ = mine(collection, "train", sources, depth=60, positives=False)
    pooled, _ = mine(collection, "train", sources[:1], depth=60, positives=False)
    rank = dict(zip(zip(pooled.query_ids, pooled.doc_ids, strict=True), pooled.ranks.tolist(), strict=True))
    where = np.array([rank.get(pair, 10**6) for pair in zip(whole.query_ids, whole.doc_ids, strict=True)])
    seen = random.random(len(whole)) < np.select([where <= 3, where <= 10], [1.0, 0.5], 0.1)
    relevant = whole.labels > 0
    labels = pa.array([1 if kept else None for kept in (relevant & seen).tolist()], pa.int32())
    left = Candidates(whole.table.set_column(SCHEMA.names.index("label"), SCHEMA.field("label"), labels))
    hidden, other = relevant & ~seen, ~relevant
    print(f"{collection.name}: {len(whole):,} candidates, {relevant.sum()} relevant, {hidden.sum()} of them hidden\n")
    judging.judge(whole, collection, teachers, store)
    scores = judging.read(whole, collection, teachers, store)
    print("| labels | teachers | pool | AUC | mean weight, hidden | mean weight, not relevant | said to be missed |")
    print("|---|---|---|---:|---:|---:|---:|")
    for said, candidates in (("left", left), ("all", whole)):
        for told, used in (("all", list(range(len(names)))), ("the last", [len(names) - 1])):
            for pool in (None, 0):
                rule = CET(teachers=tuple(teachers[n] for n in used), pool=None if pool is None else teachers[pool])
                weights = rule.weights(candidates, scores[used if pool is None else [*used, pool]])
                got = (
                    f"{auc(weights[hidden], weights[other]):.3f} | {weights[hidden].mean():.3f}"
                    if said == "left"
                    else "| "
                )
                missed = (1 - weights[np.isnan(candidates.labels)]).sum()
                named = "-" if pool is None else names[pool]
                print(f"| {said} | {told} | {named} | {got} | {weights[other].mean():.3f} | {missed:.0f} |", flush=True)
    plain = Mean()(scores, whole.offsets)
    print(f"\nAUC of the teachers' mean z-score: {auc(-plain[hidden], -plain[other]):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
