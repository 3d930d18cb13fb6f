"""Measures MaxSim against sentence-transformers': re-scoring, exhaustive search, a training step, and probed search.

    python benchmarks/maxsim_speed.py --documents 1000

Vectors are synthetic: unit vectors around a few hundred centres, as tokens are around their meanings; documents have 60
to 300 of them, queries 32. Both sides get the same vectors, held in memory as each side wants them, and take turns in
one process; what is printed is the median of the ratios of neighbouring runs, their spread, and how far the scores lie
apart. Probed search is held against the exhaustive one: how many of its 10 best it finds, and how much faster.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sentence_transformers
import torch
from sentence_transformers.util.similarity import maxsim as theirs

from retrodistill.emissions import MultiVectors
from retrodistill.indexing.multivector import MultiVector
from retrodistill.indexing.probed import ProbedMultiVector
from retrodistill.students.embedded import Embedded
from retrodistill.students.maxsim import maxsim


def made(random: np.random.Generator, lengths: np.ndarray, width: int, centres: np.ndarray) -> MultiVectors:
    subject = np.repeat(random.integers(0, len(centres) - 20, len(lengths)), lengths)
    vectors = centres[subject + random.integers(0, 20, len(subject))] + random.standard_normal((len(subject), width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return MultiVectors(lengths, vectors.astype(np.float32))


def tensors(vectors: MultiVectors) -> list[torch.Tensor]:
    return list(torch.from_numpy(vectors.vectors).split(vectors.lengths.tolist()))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare(what: str, unit: str, count: int, repeats: int, ours: Callable[[], Any], other: Callable[[], Any]) -> None:
    """Take turns, and print how much faster ours is."""
    apart = max(
        float(np.abs(np.asarray(one) - np.asarray(two)).max()) for one, two in zip(ours(), other(), strict=True)
    )
    pairs = [(timed(other)[0], timed(ours)[0]) for _ in range(repeats)]
    slow, fast = np.array(pairs).T
    ratios = np.sort(slow / fast)
    print(
        f"{what:<22} {count / np.median(fast):12,.1f} {unit}/s, the other {count / np.median(slow):12,.1f}: "
        f"{np.median(ratios):5.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}), apart by {apart:.1e}"
    )


def step(kind: Callable[..., torch.Tensor], *sides: torch.Tensor) -> list[np.ndarray]:
    """Scores, loss and gradients, as a training step has them."""
    leaves = [side.clone().requires_grad_() for side in sides]
    scores = kind(*leaves)
    scores.log_softmax(dim=-1)[:, 0].sum().backward()
    return [scores.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--candidates", type=int, default=100, help="documents a query in re-scoring and probed search")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    # noise is as long as sqrt(width), so centres three times as long give products of about 0.9 within one
    centres = 3 * random.standard_normal((300, options.width))
    documents = made(random, random.integers(60, 301, options.documents), options.width, centres)
    queries = made(random, np.full(options.queries, 32), options.width, centres)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; numpy {np.__version__}, torch {torch.__version__}, sentence-transformers "
        f"{sentence_transformers.__version__}; {len(documents.vectors):,} vectors of {options.width}"
    )
    theirs_queries, theirs_documents = tensors(queries), tensors(documents)

    chosen = random.integers(0, options.documents, (options.queries, options.candidates))
    left = np.repeat(np.arange(options.queries), options.candidates)
    compare(
        f"re-score {options.candidates} a query",
        "pairs",
        chosen.size,
        options.repeats,
        lambda: [queries.pair_scores(documents, left, chosen.ravel())],
        lambda: [
            torch.cat(
                [theirs([query], [theirs_documents[row] for row in rows])[0]
                 for query, rows in zip(theirs_queries, chosen, strict=True)]
            )
        ],
    )  # fmt: skip

    exact = MultiVector().build(documents)
    compare(
        "exhaustive, top 100",
        "queries",
        options.queries,
        options.repeats,
        lambda: [exact.nearest(queries, 100)[0]],
        lambda: [theirs(theirs_queries, theirs_documents).topk(100).values.numpy()],
    )

    some = documents[: min(80, options.documents)]
    lengths = [torch.from_numpy(side.lengths) for side in (queries, some)]
    values = [torch.from_numpy(side.vectors) for side in (queries, some)]

    def padded(*packed: torch.Tensor) -> torch.Tensor:
        sides = [Embedded(side, length).padded() for side, length in zip(packed, lengths, strict=True)]
        return theirs(sides[0][0], sides[1][0], sides[0][1], sides[1][1])

    compare(
        f"step, {options.queries} x {len(some)}",
        "steps",
        1,
        options.repeats,
        lambda: step(lambda q, d: maxsim(Embedded(q, lengths[0]), Embedded(d, lengths[1])), *values),
        lambda: step(padded, *values),
    )

    seconds, probed = timed(lambda: ProbedMultiVector(candidates=options.candidates).build(documents))
    best, found = (built.nearest(queries, 10)[1] for built in (exact, probed))
    recall = np.mean([len(set(one) & set(two)) for one, two in zip(best.tolist(), found.tolist(), strict=True)]) / 10
    pairs = [
        (timed(lambda: exact.nearest(queries, 10))[0], timed(lambda: probed.nearest(queries, 10))[0])
        for _ in range(options.repeats)
    ]
    ratios = np.sort([slow / fast for slow, fast in pairs])
    print(
        f"{'probed, top 10':<22} {options.queries / np.median([fast for _, fast in pairs]):12,.1f} queries/s: "
        f"{np.median(ratios):5.2f}x the exhaustive ({ratios[0]:.2f} to {ratios[-1]:.2f}), recall {recall:.3f}; "
        f"{len(probed.centroids)} clusters, built in {seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
