"""A student learns from teachers that compare and that order documents, through the whole road."""

import json

import pytest
import yaml
from commands import call, done
from toy_models import Longer, Spelling

from retrodistill.scores.store import ScoreStore


@pytest.fixture
def tree(tmp_path, tiny_model, collection_folder):
    return {
        "name": "forms",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": {"path": str(collection_folder)},
        "mine": {"sources": ["bm25"], "depth": 5},
        "score": {"teachers": [{"kind": "toy_models:ByLength", "pairs": 6}]},
        "train": {
            "student": {"kind": "dense", "model": str(tiny_model), "layers": 1, "dropout": 0},
            "losses": [{"kind": "preference", "student_temperature": 0.1}],
            "batch_size": 4,
            "documents": 4,
            "learning_rate": 0.001,
            "precision": "fp32",
        },
        "evaluate": {"metrics": ["nDCG@10"], "baselines": ["bm25"], "before": False},
    }


def written(tmp_path, tree):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_preferences_and_orders_are_judged_once_and_learnt_from(tmp_path, tree):
    Longer.asked.clear()
    Spelling.asked.clear()
    tree["score"]["teachers"].append({"kind": "toy_models:Alphabet", "window": 4, "stride": 2})
    tree["train"]["losses"].append({"kind": "kl", "student_temperature": 0.1})
    recipe = written(tmp_path, tree)
    done("run", recipe)
    manifest = json.loads((tmp_path / "runs/forms/train/manifest.json").read_text())
    assert "preferences" in manifest["inputs"]
    assert manifest["judged"] == manifest["pairs"]
    assert all(line["preference_without_entries"] == 0 for line in manifest["log"])
    compared, ordered = len(Longer.asked), len(Spelling.asked)
    assert compared and ordered
    tree["train"]["losses"][0]["weight"] = 0.5  # another training, the same judgements
    tree["name"] = "again"
    done("run", written(tmp_path, tree))
    # the teacher's own evaluation asked about the test queries, once
    assert (len(Longer.asked), len(Spelling.asked)) == (compared, ordered)
    assert ScoreStore(tmp_path / "scores").verify() == []


def test_what_was_compared_little_is_learnt_less_from(tmp_path, tree):
    tree["score"] = {"teachers": [{"kind": "toy_models:ByLength", "pairs": 4}]}
    tree["train"]["losses"], weights = ["kl"], []
    tree["evaluate"] |= {"baselines": [], "teacher": False}
    for weigh in ("null", "error"):
        done("run", written(tmp_path, tree), f"score.combine={{kind: mean, normalise: none, weigh: {weigh}}}")
        folder = tmp_path / "runs/forms/train"
        weights.append((folder / "model.safetensors").read_bytes())
        inputs = json.loads((folder / "manifest.json").read_text())["inputs"]
        assert ("certainty" in inputs) == (weigh == "error")
    assert weights[0] != weights[1]


def test_the_stops_one_by_one(tmp_path, tree, collection_folder, tiny_model):
    at = ["--data", collection_folder]
    done("mine", *at, "--source", "bm25", "--depth", 4, "--out", tmp_path / "c.parquet")
    teacher = ["--teacher", "{kind: 'toy_models:ByLength', pairs: 3}", "--store", tmp_path / "s"]
    told = done("score", tmp_path / "c.parquet", *at, *teacher)
    assert "comparisons judged" in told.output
    assert "are in the store" in done("score", tmp_path / "c.parquet", *at, *teacher).output
    student = ["--student", f"{{kind: dense, model: '{tiny_model}', layers: 1}}", "--out", tmp_path / "m"]
    train = ["train", *at, "--candidates", tmp_path / "c.parquet", *teacher, *student, "--loss", "preference"]
    assert "steps" in done(*train, "batch_size=4").output


def test_what_failed_is_said_with_how_many(tmp_path, tree, collection_folder):
    at = ["--data", collection_folder]
    done("mine", *at, "--source", "bm25", "--depth", 4, "--out", tmp_path / "c.parquet")
    from retrodistill.candidates import Candidates

    doc = Candidates.read(tmp_path / "c.parquet").doc_ids[0]
    spec = f"{{kind: 'toy_models:ByLength', fails_at: {doc}}}"
    told = call("score", tmp_path / "c.parquet", *at, "--teacher", spec, "--store", tmp_path / "s")
    assert "FAILED and are asked again next time" in told.output
