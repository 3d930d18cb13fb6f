"""A dev split chooses the weights: measured as every evaluation is, the best kept, the training stopped in time."""

import os

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from small_training import candidates_over, teacher_over
from transformers.models.bert.modeling_bert import BertIntermediate

from retrodistill import steps
from retrodistill.errors import InputError
from retrodistill.losses.divergences import KL
from retrodistill.registry import build
from retrodistill.students.dense import DenseStudent
from retrodistill.training.dev import Dev
from retrodistill.training.objective import Objective
from retrodistill.training.options import TrainOptions
from retrodistill.training.train import train

OPTIONS = TrainOptions(
    epochs=4, batch_size=4, documents=4, precision="fp32", learning_rate=2e-3, evaluate_every=2, checkpoint_every=100
)


def run(tiny_model, collection, out, dev="test", dropout=None, **options):
    candidates = candidates_over(collection)
    return train(
        DenseStudent(model=str(tiny_model), layers=2, dropout=dropout),
        [KL(student_temperature=0.1)],
        candidates,
        collection,
        out,
        teacher=teacher_over(candidates),
        options=OPTIONS.model_copy(update=options),
        dev=dev,
    )


@pytest.mark.parametrize("kind", ["dense", "splade", "colbert"])
def test_a_model_in_training_is_measured_as_it_will_be_once_saved(kind, collection, tmp_path, request):
    model_of = {"dense": "tiny_model", "splade": "tiny_splade", "colbert": "tiny_colbert"}
    student = build("student", {"kind": kind, "model": str(request.getfixturevalue(model_of[kind]))})
    model = student.load("cpu").train()
    value = Dev(collection, "test", "AP@5", student)(model)
    assert model.training
    student.save(model, tmp_path / "m")
    evaluation, _ = steps.evaluate(str(tmp_path / "m"), collection, "test", metrics=["AP@5"])
    assert value == pytest.approx(evaluation.metrics["AP@5"], abs=1e-6)


@pytest.fixture
def told(monkeypatch):
    """Has the dev split say given numbers; keeps a weight of the model at each."""
    numbers, seen = [], []

    def says(self, model):
        seen.append(next(model.parameters()).detach().clone())
        return numbers[len(seen) - 1]

    monkeypatch.setattr(Dev, "__call__", says)
    return numbers, seen


def test_the_best_weights_are_kept(tiny_model, collection, tmp_path, told):
    numbers, seen = told
    numbers += [0.3, 0.7, 0.2, 0.6, 0.5, 0.4]
    manifest = run(tiny_model, collection, tmp_path / "m")
    assert manifest["dev"] == {
        "metric": "nDCG@10",
        "by_step": {2: 0.3, 4: 0.7, 6: 0.2, 8: 0.6, 10: 0.5, 12: 0.4},
        "kept_step": 4,
        "kept": 0.7,
    }
    saved = load_file(tmp_path / "m" / "model.safetensors")
    name = next(name for name, weight in saved.items() if weight.shape == seen[1].shape)
    assert torch.equal(saved[name], seen[1])
    assert not torch.equal(saved[name], seen[-1])


def test_patience_ends_it(tiny_model, collection, tmp_path, told):
    told[0].extend([0.5, 0.4, 0.3, 0.9, 0.9, 0.9])
    manifest = run(tiny_model, collection, tmp_path / "m", patience=2)
    assert manifest["steps"] == 6
    assert manifest["dev"]["kept_step"] == 2


