"""A round that is taught what the one before does not know yet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import call, done

from retrodistill.candidates import Candidates


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, collection_folder: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    student = {"kind": "dense", "model": str(tiny_model), "layers": 2}
    tree = {
        "name": "doubts",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": str(collection_folder),
        "mine": {"sources": ["bm25"], "depth": 8, "labels": False},
        "score": {"teachers": ["bm25"]},
        "train": {"student": student, "losses": ["kl"], "max_steps": 2, "batch_size": 4, "documents": 4},
        "rounds": [
            {"name": "first"},
            {
                "name": "second",
                "score": {"teachers": ["bm25"], "combine": {"kind": "informative", "student": "dense:@first"}},
            },
        ],
        "evaluate": {"metrics": ["nDCG@10"], "baselines": ["bm25"]},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def test_the_student_of_a_round_decides_what_the_next_is_taught(recipe, tmp_path):
    assert "no mistake found" in done("validate", recipe).stderr
    planned = done("plan", recipe, "--probe", "0").stdout
    folder = tmp_path / "runs" / "doubts"
    assert f"dense:{folder / 'first' / 'train'}" in planned
    first = done("run", recipe)
    candidates = Candidates.read(folder / "second" / "mine" / "candidates.parquet")
    manifest = json.loads((folder / "second" / "train" / "manifest.json").read_text())
    assert manifest["judged"] < manifest["pairs"] == len(candidates)
    assert json.loads((folder / "first" / "train" / "manifest.json").read_text())["judged"] == len(candidates)
    # what is measured is whole: BM25, re-ranked by itself
    results = {
        name: json.loads((folder / "evaluate" / name / "results.json").read_text()) for name in ("teacher", "bm25")
    }
    assert results["teacher"]["counts"]["queries_without_results"] == 0
    assert results["teacher"]["metrics"] == pytest.approx(results["bm25"]["metrics"])
    again = done("run", recipe)
    assert again.stdout == first.stdout and "train second unchanged, skipped" in again.stderr


def test_by_hand(tmp_path, collection_folder, tiny_model):
    data, found, store = ("--data", collection_folder), tmp_path / "c.parquet", ("--store", tmp_path / "scores")
    done("mine", *data, "--split", "train", "--source", "bm25", "--depth", "8", "--out", found)
    done("score", found, *data, "--teacher", "bm25", *store)
    words = ("train", *data, "--candidates", found, *store, "--teacher", "bm25", "--loss", "kl")
    words += ("--student", f"dense:{tiny_model}", "--out", tmp_path / "model")
    words += ("--combine", f"informative:dense:{tiny_model}", "max_steps=1")
    refused = call(*words)
    assert refused.exit_code == 2 and "which has judged none of the" in refused.stderr
    done("score", found, *data, "--teacher", f"dense:{tiny_model}", *store)
    done(*words)
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert 0 < manifest["judged"] < np.sum(manifest["pairs"])
