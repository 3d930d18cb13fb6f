"""Measures mining against sentence-transformers' mine_hard_negatives: the same vectors, options and negatives.

    python benchmarks/mining_speed.py --data DIR/scifact
    python benchmarks/mining_speed.py --synthetic 5000 100000

Both sides find their vectors on disk: what is measured is search, filters, sampling and what is handed on. They take
turns in one process; what is printed is the median of the ratios of neighbouring runs and their spread. Memory is
measured in a process for each side: how far the peak (VmHWM) rises above what the process held before it mined, and the
peak itself, with the libraries that the side needs. Sets of negatives are compared, query by query.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrodistill.collections import Collection, Texts, open_collection
from retrodistill.memory import resident
from retrodistill.mining import mine
from retrodistill.mining.margins import Margin
from retrodistill.mining.samplers import Window
from retrodistill.models import locate
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.given import GivenVectors

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NEGATIVES, LAST, RELATIVE = 10, 100, 0.05
Negatives = set[tuple[str, str]]


def real(data: str) -> tuple[Collection, np.ndarray, np.ndarray]:
    """A collection's train queries, under ids that no document has, and vectors of both sides."""
    opened = open_collection(data)
    asked, qrels = opened.query_ids("train"), opened.qrels("train")
    texts = list(dict.fromkeys(opened.queries.text(query) for query in asked))
    judged: dict[str, dict[str, int]] = {}
    for query in asked:
        name = f"query-{texts.index(opened.queries.text(query))}"
        judged.setdefault(name, {}).update({doc: grade for doc, grade in qrels[query].items() if grade > 0})
    queries = Texts.queries("train", [(f"query-{row}", text) for row, text in enumerate(texts)])
    named = Collection(opened.name, opened.corpus, queries, {"train": judged})
    searcher = Dense(model=MODEL, precision="bf16").open(named)
    return named, np.asarray(searcher.document_vectors), np.asarray(searcher.query_vectors(queries.ids))


def synthetic(queries: int, documents: int) -> tuple[Collection, np.ndarray, np.ndarray]:
    """Unit vectors around centres; a query is near its one positive."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((1_000, 384))
    vectors = centres[random.integers(0, 1_000, documents)] + random.standard_normal((documents, 384))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    relevant = random.permutation(documents)[:queries]
    asked = vectors[relevant] + 0.02 * random.standard_normal((queries, 384))
    asked = (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)
    corpus = Texts.documents("synthetic", [(f"d{row}", "", f"document {row}") for row in range(documents)])
    texts = Texts.queries("synthetic", [(f"q{row}", f"query {row}") for row in range(queries)])
    qrels = {f"q{row}": {f"d{doc}": 1} for row, doc in enumerate(relevant)}
    return Collection("synthetic", corpus, texts, {"train": qrels}), vectors, asked


def ours(collection: Collection, folder: Path) -> Callable[[], Any]:
    most = max(map(len, collection.qrels("train").values()))
    options = {
        "depth": LAST + most,
        "sampler": Window(n=NEGATIVES, last=LAST),
        "filters": [Margin(relative=RELATIVE)],
        "positives": False,
    }
    return lambda: mine(collection, "train", [GivenVectors(path=folder)], **options)[0]


def theirs(collection: Collection, folder: Path, faiss: bool) -> Callable[[], Any]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    model = SentenceTransformer(str(locate(MODEL)), device="cpu")
    pairs = [(query, doc) for query, grades in collection.qrels("train").items() for doc in grades]
    asked, found = [collection.queries.text(q) for q, _ in pairs], [collection.corpus.text(d) for _, d in pairs]
    dataset, corpus = Dataset.from_dict({"query": asked, "positive": found}), collection.corpus.texts()
    # Where it keeps vectors between runs: put there what both sides get.
    name = model.model_card_data.base_model or ""
    queries = list(dict.fromkeys(asked))
    place = {text: row for row, text in enumerate(collection.queries.texts())}
    first = {text: row for row, text in reversed(list(enumerate(corpus)))}
    documents = list(dict.fromkeys(corpus))
    vectors = {
        "query": (queries, np.load(folder / "queries.npy")[[place[text] for text in queries]]),
        "corpus": (documents, np.load(folder / "documents.npy")[[first[text] for text in documents]]),
    }
    for side, (texts, matrix) in vectors.items():
        digest = hashlib.sha256(repr((name, None, None, texts)).encode(), usedforsecurity=False).hexdigest()
        np.save(folder / f"{side}_embeddings_{digest}.npy", matrix)
    return lambda: mine_hard_negatives(
        dataset, model, corpus=corpus, num_negatives=NEGATIVES, range_max=LAST, relative_margin=RELATIVE,
        sampling_strategy="top", use_faiss=faiss, cache_folder=str(folder), verbose=False, output_format="triplet",
    )  # fmt: skip


def pairs_of(collection: Collection, mined: Any) -> Negatives:
    """(query's text, document's text) of every negative, whichever side it is of."""
    if hasattr(mined, "table"):
        columns = mined.table.to_pydict()
        rows = zip(columns["query_id"], columns["doc_id"], columns["label"], strict=True)
        queries, corpus = collection.queries, collection.corpus
        return {(queries.text(query), corpus.text(doc)) for query, doc, label in rows if label is None}
    return {(row["query"], row["negative"]) for row in mined}


def peak_of(side: str, arguments: list[str], folder: Path) -> dict[str, float]:
    """Peak memory of one side, in a process of its own."""
    words = [sys.executable, __file__, *arguments, "--only", side, "--vectors", str(folder)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return json.loads(told.strip().splitlines()[-1])


def high_water() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def alone(work: Callable[[], Any]) -> None:
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    work()
    print(json.dumps({"rise": (high_water() - before) / 1e6, "peak": high_water() / 1e6}))


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scifact")
    parser.add_argument("--synthetic", type=int, nargs=2, metavar=("QUERIES", "DOCUMENTS"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("ours", "theirs", "theirs-faiss"), help=argparse.SUPPRESS)
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    collection, documents, queries = synthetic(*options.synthetic) if options.synthetic else real(options.data)
    if options.only:
        del documents, queries
        faiss = options.only == "theirs-faiss"
        vectors = options.vectors
        alone(ours(collection, vectors) if options.only == "ours" else theirs(collection, vectors, faiss))
        return
    print(f"{len(collection.queries):,} queries, {len(collection.corpus):,} documents, {NEGATIVES} negatives of {LAST}")
    arguments = ["--synthetic", *map(str, options.synthetic)] if options.synthetic else ["--data", options.data]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "documents.npy", documents)
        np.save(folder / "queries.npy", queries)
        mine_ = ours(collection, folder)
        for label, faiss in (("theirs", False), ("theirs-faiss", True)):
            other = theirs(collection, folder, faiss)
            found, expected = pairs_of(collection, mine_()), pairs_of(collection, other())
            print(f"{label}: {len(found & expected):,} negatives in common, {len(found ^ expected)} of one side only")
            times = np.array([(timed(other), timed(mine_)) for _ in range(options.repeats)])
            ratios = np.sort(times[:, 0] / times[:, 1])
            print(
                f"{label}: {np.median(times[:, 0]):.2f} s, ours {np.median(times[:, 1]):.2f} s: "
                f"{np.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )
        for side in ("ours", "theirs", "theirs-faiss"):
            told = peak_of(side, arguments, folder)
            print(f"{side}: memory rises by {told['rise']:.0f} MB to {told['peak']:.0f} MB")


if __name__ == "__main__":
    main()
