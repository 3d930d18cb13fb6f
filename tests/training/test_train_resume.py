"""Killed anywhere and called again, a training ends with the weights it would have had."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_training import candidates_over, teacher_over

from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.divergences import KL
from retrodistill.students.dense import DenseStudent
from retrodistill.training.objective import Objective
from retrodistill.training.options import TrainOptions
from retrodistill.training.train import train
from retrodistill.training.trainer import COMPLETE, WEIGHTS, last_checkpoint

OPTIONS = TrainOptions(epochs=3, batch_size=4, documents=4, precision="fp32", learning_rate=1e-3, checkpoint_every=2)
STEPS = 9


class Crash(Exception):  # noqa: N818  # it stands for a crash, not for an error that anybody catches
    pass


def run(tiny_model, collection, out, losses=None, seed=0, **options):
    candidates = candidates_over(collection)
    train(
        DenseStudent(model=str(tiny_model), layers=2, dropout=0.2),
        losses or [KL(student_temperature=0.1), InfoNCE()],
        candidates,
        collection,
        out,
        teacher=teacher_over(candidates),
        options=OPTIONS.model_copy(update=options),
        seed=seed,
    )
    return (out / "model.safetensors").read_bytes()


def dies_before(step):
    """Stand-in for `Objective.backward`: raises when it is called for the step, counted from 1 in this process."""
    backward, calls = Objective.backward, []

    def dying(self, batch, progress=0.0):
        calls.append(batch)
        if len(calls) == step:
            raise Crash
        return backward(self, batch, progress)

    return dying


def crash(monkeypatch, step, *arguments, **options):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Objective, "backward", dies_before(step))
        run(*arguments, **options)


def checkpoints(out):
    return sorted(path.name for path in out.with_name(out.name + ".partial").glob("checkpoint-*"))


@pytest.fixture(scope="module")
def unbroken(tiny_model, collection, tmp_path_factory):
    """The weights of a training that nothing happened to."""
    return run(tiny_model, collection, tmp_path_factory.mktemp("unbroken") / "m")


@pytest.mark.parametrize(("step", "kept"), [(2, []), (8, ["checkpoint-4", "checkpoint-6"])])
def test_a_crash_costs_no_bit(tiny_model, collection, tmp_path, monkeypatch, capsys, unbroken, step, kept):
    out = tmp_path / "m"
    crash(monkeypatch, step, tiny_model, collection, out)
    assert not out.exists()
    assert checkpoints(out) == kept
    assert run(tiny_model, collection, out) == unbroken
    said = capsys.readouterr().err
    assert (f"goes on from step {kept[-1].rpartition('-')[2]} of {STEPS}" if kept else "") in said
    assert ("goes on" in said) == bool(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_crash_after_crash(tiny_model, collection, tmp_path, monkeypatch, unbroken):
    out = tmp_path / "m"
    for step in (4, 2, 4, 1):  # counted by each process anew: from 0, 2, 2 and 4
        crash(monkeypatch, step, tiny_model, collection, out)
    assert checkpoints(out) == ["checkpoint-2", "checkpoint-4"]
    assert run(tiny_model, collection, out) == unbroken


def test_the_gradient_cache_goes_on_as_well(tiny_model, collection, tmp_path, monkeypatch):
    whole = run(tiny_model, collection, tmp_path / "whole", max_tokens=1)
    crash(monkeypatch, 6, tiny_model, collection, tmp_path / "m", max_tokens=1)
    assert run(tiny_model, collection, tmp_path / "m", max_tokens=1) == whole


def test_a_crash_while_the_result_is_written(tiny_model, collection, tmp_path, monkeypatch, unbroken):
    out = tmp_path / "m"
    save = DenseStudent.save

    def torn(self, model, folder):
        save(self, model, folder)
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(DenseStudent, "save", torn)
        run(tiny_model, collection, out)
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "backward", dies_before(1))  # there is nothing left to compute
        assert run(tiny_model, collection, out) == unbroken


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import test_train_resume as here
from retrodistill.collections import open_collection
from retrodistill.training.trainer import StudentTrainer

save, saved = StudentTrainer._save, []
def torn(self, output_dir=None, state_dict=None):
    save(self, output_dir, state_dict)
    saved.append(output_dir)
    if len(saved) == 3:  # amid the third checkpoint, whose weights are there and whose optimizer is not
        os.kill(os.getpid(), signal.SIGKILL)
StudentTrainer._save = torn
here.run(Path({model!r}), open_collection(Path({data!r})), Path({out!r}))
"""


