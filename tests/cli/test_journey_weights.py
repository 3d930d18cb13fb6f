"""Candidates weighed for missing labels, from a recipe and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from commands import call, done

from retrodistill.candidates import Candidates


@pytest.fixture
def tree(tmp_path: Path, tiny_model: Path, collection_folder: Path):
    return {
        "name": "weighed",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": str(collection_folder),
        "mine": {"sources": ["bm25", "random"], "depth": 8},
        "train": {
            "student": {"kind": "dense", "model": str(tiny_model), "layers": 2},
            "losses": ["infonce"],
            "max_steps": 2,
            "batch_size": 4,
            "documents": 4,
            "precision": "fp32",
        },
        "evaluate": {"metrics": ["nDCG@10"], "baselines": []},
    }


def written(tmp_path, tree):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_recipe_that_weighs(tmp_path, tree, tiny_model):
    recipe, folder = written(tmp_path, tree), tmp_path / "runs" / "weighed"
    done("run", recipe)
    plain = Candidates.read(folder / "mine" / "candidates.parquet")
    assert (
        plain.weights is None and "weigh" not in json.loads((folder / "mine" / "manifest.json").read_text())["inputs"]
    )
    weights = (folder / "train" / "model.safetensors").read_bytes()
    asked = f"mine.weigh={{kind: cet, teachers: [bm25, 'dense:{tiny_model}'], first: 0.5}}"
    done("run", recipe, asked)
    weighed = Candidates.read(folder / "mine" / "candidates.parquet")
    assert weighed.doc_ids == plain.doc_ids and weighed.weights.min() < 0.9
    assert (folder / "train" / "model.safetensors").read_bytes() != weights
    again = done("run", recipe, asked)
    assert "mine      unchanged, skipped" in again.stderr and "train     unchanged, skipped" in again.stderr


def test_a_recipe_whose_teachers_are_weighed_by_their_disagreement(tmp_path, tree, tiny_model):
    tree["score"] = {"teachers": ["bm25", f"dense:{tiny_model}"], "combine": {"kind": "mean"}}
    tree["train"]["losses"] = ["kl"]
    folder, weigh = tmp_path / "runs" / "weighed", "score.combine.weigh=disagreement"
    done("run", written(tmp_path, tree))
    weights = (folder / "train" / "model.safetensors").read_bytes()
    assert "certainty" not in json.loads((folder / "train" / "manifest.json").read_text())["inputs"]
    told = done("run", written(tmp_path, tree), weigh).stderr
    assert "train     unchanged" not in told and "evaluate  teacher unchanged" in told
    assert json.loads((folder / "train" / "manifest.json").read_text())["inputs"]["certainty"]
    assert (folder / "train" / "model.safetensors").read_bytes() != weights
    assert "train     unchanged, skipped" in done("run", written(tmp_path, tree), weigh).stderr
    # the same by hand
    at = ["--data", tree["data"], "--store", tree["store"]]
    done(
        "train", *at, "--candidates", folder / "mine" / "candidates.parquet", "--student", json.dumps(tree["train"]["student"]),
        "--loss", "kl", "--teacher", "bm25", "--teacher", f"dense:{tiny_model}", "--combine", "{kind: mean, weigh: disagreement}",
        "--out", tmp_path / "m", "max_steps=2", "batch_size=4", "documents=4", "precision=fp32",
    )  # fmt: skip
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (folder / "train" / "model.safetensors").read_bytes()
    for change, said in [
        (
            "score.teachers=[bm25]",
            "score.combine: weigh: disagreement, and one teacher does not disagree; leave it out",
        ),
        ("score.combine.weigh=error", "score.combine: weigh: error, which only teachers have that compare"),
        (
            "train.losses=[listmle]",
            "score.combine: listmle does not heed weigh; train with a loss that does, such as kl",
        ),
    ]:
        told = call("validate", written(tmp_path, tree), weigh, change)
        assert told.exit_code == 2 and said in told.stderr


def test_what_cannot_be_weighed_is_told_before_anything_runs(tmp_path, tree):
    tree["mine"]["weigh"] = "cet:bm25"
    assert "no mistake found" in done("validate", written(tmp_path, tree)).stderr
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(done("validate", written(tmp_path, tree)).stdout)
    assert yaml.safe_load(resolved.read_text())["mine"]["weigh"]["teachers"][0]["kind"] == "bm25"
    done("validate", resolved)
    for change, said in [
        ("train.losses=[kl]", "mine.weigh: kl does not look at weights; train with a loss that does, such as infonce"),
        ("mine.sampler=top:3", "top:3 would leave a part of it"),
        ("mine.labels=false", "mine with labels"),
        ("mine.weigh=cet:dense:no/such-model", "mine.weigh.teachers.0"),
        ("mine.weigh=cte", "did you mean 'cet'?"),
    ]:
        refused = call("validate", written(tmp_path, tree), change)
        assert refused.exit_code == 2 and said in refused.stderr, (change, refused.stderr)


def test_by_hand(tmp_path, collection_folder, tiny_model):
    data, found = ("--data", collection_folder), tmp_path / "candidates.parquet"
    store = ("--store", tmp_path / "scores")
    mined = done("mine", *data, "--split", "train", "--source", "bm25", "--weigh", "cet:bm25", *store, "--out", found)
    assert "cet:bm25: bm25:" in mined.stderr
    assert Candidates.read(found).weights is not None
    assert json.loads((tmp_path / "candidates.parquet.json").read_text())["options"]["weigh"]["kind"] == "cet"
    done("score", found, *data, "--teacher", "bm25", *store)
    student = ("--student", f"dense:{tiny_model}", "--loss", "infonce", "--loss", "kl", "--out", tmp_path / "model")
    trained = done("train", *data, "--candidates", found, *store, "--teacher", "bm25", *student, "max_steps=1")
    assert "note: the candidates have weights, which kl does not look at" in trained.stderr
    assert "first" in done("ls", "weigher", "cet").stdout
