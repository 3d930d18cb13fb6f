"""Measures SPLADE encoding and sparse search against sentence-transformers, both sides in turns in one process.

    python benchmarks/splade_speed.py MODEL --data DIR --documents 64 --threads 1

Encoding: SpladeEncoder.encode against SparseEncoder.encode as it comes, on the same documents, loaded by the same name.
Search: an inverted index against sentence_transformers.util.semantic_search over the same sparse vectors, `--depth` a
query; vectors are drawn by Zipf's law where `--synthetic` says how many, else they are those of the collection.
Medians of `--repeats` turns with their range, of wall time and of processor time (which other work on the machine
touches less), and the largest deviation between the two sides.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from retrodistill.collections import open_collection
from retrodistill.emissions import SparseVectors
from retrodistill.encoders import SpladeEncoder
from retrodistill.indexing.inverted import Inverted


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, what: str, count: int) -> None:
    """Time both, one after the other, after one turn that does not count."""
    taken: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for turn in range(repeats + 1):
        for name, work in (("ours", ours), ("theirs", theirs)):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if turn:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    for place, clock in enumerate(("wall", "processor")):
        line = []
        for name, seconds in taken.items():
            each = sorted(second[place] for second in seconds)
            middle = float(np.median(each))
            line.append(f"{name} {count / middle:9.1f} {what}/s ({count / each[-1]:.1f} to {count / each[0]:.1f})")
        ratio = np.median([theirs[place] / ours[place] for ours, theirs in zip(*taken.values(), strict=True)])
        print(f"  {clock:<9} {line[0]}, {line[1]}: {ratio:.1f}x")


def as_tensor(vectors: SparseVectors) -> torch.Tensor:
    rows = torch.from_numpy(np.repeat(np.arange(len(vectors)), vectors.lengths))
    places = torch.stack([rows, torch.from_numpy(vectors.terms.astype(np.int64))])
    weights = torch.from_numpy(np.array(vectors.weights))
    return torch.sparse_coo_tensor(places, weights, (len(vectors), vectors.dimensions)).coalesce()


def synthetic(random: np.random.Generator, count: int, terms: int, dimensions: int = 30_522) -> SparseVectors:
    """Vectors of about `terms` terms each, some terms in most of them and most in few."""
    chance = 1 / np.arange(10, dimensions + 10)
    chance /= chance.sum()
    rows = [np.unique(random.choice(dimensions, size=terms, p=chance)) for _ in range(count)]
    lengths = np.array([len(row) for row in rows])
    weights = random.gamma(2.0, 0.5, lengths.sum()).astype(np.float32) + np.float32(0.01)
    return SparseVectors(lengths, np.concatenate(rows).astype(np.int32), weights, dimensions)


def measure_encoding(options: argparse.Namespace, texts: list[str]) -> None:
    from sentence_transformers import SparseEncoder

    library = SparseEncoder(options.model, device="cpu")
    library.max_seq_length = options.max_length
    encoder = SpladeEncoder(options.model, max_length=options.max_length, precision=options.precision, device="cpu")
    found, expected = encoder.encode(texts, "document"), library.encode_document(texts)
    deviation = (as_tensor(found).to_dense() - expected.to_dense()).abs().max()
    print(f"encode {len(texts)} documents of up to {options.max_length} tokens, deviation {deviation:.1e}")
    in_turns(
        lambda: encoder.encode(texts, "document"),
        lambda: library.encode_document(texts),
        options.repeats,
        "documents",
        len(texts),
    )


def measure_search(documents: SparseVectors, queries: SparseVectors, depth: int, repeats: int) -> None:
    from sentence_transformers.util import dot_score, semantic_search

    began = time.perf_counter()
    built = Inverted().build(documents)
    print(f"index built in {time.perf_counter() - began:.2f} s (compiling included), {built.bytes / 2**20:.1f} MiB")
    asked, held = as_tensor(queries), as_tensor(documents)
    scores, _ = built.nearest(queries, depth)
    expected = semantic_search(asked, held, top_k=depth, score_function=dot_score)
    deviation = max(
        abs(float(score) - hit["score"])
        for row, hits in zip(scores, expected, strict=True)
        for score, hit in zip(row, hits, strict=True)
        if np.isfinite(score)
    )
    mean = len(queries.terms) / len(queries), len(documents.terms) / len(documents)
    print(
        f"search {len(documents)} documents of {mean[1]:.0f} terms, {len(queries)} queries of {mean[0]:.0f}, ", end=""
    )
    print(f"depth {depth}, deviation {deviation:.1e}")
    in_turns(
        lambda: built.nearest(queries, depth),
        lambda: semantic_search(asked, held, top_k=depth, score_function=dot_score),
        repeats,
        "queries",
        len(queries),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="a collection")
    parser.add_argument("--documents", type=int, default=64, help="documents to encode")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours; theirs is fp32")
    parser.add_argument("--synthetic", type=int, help="documents to search, drawn at random")
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    import numba
    import sentence_transformers

    torch.set_num_threads(options.threads)
    numba.set_num_threads(options.threads)
    print(f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {options.threads} threads")
    versions = {"torch": torch, "sentence-transformers": sentence_transformers, "numba": numba, "numpy": np}
    print(", ".join(f"{name} {module.__version__}" for name, module in versions.items()))
    collection = open_collection(options.data)
    measure_encoding(options, list(collection.corpus.texts()[: options.documents]))
    if options.synthetic:
        random = np.random.default_rng(0)
        measure_search(
            synthetic(random, options.synthetic, 200), synthetic(random, 100, 30), options.depth, options.repeats
        )
        return
    from retrodistill.retrieval.sparse import Splade

    searcher = Splade(model=options.model, max_length=options.max_length).open(collection)
    queries = searcher.query_vectors(collection.query_ids("test"))
    measure_search(searcher.document_vectors, queries, options.depth, options.repeats)


if __name__ == "__main__":
    main()
