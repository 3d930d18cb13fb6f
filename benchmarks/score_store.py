"""Measures the score store: rows written and looked up a second, bytes a row, peak memory.

    python benchmarks/score_store.py --rows 10000000

Rows are synthetic: random 128-bit keys, `--depth` documents a query, one append. Half of the random lookups are
pairs that the store has, half are not. Every answer is compared with what was written.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrodistill.scores.store import ScoreStore, TeacherScores


def timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def rate(rows: int, seconds: float) -> str:
    return f"{rows / seconds / 1e6:6.1f} M rows/s ({seconds:.2f} s)"


def keys(random: np.random.Generator, count: int) -> np.ndarray:
    return random.integers(0, 2**64, (count, 2), dtype=np.uint64)


def measure(rows: int, depth: int, repeats: int, store: ScoreStore, random: np.random.Generator) -> None:
    queries = np.repeat(keys(random, -(-rows // depth)), depth, axis=0)[:rows]
    documents = keys(random, rows)
    scores = random.standard_normal(rows).astype(np.float32)

    writes = []
    for number in range(repeats):
        table = store.table({"kind": "synthetic", "number": number})
        writes.append(timed(lambda table=table: table.append(queries, documents, scores))[0])
    print(f"write            {rate(rows, float(np.median(writes)))}, median of {repeats}, synced")
    print(f"size             {store.teachers()[0]['bytes'] / rows:6.1f} bytes a row")

    table = TeacherScores(store.root / store.teachers()[0]["fingerprint"], {})
    seconds, _ = timed(lambda: len(table))
    print(f"read and index   {rate(rows, seconds)}")

    seconds, found = timed(lambda: table.lookup(queries, documents))
    assert np.array_equal(found, scores)
    print(f"look up in order {rate(rows, seconds)}")

    sample = min(rows, 1_000_000)
    chosen = random.integers(0, rows, sample)
    of, asked = queries[chosen], documents[chosen]
    missing = random.random(sample) < 0.5
    asked[missing] += np.uint64(1)
    lookups = []
    for _ in range(max(3, repeats)):
        seconds, found = timed(lambda: table.lookup(of, asked))
        lookups.append(seconds)
    assert np.array_equal(found, np.where(missing, np.float32(np.nan), scores[chosen]), equal_nan=True)
    print(f"look up randomly {rate(sample, float(np.median(lookups)))}, {sample} pairs, half of them missing")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    held = (queries.nbytes + documents.nbytes + scores.nbytes) / 2**30
    print(f"peak memory      {peak:6.2f} GiB, of which {held:.2f} GiB are the benchmark's own rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--depth", type=int, default=100, help="documents a query")
    parser.add_argument("--repeats", type=int, default=3, help="writes to take the median of")
    parser.add_argument("--folder", type=Path, help="where the store is written (default: the temporary folder)")
    options = parser.parse_args()
    print(
        f"{options.rows} rows, {options.depth} a query; {platform.machine()}, Python {platform.python_version()}",
        end="",
    )
    print(f", numpy {np.__version__}, pyarrow {pa.__version__}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(options.rows, options.depth, options.repeats, ScoreStore(Path(folder)), np.random.default_rng(0))


if __name__ == "__main__":
    main()