def test_kill_9_amid_a_checkpoint(tiny_model, collection, collection_folder, tmp_path, capsys, unbroken):
    out = tmp_path / "m"
    code = KILLED.format(
        tests=str(Path(__file__).parent), model=str(tiny_model), data=str(collection_folder), out=str(out)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoints(out) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert last_checkpoint(tmp_path / "m.partial").name == "checkpoint-4"
    assert run(tiny_model, collection, out) == unbroken
    assert f"goes on from step 4 of {STEPS}" in capsys.readouterr().err


def test_a_torn_checkpoint_is_passed_over(tiny_model, collection, tmp_path, monkeypatch, capsys, unbroken):
    out = tmp_path / "m"
    crash(monkeypatch, 6, tiny_model, collection, out)
    latest = tmp_path / "m.partial" / "checkpoint-4"
    (latest / COMPLETE).unlink()
    (latest / WEIGHTS).write_bytes(b"torn")
    assert run(tiny_model, collection, out) == unbroken
    assert "goes on from step 2" in capsys.readouterr().err


def test_the_last_checkpoint_is_the_latest_whole_one(tmp_path):
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "absent") is None
    for name, whole in (
        ("checkpoint-9", True),
        ("checkpoint-10", True),
        ("checkpoint-11", False),
        ("checkpoint-x", True),
    ):
        (tmp_path / name).mkdir()
        if whole:
            (tmp_path / name / COMPLETE).touch()
    assert last_checkpoint(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize("changed", [{"learning_rate": 5e-4}, {"losses": [KL()]}])
def test_changed_options_start_afresh(tiny_model, collection, tmp_path, monkeypatch, capsys, changed):
    crash(monkeypatch, 4, tiny_model, collection, tmp_path / "m")
    found = run(tiny_model, collection, tmp_path / "m", **changed)
    said = capsys.readouterr().err
    assert f"{tmp_path / 'm.partial'}: checkpoints of other inputs or options; starting afresh" in said
    assert "goes on" not in said
    assert found == run(tiny_model, collection, tmp_path / "fresh", **changed)


def test_checkpoints_without_a_stamp_are_not_trusted(tiny_model, collection, tmp_path, monkeypatch, capsys, unbroken):
    # As a crash leaves them that comes while checkpoints of other options are being removed.
    crash(monkeypatch, 4, tiny_model, collection, tmp_path / "m", learning_rate=1e-2)
    (tmp_path / "m.partial" / "training.json").unlink()
    assert run(tiny_model, collection, tmp_path / "m") == unbroken
    assert "starting afresh" in capsys.readouterr().err


def test_a_crash_while_other_checkpoints_are_removed(tiny_model, collection, tmp_path, monkeypatch, unbroken):
    crash(monkeypatch, 8, tiny_model, collection, tmp_path / "m", learning_rate=1e-2)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        rmtree = shutil.rmtree

        def dying(path, *arguments, **options):
            rmtree(path, *arguments, **options)
            raise Crash

        patch.setattr(shutil, "rmtree", dying)
        run(tiny_model, collection, tmp_path / "m")
    assert len(checkpoints(tmp_path / "m")) == 1
    assert run(tiny_model, collection, tmp_path / "m") == unbroken


def test_what_decides_no_weight_may_change_on_the_way(tiny_model, collection, tmp_path, monkeypatch, capsys, unbroken):
    crash(monkeypatch, 6, tiny_model, collection, tmp_path / "m")
    assert run(tiny_model, collection, tmp_path / "m", checkpoint_every=3) == unbroken
    assert "goes on from step 4" in capsys.readouterr().err
