"""Two processes that share a batch give the loss and the gradient of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from retrodistill.registry import table

SCRIPT = """
import sys
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
for name, student, losses in {cases!r}:
    learner = part("student", student)
    model = learner.load("cpu").train()
    def tokens(role, rows):
        return learner.tokenize(model, (collection.queries if role == "query" else collection.corpus).texts(rows), role)
    for max_tokens in (10**6, 1):
        model.zero_grad()
        parts = [part("loss", loss) for loss in losses]
        objective = Objective(learner, model, parts, tokens, precision="fp32", max_tokens=max_tokens, workers=workers)
        values = objective.backward(batch, progress=0.5)
        gradient = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
        found[f"{{name}}, {{max_tokens}} tokens"] = (values, gradient)
if workers.rank == 0:
    torch.save(found, {out!r})
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


def cases(dense, splade, colbert, cross_encoder):
    """Every loss with a dense student; a loss of the lists and one of the batch with each other student."""
    small = {"kind": "dense", "model": str(dense), "layers": 2, "dropout": 0.0}
    others = {
        "splade": {"kind": "splade", "model": str(splade), "dropout": 0.0, "flops": {"query": 0.1, "document": 0.1}},
        "colbert": {"kind": "colbert", "model": str(colbert), "dropout": 0.0},
    }
    kl, infonce = {"kind": "kl", "student_temperature": 0.1}, {"kind": "infonce", "temperature": 0.1}
    found = [(kind, small, [{"kind": kind}]) for kind in table("loss")]
    found += [("a sum", small, [kl, {"kind": "margin_mse", "weight": {"start": 0, "end": 0.2}}, infonce])]
    found += [(f"{kind}, {loss['kind']}", spec, [loss]) for kind, spec in others.items() for loss in (kl, infonce)]
    found += [("splade in groups", {**others["splade"], "flops": {"query": 0, "document": 0}}, [kl])]
    pairs = {"kind": "cross_encoder", "model": str(cross_encoder), "dropout": 0.0}
    return [*found, ("cross_encoder", pairs, [kl, {**infonce, "in_batch_negatives": False}])]


@pytest.fixture(scope="module")
def both(tmp_path_factory, tiny_model, tiny_splade, tiny_colbert, tiny_cross_encoder, collection_folder):
    folder = tmp_path_factory.mktemp("workers")
    every = cases(tiny_model, tiny_splade, tiny_colbert, tiny_cross_encoder)
    return [run(count, folder / f"{count}.pt", cases=every, data=str(collection_folder)) for count in (1, 2)]


def test_two_processes_give_the_loss_and_the_gradient_of_one(both):
    one, two = both
    assert len(one) == len(two) == 2 * (len(table("loss")) + 7)
    for name, (values, gradient) in one.items():
        shared, summed = two[name]
        assert gradient.abs().max() > 1e-6, name
        assert shared == pytest.approx(values, rel=1e-5, abs=1e-6), name
        torch.testing.assert_close(
            summed, gradient, rtol=1e-4, atol=1e-6 + 1e-5 * float(gradient.abs().max()), msg=name
        )
