"""Claim: a step of listwise distillation costs less time and memory here than with sentence-transformers.

The same step on both sides: 8 queries with 9 documents each, KL to given scores, all-MiniLM-L6-v2, texts of a
collection cut at 256 tokens, dropout as the model has it, gradients but no optimizer. There: `DistillKLDivLoss` on
what its own collator makes, tokenising included; here: `Objective.backward`, tokens from the cache. Time: both in one
process, in turns, after a warm-up each; the median of the ratios. Memory: each side alone in a process of its own, the
most that was resident. The two gradients are compared, without dropout.

    python benchmarks/training_speed.py --data DIR --rounds 5
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, open_collection
from retrodistill.losses.divergences import KL
from retrodistill.students.dense import DenseStudent
from retrodistill.training.lists import Lists
from retrodistill.training.objective import Objective

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
QUERIES, DOCUMENTS, LENGTH = 8, 9, 256


def problem(collection: Collection) -> Lists:
    """Random documents with random scores: what they say does not change what a step costs."""
    generator = np.random.default_rng(0)
    rows = {}
    for query in collection.query_ids("train")[:QUERIES]:
        drawn = generator.choice(len(collection.corpus), DOCUMENTS, replace=False)
        rows[query] = [(collection.corpus.ids[d], "random", n, 0.0, int(n == 1)) for n, d in enumerate(drawn, start=1)]
    candidates = Candidates.of(rows)
    teacher = generator.normal(size=len(candidates)).astype(np.float32)
    return Lists(candidates, teacher, collection, documents=DOCUMENTS, pick="top", batch_size=QUERIES, seed=0)


def ours(lists: Lists, max_tokens: int, dropout: float | None) -> tuple[torch.nn.Module, Callable[[], float]]:
    student = DenseStudent(model=MODEL, max_length=LENGTH, dropout=dropout)
    model = student.load("cpu").train()
    collection = lists.collection
    texts = {"query": collection.queries, "document": collection.corpus}
    kept = {
        (role, int(row)): tokens
        for role, rows in (("query", lists.queries), ("document", lists.document_rows))
        for row, tokens in zip(rows, student.tokenize(model, texts[role].texts(rows), role), strict=True)
    }

    def tokens(role: str, rows: np.ndarray) -> list[np.ndarray]:
        return [kept[role, int(row)] for row in rows]

    objective = Objective(student, model, [KL()], tokens, precision="fp32", max_tokens=max_tokens)
    batch = lists.batch(0)
    return model, lambda: objective.backward(batch)["kl"]


def theirs(lists: Lists, dropout: float | None) -> tuple[torch.nn.Module, Callable[[], float]]:
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

    model = DenseStudent(model=MODEL, max_length=LENGTH, dropout=dropout).load("cpu").train()
    loss, batch, collection = DistillKLDivLoss(model), lists.batch(0), lists.collection
    listed = []
    for place, query in enumerate(batch.queries):
        columns = np.flatnonzero(batch.own[place])
        texts = collection.corpus.texts(batch.documents[columns])
        row = {"query": collection.queries.texts([query])[0], "label": batch.teacher[place, columns].tolist()}
        listed.append(row | {f"document_{n}": text for n, text in enumerate(texts)})
    collator = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
    columns = ["query", *(f"document_{n}" for n in range(DOCUMENTS))]

    def step() -> float:
        features = collator([dict(row) for row in listed])
        parts = [
            {key.removeprefix(f"{name}_"): value for key, value in features.items() if key.startswith(f"{name}_")}
            for name in columns
        ]
        value = loss(parts, features["label"])
        value.backward()
        return float(value.detach())

    return model, step


def timed(step: Callable[[], float], model: torch.nn.Module) -> float:
    model.zero_grad()
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def gradient(model: torch.nn.Module, step: Callable[[], float]) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    value = step()
    return value, torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def measure(options: argparse.Namespace) -> None:
    lists = problem(open_collection(options.data))
    (_, first), (_, second) = (
        gradient(*ours(lists, options.max_tokens, 0.0)),
        gradient(*theirs(lists, 0.0)),
    )
    print(f"gradients without dropout: cosine {torch.cosine_similarity(first.double(), second.double(), dim=0):.6f}")
    (model, step), (other, their_step) = ours(lists, options.max_tokens, None), theirs(lists, None)
    step(), their_step()
    ratios, here, there = [], [], []
    for _ in range(options.rounds):
        here.append(timed(step, model))
        there.append(timed(their_step, other))
        ratios.append(there[-1] / here[-1])
    print(
        f"a step: {np.median(here):.2f} s here, {np.median(there):.2f} s with sentence-transformers; ratio "
        f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {options.rounds} rounds)"
    )
    for side in ("ours", "theirs"):
        words = ["--data", options.data, "--max-tokens", str(options.max_tokens), "--alone", side]
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
        print(f"most memory, {side}: {done.stdout.strip()}")


def alone(options: argparse.Namespace) -> None:
    lists = problem(open_collection(options.data))
    _, step = ours(lists, options.max_tokens, None) if options.alone == "ours" else theirs(lists, None)
    before = most_resident()
    step()
    most = most_resident()
    print(f"{most / 1e6:.2f} GB ({(most - before) / 1e6:.2f} GB of it in the step)")


def most_resident() -> int:
    """The most memory this process held so far, in kB; getrusage would tell its parent's, which outlives exec."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=4_096)
    parser.add_argument("--alone", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options)
        return
    versions = f"torch {torch.__version__}, sentence-transformers {version('sentence-transformers')}"
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {versions}")
    measure(options)


if __name__ == "__main__":
    main()
