"""A budget through the command line and a recipe."""

from __future__ import annotations

import json

import yaml
from commands import call, done

from retrodistill.scores.store import ScoreStore


def test_score_within_a_budget(tmp_path, collection_folder, tiny_model):
    out, store = tmp_path / "candidates.parquet", tmp_path / "scores"
    done("mine", "--data", collection_folder, "--split", "train", "--source", "bm25", "--depth", 6, "--out", out)
    words = ["score", out, "--data", collection_folder, "--teacher", f"dense:{tiny_model}", "--store", store]
    told = done(*words, "--budget", 20, "--spend", "coverage", "--hint", "bm25").output
    assert "20 judgements by coverage" in told and "20 of " in told and "nDCG@10" in told
    rows = {found["identity"]["kind"]: found["rows"] for found in ScoreStore(store).teachers()}
    assert rows["dense"] == 20 < rows["bm25"]
    refused = call(*words, "--budget", 20, "--spend", "coverge")
    assert refused.exit_code == 2 and "did you mean 'coverage'?" in refused.stderr


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
        "evaluate": {"metrics": ["nDCG@10"], "before": False, "teacher": False},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    told = done("run", recipe).stderr
    assert "30 judgements by uncertainty" in told
    rows = {found["identity"]["kind"]: found["rows"] for found in ScoreStore(tmp_path / "scores").teachers()}
    assert rows["dense"] == 30 < rows["bm25"]
    manifest = json.loads((tmp_path / "runs/budget/score/manifest.json").read_text())
    assert manifest["budget"] == 30 and manifest["spend"]["kind"] == "uncertainty"
    assert "30 of" in done("run", recipe, "train.learning_rate=1e-4").stderr  # what was bought counts as spent
    again = {found["identity"]["kind"]: found["rows"] for found in ScoreStore(tmp_path / "scores").teachers()}
    assert again == rows
