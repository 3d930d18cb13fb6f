"""Students of other kinds through the same training: cross-encoders, adapters, shorter vectors."""

import json

import numpy as np
import pytest
import torch
from small_training import candidates_over, teacher_over

from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.students.cross_encoder import CrossEncoderStudent
from retrodistill.students.dense import DenseStudent
from retrodistill.students.lora import Lora
from retrodistill.training.objective import Objective
from retrodistill.training.options import TrainOptions
from retrodistill.training.train import train

OPTIONS = TrainOptions(epochs=4, batch_size=4, documents=4, precision="fp32", learning_rate=4e-3, checkpoint_every=2)
OWN = {"kind": "infonce", "temperature": 1.0, "in_batch_negatives": False}
SHARP = {"kind": "kl", "student_temperature": 0.1}
KINDS = {
    "cross_encoder": (lambda model: CrossEncoderStudent(model=model, layers=2, dropout=0.1), ["kl", OWN]),
    "cross_encoder_lora": (lambda model: CrossEncoderStudent(model=model, lora=Lora(rank=8, dropout=0.1)), ["kl"]),
    "dense_lora": (
        lambda model: DenseStudent(model=model, lora=Lora(rank=8), dropout=0.1, query_prompt="the "),
        [SHARP, "infonce"],
    ),
    "matryoshka": (lambda model: DenseStudent(model=model, dimensions=(16, 4), dropout=0.1), [SHARP, "infonce"]),
}


def run(kind, model, collection, out, **options):
    student, losses = KINDS[kind]
    candidates = candidates_over(collection)
    return train(
        student(str(model)),
        [build("loss", loss) for loss in losses],
        candidates,
        collection,
        out,
        teacher=teacher_over(candidates),
        options=OPTIONS.model_copy(update=options),
        extra={"teachers": ["bm25", "dense:x"], "recipe": "kinds"},
    )


def fall(manifest):
    """The mean loss of the last four steps over that of the first four."""
    steps = [line["loss"] for line in manifest["log"]]
    return np.mean(steps[-4:]) / np.mean(steps[:4])


@pytest.fixture(params=KINDS)
def kind(request):
    if "lora" in request.param:
        pytest.importorskip("peft")
    return request.param


def test_a_crash_costs_no_bit(kind, tiny_model, collection, tmp_path, monkeypatch):
    manifest = run(kind, tiny_model, collection, tmp_path / "whole")
    assert manifest["steps"] == 12
    if kind in ("dense_lora", "matryoshka"):
        assert fall(manifest) < 0.9
    backward, calls = Objective.backward, []

    def dying(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return backward(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "backward", dying)
        run(kind, tiny_model, collection, tmp_path / "m")
    run(kind, tiny_model, collection, tmp_path / "m")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "m")]
    assert weights[0] == weights[1]


def test_what_is_computed_in_pieces_is_the_same(tiny_model, collection, tmp_path):
    candidates = candidates_over(collection)
    norms = {}
    for name, student in (
        ("pairs", CrossEncoderStudent(model=str(tiny_model), dropout=0)),
        ("cut", DenseStudent(model=str(tiny_model), dropout=0, dimensions=(8,))),
    ):
        for budget in (16_384, 60):
            manifest = train(
                student, [build("loss", OWN), build("loss", "kl")], candidates, collection, tmp_path / name / str(budget),
                teacher=teacher_over(candidates),
                options=OPTIONS.model_copy(update={"max_steps": 1, "max_tokens": budget}),
            )  # fmt: skip
            norms[name, budget] = manifest["log"][0]["loss"], manifest["log"][0]["grad_norm"]
        assert norms[name, 60] == pytest.approx(norms[name, 16_384], rel=1e-4)


def test_a_cross_encoder_learns_from_its_own_pairs_alone(tiny_model, collection, tmp_path):
    candidates = candidates_over(collection)
    with pytest.raises(InputError, match=r"infonce looks at other queries' documents.*set in_batch_negatives: false"):
        train(
            CrossEncoderStudent(model=str(tiny_model)),
            [build("loss", "infonce")],
            candidates,
            collection,
            tmp_path / "m",
        )
    assert not list(tmp_path.iterdir())


def test_a_trained_cross_encoder_ranks_as_it_was_taught(tiny_model, collection, tmp_path):
    from sentence_transformers import CrossEncoder

    manifest = run("cross_encoder", tiny_model, collection, tmp_path / "m", epochs=24, batch_size=6, documents=8)
    assert fall(manifest) < 0.9
    candidates = candidates_over(collection)
    texts = [
        (collection.queries.text(query), collection.corpus.text(doc))
        for query, doc in zip(candidates.query_ids, candidates.doc_ids, strict=True)
    ]
    with torch.no_grad():
        scores = CrossEncoder(str(tmp_path / "m"), device="cpu").predict(texts)
    teacher = teacher_over(candidates)
    known = ~np.isnan(teacher)
    assert np.corrcoef(scores[known], teacher[known])[0, 1] > 0.2
    assert json.loads((tmp_path / "m/manifest.json").read_text())["student"]["kind"] == "cross_encoder"
