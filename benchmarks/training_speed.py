"""Claim: a step of listwise distillation costs less time and memory here than with sentence-transformers.

The same step on all sides: 8 queries with 9 documents each, KL to given scores, all-MiniLM-L6-v2, texts of a
collection cut at 256 tokens, dropout as the model has it, gradients but no optimizer. There: `DistillKLDivLoss` on
what its own collator makes, tokenising included, once as it comes and once as it is fastest, in bf16 and two queries
after two; here: `Objective.backward`, tokens from the cache. Time: all in one process, in turns, after a warm-up each;
the median of the ratios. Memory: each side alone in a process of its own, the most that was resident. Gradients are
compared with those of sentence-transformers as it comes, without dropout.

    python benchmarks/training_speed.py --data DIR --rounds 5 --precision bf16
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
from retrodistill.encoders import Precision
from retrodistill.losses.divergences import KL
from retrodistill.models import locate
from retrodistill.students.backbone import set_dropout
from retrodistill.students.dense import DenseStudent
from retrodistill.training.lists import Lists
from retrodistill.training.objective import Objective

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
QUERIES, DOCUMENTS, LENGTH = 8, 9, 256
SIDES = ("ours", "theirs", "theirs at best")


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


Side = tuple[torch.nn.Module, Callable[[], float]]


def ours(lists: Lists, max_tokens: int, precision: Precision, dropout: float | None) -> Side:
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

    objective = Objective(student, model, [KL()], tokens, precision=precision, max_tokens=max_tokens)
    batch = lists.batch(0)
    return model, lambda: objective.backward(batch)["kl"]


def theirs(lists: Lists, dropout: float | None, *, best: bool = False) -> Side:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

    model = SentenceTransformer(str(locate(MODEL)), device="cpu").train()
    model.max_seq_length = LENGTH
    if dropout is not None:
        set_dropout(model, dropout)
    loss, batch, collection = DistillKLDivLoss(model), lists.batch(0), lists.collection
    listed = []
    for place, query in enumerate(batch.queries):
        columns = np.flatnonzero(batch.own[place])
        texts = collection.corpus.texts(batch.documents[columns])
        row = {"query": collection.queries.texts([query])[0], "label": batch.teacher[place, columns].tolist()}
        listed.append(row | {f"document_{n}": text for n, text in enumerate(texts)})
    collator = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
    columns = ["query", *(f"document_{n}" for n in range(DOCUMENTS))]
    at_once = 2 if best else len(listed)

    def step() -> float:
        total = 0.0
        for start in range(0, len(listed), at_once):
            features = collator([dict(row) for row in listed[start : start + at_once]])
            parts = [
                {key.removeprefix(f"{name}_"): value for key, value in features.items() if key.startswith(f"{name}_")}
                for name in columns
            ]
            with torch.autocast("cpu", torch.bfloat16, enabled=best):
                value = loss(parts, features["label"]) * at_once / len(listed)
            value.backward()
            total += float(value.detach())
        return total

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


def side(name: str, lists: Lists, options: argparse.Namespace, dropout: float | None) -> Side:
    if name == "ours":
        return ours(lists, options.max_tokens, options.precision, dropout)
    return theirs(lists, dropout, best=name == "theirs at best")


def measure(options: argparse.Namespace) -> None:
    lists = problem(open_collection(options.data))
    gradients = {name: gradient(*side(name, lists, options, 0.0))[1].double() for name in SIDES}
    for name in SIDES:
        cosine = torch.cosine_similarity(gradients[name], gradients["theirs"], dim=0)
        print(f"gradients without dropout, {name}: cosine to theirs {cosine:.6f}")
    built = {name: side(name, lists, options, None) for name in SIDES}
    for _, step in built.values():
        step()
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(options.rounds):
        for name, (model, step) in built.items():
            taken[name].append(timed(step, model))
    for name, seconds in taken.items():
        ratios = np.divide(seconds, taken["ours"])
        print(
            f"a step, {name}: {np.median(seconds):.2f} s; {np.median(ratios):.2f} times ours ({min(ratios):.2f} to "
            f"{max(ratios):.2f}, {options.rounds} rounds)"
        )
    for name in SIDES:
        words = ["--data", options.data, "--max-tokens", str(options.max_tokens), "--precision", options.precision]
        command = [sys.executable, __file__, *words, "--alone", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"most memory, {name}: {done.stdout.strip()}")


def alone(options: argparse.Namespace) -> None:
    _, step = side(options.alone, problem(open_collection(options.data)), options, None)
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
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours")
    parser.add_argument("--alone", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options)
        return
    versions = f"torch {torch.__version__}, sentence-transformers {version('sentence-transformers')}"
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {versions}")
    measure(options)


if __name__ == "__main__":
    main()
