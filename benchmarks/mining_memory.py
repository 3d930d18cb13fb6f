"""Measures the peak memory of mining a collection of millions, against the memory that was granted.

    python benchmarks/mining_memory.py --documents 5000000 --width 384 --memory 2GB

Synthetic vectors, float16, are written to disk (3.8 GB at the defaults). A process of its own then mines from them with
a sampler and a filter within `memory`; what is printed is its peak (VmHWM), libraries, ids and all, and the time. With
`--check N` the negatives of the first N queries are held against a search of all vectors by numpy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrodistill.collections import Collection, Texts
from retrodistill.collections.texts import SCHEMAS
from retrodistill.memory import parse
from retrodistill.mining import mine
from retrodistill.mining.margins import Margin
from retrodistill.mining.samplers import LogUniform, Window
from retrodistill.retrieval.given import GivenVectors

_BLOCK = 65_536


def write_vectors(folder: Path, documents: int, queries: int, width: int) -> None:
    """Unit vectors: those of one random block, its rows and columns in ever other orders."""
    random = np.random.default_rng(0)
    block = random.standard_normal((_BLOCK, width), dtype=np.float32)
    block = (block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float16)
    whole = np.lib.format.open_memmap(folder / "documents.npy", mode="w+", dtype=np.float16, shape=(documents, width))
    for start in range(0, documents, _BLOCK):
        count = min(_BLOCK, documents - start)
        whole[start : start + count] = np.roll(block, start // _BLOCK, axis=1)[:count]
    whole.flush()
    del whole
    asked = block[:queries].astype(np.float32) + 0.05 * random.standard_normal((queries, width), dtype=np.float32)
    np.save(folder / "queries.npy", (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32))


def texts(kind: str, prefix: str, count: int) -> Texts:
    """Ids alone; the texts are empty."""
    schema = SCHEMAS[kind]  # type: ignore[index]
    batches = []
    for start in range(0, count, _BLOCK):
        ids = pa.array([f"{prefix}{row}" for row in range(start, min(count, start + _BLOCK))], pa.string())
        empty = pa.array([""] * len(ids), pa.string())
        batches.append(pa.record_batch([ids, *[empty] * (len(schema) - 1)], schema=schema))
    return Texts("synthetic", kind, pa.Table.from_batches(batches))  # type: ignore[arg-type]


def mined(folder: Path, documents: int, queries: int, memory: str, sampler: str) -> dict[str, object]:
    corpus, asked = texts("document", "d", documents), texts("query", "q", queries)
    collection = Collection(
        "synthetic", corpus, asked, {"train": {f"q{row}": {f"d{row}": 1} for row in range(queries)}}
    )
    began = time.perf_counter()
    candidates, account = mine(
        collection,
        "train",
        [GivenVectors(path=folder)],
        depth=200,
        sampler=Window(n=30) if sampler == "top" else LogUniform(n=30),
        filters=[Margin(relative=0.05)],
        memory=parse(memory),
    )
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text()
    return {
        "peak": int(status.split("VmHWM:")[1].split()[0]) * 1024,
        "seconds": seconds,
        "account": account.as_dict(),
        "negatives": [
            (query, doc)
            for query, doc, label in zip(
                candidates.query_ids, candidates.doc_ids, candidates.table.column("label").to_pylist(), strict=True
            )
            if label is None
        ],
    }


def check(folder: Path, queries: int, found: list[list[str]]) -> None:
    """Hold the top negatives of some queries against numpy's."""
    vectors = np.load(folder / "documents.npy", mmap_mode="r")
    asked = np.load(folder / "queries.npy")[:queries]
    scores = np.concatenate(
        [asked @ vectors[start : start + _BLOCK].astype(np.float32).T for start in range(0, len(vectors), _BLOCK)], 1
    )
    mine_ = {(query, doc) for query, doc in found}
    common = total = 0
    for row in range(queries):
        positive = scores[row, row]
        order = [doc for doc in np.argsort(-scores[row])[:300] if doc != row and scores[row, doc] < 0.95 * positive]
        common += sum((f"q{row}", f"d{doc}") in mine_ for doc in order[:30])
        total += len(order[:30])
    print(f"checked: {common} of the {total} negatives that numpy finds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=5_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--sampler", choices=("top", "log_uniform"), default="top")
    parser.add_argument("--check", type=int, default=0, metavar="N")
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.vectors:
        print(json.dumps(mined(options.vectors, options.documents, options.queries, options.memory, options.sampler)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_vectors(folder, options.documents, options.queries, options.width)
        size = (folder / "documents.npy").stat().st_size
        print(f"{options.documents:,} documents of {options.width} dimensions, {size / 1e9:.1f} GB on disk")
        words = [sys.executable, *sys.argv, "--vectors", name]
        told = subprocess.run(words, check=False, capture_output=True, text=True)
        if told.returncode:
            print(told.stderr.strip().splitlines()[-1])
            return
        result = json.loads(told.stdout.strip().splitlines()[-1])
        within = result["peak"] <= parse(options.memory)
        print(
            f"{options.queries:,} queries in {result['seconds']:.0f} s; peak {result['peak'] / 1e9:.2f} GB of "
            f"{options.memory} granted: {'within' if within else 'BEYOND'}"
        )
        print(json.dumps(result["account"]))
        if options.check and options.sampler == "top":
            check(folder, options.check, result["negatives"])


if __name__ == "__main__":
    main()
