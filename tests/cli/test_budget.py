"""A budget through the command line and a recipe."""

from __future__ import annotations

import json

import pytest
import yaml
from commands import call, done

from retrodistill.scores.store import ScoreStore


def test_score_within_a_budget(tmp_path, collection_folder, tiny_model):
    out, store = tmp_path / "candidates.parquet", tmp_path / "scores"
    done("mine", "--data", collection_folder, "--split", "train", "--source", "bm25", "--depth", 6, "--out", out)
    words = ["score", out, "--data", collection_folder, "--teacher", f"dense:{tiny_model}", "--store", store]
    told = done(*words, "--budget", 20, "--hint", "bm25").output
    assert "20 pairs by coverage" in told and "20 of " in told and "nDCG@10" in told
    assert "25 pairs by disagreement" in done(*words, "--budget", 25, "--spend", "disagreement").output
    rows = {found["identity"]["kind"]: found["rows"] for found in ScoreStore(store).teachers()}
    assert rows["dense"] == 25 < rows["bm25"]
    refused = call(*words, "--budget", 20, "--spend", "coverge")
    assert refused.exit_code == 2 and "did you mean 'coverage'?" in refused.stderr
    for nothing_to_spend in ("--spend", "coverage"), ("--hint", "bm25"):
        refused = call(*words, *nothing_to_spend)
        assert refused.exit_code == 2 and "no budget" in refused.stderr


@pytest.mark.parametrize(
    ("teacher", "unit"),
    [("toy_models:ByLength", "comparisons"), ("{kind: 'toy_models:Alphabet', window: 3, stride: 2}", "windows")],
)
def test_score_within_a_budget_of_comparisons_and_windows(tmp_path, collection_folder, teacher, unit):
    out, store = tmp_path / "candidates.parquet", tmp_path / "scores"
    done("mine", "--data", collection_folder, "--split", "train", "--source", "bm25", "--depth", 6, "--out", out)
    words = ["score", out, "--data", collection_folder, "--teacher", teacher, "--store", store, "--hint", "bm25"]
    told = done(*words, "--budget", 20).output
    assert f"20 {unit} by uncertainty" in told and f"20 {unit}, " in told and f"a thousand {unit})" in told
    (found,) = (each for each in ScoreStore(store).teachers() if each["identity"]["kind"] != "bm25")
    assert found["rows"] + found["orders"] == 20


def test_a_recipe_within_a_budget(tmp_path, collection_folder, tiny_model):
    tree = {
        "name": "budget",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": {"path": str(collection_folder)},
        "mine": {"sources": ["bm25"], "depth": 6},
        "score": {"teachers": ["bm25", f"dense:{tiny_model}"], "budget": 30, "hints": ["bm25"]},
        "train": {
            "student": {"kind": "dense", "model": str(tiny_model), "layers": 1, "dropout": 0},
            "losses": ["kl"],
            "max_steps": 2,
            "batch_size": 4,
            "precision": "fp32",
        },
        "evaluate": {"metrics": ["nDCG@10"], "before": False},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    told = done("run", recipe).stderr
    assert "30 pairs by coverage" in told
    rows = {found["identity"]["kind"]: found["rows"] for found in ScoreStore(tmp_path / "scores").teachers()}
    assert rows["dense"] == 30 < rows["bm25"]  # its evaluation is not paid for in silence
    assert "the teacher is left out: dense:" in told and "evaluate.teacher_budget allows 0" in told
    assert not (tmp_path / "runs/budget/evaluate/teacher").exists()
    manifest = json.loads((tmp_path / "runs/budget/score/manifest.json").read_text())
    assert manifest["budget"] == 30
    hint, bought = manifest["teachers"]
    assert hint["bought_by"] is None and bought["bought_by"]["kind"] == "coverage"
    assert "30 of" in done("run", recipe, "train.learning_rate=1e-4").stderr  # what was bought counts as spent
    again = {found["identity"]["kind"]: found["rows"] for found in ScoreStore(tmp_path / "scores").teachers()}
    assert again == rows
    done("run", recipe, "train.learning_rate=1e-4", "evaluate.teacher_budget=100000")
    assert (tmp_path / "runs/budget/evaluate/teacher").exists()
