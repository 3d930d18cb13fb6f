"""Two processes that share a batch give the loss and the gradient of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import json, sys
from pathlib import Path
sys.path[:0] = [{here!r}, str(Path({here!r}).parent / "losses")]
import torch
torch.set_num_threads(1)
from small_training import lists_over
from retrodistill.collections import open_collection
from retrodistill.recipe import part
from retrodistill.encoders import TOKENS_A_BATCH
from retrodistill.training.objective import Objective
from retrodistill.training.workers import Workers

TOKENS_A_BATCH["cpu"] = 48  # several chunks for each process
workers = Workers.start("cpu")
collection = open_collection({data!r})
batch = lists_over(collection, batch_size=5).batch(1)
found = {{}}
for student in {students!r}:
    learner = part("student", student)
    for losses in {losses!r}:
        for max_tokens in (10**6, 1):
            model = learner.load("cpu").train()
            def tokens(role, rows):
                return learner.tokenize(model, (collection.queries if role == "query" else collection.corpus).texts(rows), role)
            parts = [part("loss", loss) for loss in losses]
            objective = Objective(learner, model, parts, tokens, precision="fp32", max_tokens=max_tokens, workers=workers)
            values = objective.backward(batch, progress=0.5)
            gradient = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
            found[f"{{student}} {{losses}} {{max_tokens}}"] = (values, gradient)
if workers.rank == 0:
    names = list(found)
    torch.save([(found[n][0], found[n][1]) for n in names], {out!r})
    Path({out!r} + ".names").write_text(json.dumps(names))
"""


def run(processes, out, **facts):
    out.with_suffix(".py").write_text(SCRIPT.format(here=str(Path(__file__).parent), out=str(out), **facts))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(out.with_suffix(".py"))],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


LOSSES = [
    [{"kind": "kl", "student_temperature": 0.1}],
    [{"kind": "infonce", "temperature": 0.1}],
    [{"kind": "margin_mse", "weight": 0.1}, {"kind": "infonce", "temperature": 0.1}],
]


@pytest.fixture(scope="module")
def both(tmp_path_factory, tiny_model, collection_folder):
    folder = tmp_path_factory.mktemp("workers")
    students = [{"kind": "dense", "model": str(tiny_model), "layers": 2, "dropout": 0.0}]
    facts = {"students": students, "losses": LOSSES, "data": str(collection_folder)}
    return run(1, folder / "one.pt", **facts), run(2, folder / "two.pt", **facts)


def test_two_processes_give_the_loss_and_the_gradient_of_one(both):
    one, two = both
    assert len(one) == len(two) == 2 * len(LOSSES)
    for (values, gradient), (shared, summed) in zip(one, two, strict=True):
        assert gradient.abs().max() > 1e-3
        assert shared == pytest.approx(values, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(summed, gradient, rtol=1e-4, atol=1e-6)
