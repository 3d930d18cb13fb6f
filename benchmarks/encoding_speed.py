"""Claim: without padding, encoding and cross-encoder scoring give sentence-transformers' figures in less time.

Compares with the defaults of sentence-transformers (batches of 32, float32), in one process, side by side in every
round: dense encoding of documents by all-MiniLM-L6-v2, and scoring of pairs by a sequence classifier of the same
weights (its head is random), cut at 256 and at 512 tokens. Each side runs once unmeasured. Prints the ratio of times by
the clock and of processor times (which other programs on the machine disturb less), median and range over the rounds,
and how far the figures lie apart.

    python benchmarks/encoding_speed.py --data DIR [--precision bf16] [--threads 1]
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
import transformers

from retrodistill import models
from retrodistill.collections import Collection, open_collection
from retrodistill.encoders import DenseEncoder
from retrodistill.teachers.cross_encoder import CrossEncoder

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def clocked(work: Callable[[], np.ndarray]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def compare(
    what: str, theirs: Callable[[], np.ndarray], ours: Callable[[], np.ndarray], count: int, rounds: int
) -> None:
    expected, found = theirs(), ours()  # and the first, unmeasured, run of each
    times = []
    for number in range(rounds):
        sides = [theirs, ours] if number % 2 else [ours, theirs]
        measured = {side: clocked(side) for side in sides}
        times.append((measured[theirs], measured[ours]))
    print(f"\n{what}")
    for name, seconds in zip(("clock", "processor"), np.moveaxis(np.array(times), 2, 0), strict=True):
        ratios = seconds[:, 0] / seconds[:, 1]
        theirs_rate, ours_rate = count / np.median(seconds, axis=0)
        print(
            f"  {name:9}  {np.median(ratios):.2f}x ({ratios.min():.2f} to {ratios.max():.2f}); "
            f"{theirs_rate:.1f} -> {ours_rate:.1f} a second"
        )
    print(f"  largest difference {np.abs(found - expected).max():.1e}, largest figure {np.abs(expected).max():.2g}")
    if expected.ndim == 2:
        cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        print(f"  least cosine {cosines.min():.7f}")
    else:
        print(f"  standard deviation of the logits {expected.std():.2f}")


def dense(documents: list[str], options: argparse.Namespace) -> None:
    encoder = DenseEncoder(MODEL, precision=options.precision, device="cpu")
    model = sentence_transformers.SentenceTransformer(str(models.locate(MODEL)), device="cpu")
    tokens = np.mean(encoder.lengths(documents))
    compare(
        f"dense encoding, {len(documents)} documents of {tokens:.0f} tokens on average",
        lambda: model.encode(documents, show_progress_bar=False),
        lambda: encoder.encode(documents, "document"),
        len(documents),
        options.rounds,
    )


def classifier(folder: Path) -> None:
    """Writes a cross-encoder of the model's weights; its head is random, and large enough for logits to differ."""
    torch.manual_seed(0)
    source = models.locate(MODEL)
    model = transformers.BertForSequenceClassification.from_pretrained(source, num_labels=1)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def scoring(
    folder: Path, collection: Collection, pairs: list[tuple[str, str]], length: int, options: argparse.Namespace
) -> None:
    judge = CrossEncoder(model=str(folder), max_length=length, precision=options.precision).open(collection)
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", max_length=length)
    texts = [(judge.query_text(query), judge.document_text(document)) for query, document in pairs]
    tokens = np.mean(judge.tokens(texts).lengths)
    compare(
        f"scoring at {length} tokens, {len(pairs)} pairs of {tokens:.0f} tokens on average",
        lambda: model.predict(texts, activation_fn=torch.nn.Identity(), show_progress_bar=False),
        lambda: judge.score(*zip(*pairs, strict=True)),
        len(pairs),
        options.rounds,
    )


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a collection in BEIR's format")
    parser.add_argument("--texts", type=int, default=64, help="documents to encode, pairs to score")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of our side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    collection = open_collection(options.data)
    random = np.random.default_rng(options.seed)
    queries, documents = (
        [texts.ids[row] for row in random.choice(len(texts.ids), options.texts)]
        for texts in (collection.queries, collection.corpus)
    )
    print(
        f"{date.today()}, {processor()}, {options.threads} threads; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, sentence-transformers {sentence_transformers.__version__}; "
        f"{options.precision}, {options.rounds} rounds, {options.data.name}"
    )
    with tempfile.TemporaryDirectory() as folder:
        dense([collection.corpus.text(document) for document in documents], options)
        classifier(Path(folder))
        for length in (256, 512):
            scoring(Path(folder), collection, list(zip(queries, documents, strict=True)), length, options)


if __name__ == "__main__":
    main()
