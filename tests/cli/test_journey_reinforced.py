"""Teachers chosen by what labels say of their rankings, from a recipe and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from commands import call, done


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, collection_folder: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    tree = {
        "name": "chosen",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": str(collection_folder),
        "mine": {"sources": ["bm25", "random"], "depth": 8},
        "score": {"teachers": ["bm25", f"dense:{tiny_model}"], "combine": {"kind": "reinforced", "folds": 3}},
        "train": {
            "student": {"kind": "dense", "model": str(tiny_model), "layers": 2},
            "losses": ["kl"],
            "max_steps": 2,
            "batch_size": 4,
            "documents": 4,
            "precision": "fp32",
        },
        "evaluate": {"metrics": ["nDCG@10"], "baselines": []},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_recipe_chooses_teachers_query_by_query(recipe, tmp_path):
    first = done("run", recipe)
    folder = tmp_path / "runs" / "chosen"
    weights = (folder / "train" / "model.safetensors").read_bytes()
    again = done("run", recipe)
    assert again.stdout == first.stdout and "train     unchanged, skipped" in again.stderr
    assert "evaluate  teacher unchanged" in again.stderr
    averaged = done("run", recipe, "score.combine=mean")
    assert "train     unchanged" not in averaged.stderr and "evaluate  teacher unchanged" not in averaged.stderr
    assert (folder / "train" / "model.safetensors").read_bytes() != weights
    teacher = json.loads((folder / "evaluate" / "teacher" / "results.json").read_text())
    assert teacher["counts"]["queries"] == 6


def test_where_labels_are_not_looked_at_it_is_refused(recipe, tmp_path, collection_folder, tiny_model):
    refused = call("validate", recipe, "mine.labels=false")
    assert refused.exit_code == 2
    assert (
        "score.combine: reinforced learns from the labels of train queries, and mine.labels is false" in refused.stderr
    )
    data, found = ("--data", collection_folder), tmp_path / "candidates.parquet"
    done("mine", *data, "--split", "train", "--source", "bm25", "--no-labels", "--out", found)
    done("score", found, *data, "--teacher", "bm25", "--store", tmp_path / "scores")
    words = ("--candidates", found, "--store", tmp_path / "scores", "--teacher", "bm25", "--combine", "reinforced")
    student = ("--student", f"dense:{tiny_model}", "--loss", "kl", "--out", tmp_path / "model")
    refused = call("train", *data, *words, *student)
    assert refused.exit_code == 2
    assert "combine: reinforced learns from labels, and 0 of 12 queries have a relevant document" in refused.stderr
    assert not (tmp_path / "model").exists()


def test_by_hand(tmp_path, collection_folder, tiny_model):
    data, found = ("--data", collection_folder), tmp_path / "candidates.parquet"
    teachers = ("--teacher", "bm25", "--teacher", f"dense:{tiny_model}")
    done("mine", *data, "--split", "train", "--source", "bm25", "--out", found)
    done("score", found, *data, *teachers, "--store", tmp_path / "scores")
    out = tmp_path / "lists.jsonl"
    written = {}
    for rule in ("reinforced", "mean"):
        done("export", "flagembedding", found, *data, *teachers, "--combine", rule, "--store", tmp_path / "scores", "--out", out)  # fmt: skip
        written[rule] = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(written["reinforced"]) == len(written["mean"]) == 12
    assert written["reinforced"] != written["mean"]
