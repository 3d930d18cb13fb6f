"""Parts from elsewhere are code that changes: what was made with another version of them is made again."""

import sys

import pytest

from retrodistill import recipe
from retrodistill.pipeline import run

PARTS = """
from typing import Literal
import numpy as np
from retrodistill.losses.batch import Loss
from retrodistill.mining.samplers import Sampler

class Worst(Sampler):
    kind: Literal["worst"] = "worst"
    def choose(self, pool, generator):
        return np.arange(len(pool))[-self.n:]
"""
LOSS = """
from typing import Literal
from retrodistill.losses.batch import Loss

class Mean(Loss):
    kind: Literal["mean"] = "mean"
    def terms(self, batch):
        return -batch.student.mean(-1), batch.own.any(-1)
"""
RECIPE = """\
name: own
data: {data}
runs: {folder}/runs
store: {folder}/scores
mine: {{sources: [bm25], depth: 8, sampler: {{kind: "own_sampler:Worst", n: 4}}}}
score: {{teachers: [bm25]}}
train:
  student: {{kind: dense, model: {model}, layers: 2}}
  losses: ["own_loss:Mean"]
  max_steps: 2
  batch_size: 4
  documents: 4
  precision: fp32
evaluate: {{metrics: [nDCG@10], baselines: [], before: false, teacher: false}}
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def written(module, text):
        (tmp_path / f"{module}.py").write_text(text)

    written("own_sampler", PARTS)
    written("own_loss", LOSS)
    for module in ("own_sampler", "own_loss"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return written


def test_what_an_edited_part_made_is_made_again_and_nothing_before_it(
    tiny_model, collection_folder, tmp_path, written, capsys
):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(data=collection_folder, folder=tmp_path, model=tiny_model))

    def skipped():
        capsys.readouterr()
        run(recipe.load(path))
        told = capsys.readouterr().err
        return {stop for stop in ("mine", "train") if f"{stop:<9} unchanged" in told}

    assert skipped() == set()
    assert skipped() == {"mine", "train"}
    written("own_loss", LOSS + "# better\n")
    assert skipped() == {"mine"}
    written("own_sampler", PARTS + "# better\n")
    assert skipped() == {"train"}  # the candidates came out the same
    assert skipped() == {"mine", "train"}
