"""Measures the join that training does, without the model: peak memory, time until the first batch, batches a second.

    OMP_NUM_THREADS=1 python benchmarks/training_rows.py --queries 1000000 --depth 32 --documents 2000000

Writes a synthetic collection, candidates and a store of two teachers (about 4 GB at the defaults) into a temporary
folder, or into `--folder`, which is kept and used again. A process of its own then opens all of it, reads and combines
the scores, and makes batches. Its peaks are above what the interpreter has after its imports: all of its memory
(VmHWM; pages of mapped files, which the system takes back when it needs them, count), and that of its own (RssAnon,
sampled every 20 ms). What the batches hold is printed as a digest, to compare one version with another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrodistill.candidates import SCHEMA, Candidates
from retrodistill.collections.opening import open_collection
from retrodistill.scores.keys import text_keys
from retrodistill.scores.store import ScoreStore
from retrodistill.steps import teacher_scores
from retrodistill.training.lists import Lists

_QUERIES_AT_ONCE = 32_768
_TEXT = "what is said of number {} in a short text of a dozen words or so"


class Synthetic:
    """A teacher that only reads."""

    kind = "synthetic"

    def __init__(self, number: int) -> None:
        self.number = number
        self.label = f"synthetic:{number}"

    def open(self, collection: Any) -> Any:
        """A judge of the collection's texts."""
        self.identity = {"kind": self.kind, "number": self.number}
        self.query_text = collection.queries.text
        self.document_text = collection.corpus.text
        return self


def make(folder: Path, queries: int, depth: int, documents: int) -> None:
    """Write collection, candidates and store."""
    for name, prefix, count in (("corpus", "d", documents), ("queries", "q", queries)):
        with (folder / f"{name}.jsonl").open("w") as stream:
            stream.writelines(f'{{"_id": "{prefix}{n}", "text": "{prefix} {_TEXT.format(n)}"}}\n' for n in range(count))
    random = np.random.default_rng(0)
    of_documents = _keys("d", documents)
    tables = [ScoreStore(folder / "store").table({"kind": "synthetic", "number": number}) for number in (0, 1)]
    names = pa.array([f"d{n}" for n in range(documents)])
    with pq.ParquetWriter(folder / "candidates.parquet", SCHEMA, compression="zstd", use_dictionary=["query_id"]) as to:
        for start in range(0, queries, _QUERIES_AT_ONCE):
            count = min(_QUERIES_AT_ONCE, queries - start)
            # distinct within a query: one offset a query, and a step that does not meet itself
            first = random.integers(0, documents, count)[:, None]
            found = ((first + np.arange(depth) * (documents // depth)) % documents).ravel()
            of_query = np.repeat(np.arange(start, start + count), depth)
            to.write_table(_rows(of_query, names.take(pa.array(found)), depth))
            keys = np.repeat(_keys("q", count, start), depth, axis=0)
            for table in tables:
                known = random.random(len(found)) < 0.97
                scores = random.standard_normal(int(known.sum())).astype(np.float32)
                table.append(keys[known], of_documents[found[known]], scores)


def _keys(prefix: str, count: int, start: int = 0) -> np.ndarray:
    return text_keys([f"{prefix} {_TEXT.format(n)}" for n in range(start, start + count)])


def _rows(of_query: np.ndarray, documents: pa.Array, depth: int) -> pa.Table:
    rank = np.tile(np.arange(1, depth + 1, dtype=np.int32), len(of_query) // depth)
    return pa.table(
        [
            pa.array([f"q{n}" for n in of_query.tolist()]),
            documents,
            pa.array(["bm25"] * len(rank)),
            pa.array(rank),
            pa.array(-rank.astype(np.float32)),
            pa.array(np.ones(len(rank), np.int32), mask=rank != 1),
        ],
        schema=SCHEMA,
    )


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


class Sampled:
    """The most memory of its own that the process was seen with."""

    def __init__(self) -> None:
        self.peak = status("RssAnon")
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, status("RssAnon"))
            time.sleep(0.02)


def joined(folder: Path, batches: int) -> dict[str, Any]:
    """What training does before its first step, and then the batches."""
    before, own_before, sampled = status("VmHWM"), status("RssAnon"), Sampled()
    began = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = round(time.perf_counter() - began, 1)
        own = (sampled.peak - own_before) / 1e9
        print(f"  {name:<12} {seconds[name]:7.1f} s  own peak so far {own:.2f} GB", file=sys.stderr)

    collection = open_collection(str(folder))
    lap("collection")
    candidates = Candidates.read(folder / "candidates.parquet")
    lap("candidates")
    teachers: Any = [Synthetic(0), Synthetic(1)]
    teacher = teacher_scores(candidates, collection, teachers, ScoreStore(folder / "store"))
    lap("scores")
    lists = Lists(candidates, teacher, collection, documents=8, pick="uniform", batch_size=32, seed=0)
    lap("lists")
    lists.batch(0)
    lap("first batch")
    hashed, start = hashlib.sha256(), time.perf_counter()
    for number in range(1, batches + 1):
        batch = lists.batch(number)
        for array in (batch.queries, batch.documents, batch.teacher, batch.grades, batch.own, batch.valid):
            hashed.update(np.ascontiguousarray(array).tobytes())
    return {
        "peak": status("VmHWM") - before,
        "own": sampled.peak - own_before,
        "first": seconds["first batch"],
        "rate": batches / (time.perf_counter() - start),
        "digest": hashed.hexdigest()[:16],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--depth", type=int, default=32, help="candidates a query")
    parser.add_argument("--documents", type=int, default=2_000_000)
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="where the data is written and kept (default: a temporary folder)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(joined(options.child, options.batches)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "candidates.parquet").exists():
            make(folder, options.queries, options.depth, options.documents)
        # converted files are kept beside the data, so that nothing is left elsewhere
        environment = {**os.environ, "RETRODISTILL_CACHE": str(folder / "cache")}
        words = [sys.executable, __file__, "--batches", str(options.batches), "--child", str(folder)]
        print(f"{options.queries:,} queries x {options.depth} candidates of {options.documents:,} documents")
        for run in ("first run", "second run, caches there"):
            told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            found = json.loads(told.stdout.strip().splitlines()[-1])
            print(
                f"{run}: first batch after {found['first']:.1f} s, {found['rate']:.0f} batches/s; peak "
                f"{found['peak'] / 1e9:.2f} GB, its own {found['own'] / 1e9:.2f} GB; batches {found['digest']}"
            )


if __name__ == "__main__":
    main()