@pytest.mark.parametrize("when", ["between two evaluations", "after the stop"])
def test_a_resumed_run_has_the_patience_that_was_left(tiny_model, collection, tmp_path, told, monkeypatch, when):
    told[0].extend([0.5, 0.4, 0.3, 0.9, 0.9, 0.9])
    backward, calls = Objective.backward, []

    def dying(self, batch, progress=0.0):
        calls.append(batch)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return backward(self, batch, progress)

    def stopped(self, model, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if when == "after the stop":
            patch.setattr(DenseStudent, "save", stopped)
        else:
            patch.setattr(Objective, "backward", dying)
        run(tiny_model, collection, tmp_path / "m", patience=2)
    again = run(tiny_model, collection, tmp_path / "m", patience=2)
    assert again["steps"] == 6 and again["dev"]["kept_step"] == 2
    assert again["dev"]["by_step"] == {2: 0.5, 4: 0.4, 6: 0.3}
    saved = load_file(tmp_path / "m" / "model.safetensors")
    name = next(name for name, weight in saved.items() if weight.shape == told[1][0].shape)
    assert torch.equal(saved[name], told[1][0])


def test_killed_and_started_again_it_keeps_the_same_weights(tiny_model, collection, tmp_path, monkeypatch):
    whole = run(tiny_model, collection, tmp_path / "whole")
    backward, calls = Objective.backward, []

    def dying(self, batch, progress=0.0):
        calls.append(batch)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return backward(self, batch, progress)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "backward", dying)
        run(tiny_model, collection, tmp_path / "m")
    again = run(tiny_model, collection, tmp_path / "m")
    assert again["dev"] == whole["dev"]
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_what_cannot_be_measured(tiny_model, collection, tmp_path):
    with pytest.raises(InputError, match=r"^train.evaluate_every needs a split .*; name one as data.dev or --dev"):
        run(tiny_model, collection, tmp_path / "m", dev=None)
    with pytest.raises(InputError, match=r"^12 queries of the dev split 'train' are trained on, such as 'q-storm0'"):
        run(tiny_model, collection, tmp_path / "m", dev="train")
    for every in (2, None):
        with pytest.raises(InputError, match="has no split 'tset'; did you mean 'test'"):
            run(tiny_model, collection, tmp_path / "m", dev="tset", evaluate_every=every)
    with pytest.raises(ValidationError, match="patience counts evaluations; set evaluate_every too"):
        TrainOptions(patience=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("numbers", [[0.3, 0.7, 0.2], [0.7, 0.3, 0.2], [0.1, 0.2, 0.3]])
def test_checkpoints_are_as_dense_as_asked_for_beside_those_of_evaluations(
    tiny_model, collection, tmp_path, monkeypatch, told, capsys, numbers
):
    options = {"evaluate_every": 4, "checkpoint_every": 3}
    told[0].extend(numbers)
    whole = run(tiny_model, collection, tmp_path / "whole", **options)
    told[0].extend(numbers)
    backward, calls = Objective.backward, []

    def dying(self, batch, progress=0.0):
        calls.append(batch)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return backward(self, batch, progress)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "backward", dying)
        run(tiny_model, collection, tmp_path / "m", **options)
    capsys.readouterr()
    again = run(tiny_model, collection, tmp_path / "m", **options)
    assert "goes on from step 6 of 12" in capsys.readouterr().err
    assert again["dev"] == whole["dev"]
    assert whole["dev"]["kept_step"] == 4 * (1 + numbers.index(max(numbers)))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("m", "whole"))
    assert first == second


def test_checkpointed_activations_are_computed_twice_and_give_the_same_weights(
    tiny_model, collection, tmp_path, monkeypatch
):
    forward, calls = BertIntermediate.forward, []
    monkeypatch.setattr(
        BertIntermediate, "forward", lambda self, *a, **k: calls.append(self.training) or forward(self, *a, **k)
    )
    plain = run(tiny_model, collection, tmp_path / "a", max_steps=4)
    once = sum(calls)
    calls.clear()
    saved = run(tiny_model, collection, tmp_path / "b", max_steps=4, gradient_checkpointing=True)
    assert sum(calls) == 2 * once > 0
    assert saved["log"][-1]["loss"] == pytest.approx(plain["log"][-1]["loss"], rel=1e-5)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(
    "RETRODISTILL_SLOW" not in os.environ, reason="compiles for most of a minute; set RETRODISTILL_SLOW"
)
def test_a_compiled_encoder_gives_the_same_loss_and_gradient(tiny_model, collection, tmp_path):
    from torch._dynamo.utils import counters

    options = {"max_steps": 1, "evaluate_every": None, "dropout": 0.0, "batch_size": 2, "documents": 2}
    plain = run(tiny_model, collection, tmp_path / "a", **options)["log"][0]
    counters.clear()
    compiled = run(tiny_model, collection, tmp_path / "b", **options, compile=True)["log"][0]
    assert counters["stats"]["unique_graphs"] > 0
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert compiled["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)
    assert (
        load_file(tmp_path / "a" / "model.safetensors").keys() == load_file(tmp_path / "b" / "model.safetensors").keys()
    )
