"""A cross-encoder student, typed: a recipe that re-ranks, and the stops alone."""

import json

import pytest
import yaml
from test_journeys import call, done


@pytest.fixture
def recipe(tmp_path, tiny_model, collection_folder):
    path = tmp_path / "recipe.yaml"
    tree = {
        "name": "pairs",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": str(collection_folder),
        "mine": {"sources": ["bm25", f"dense:{tiny_model}"], "depth": 6},
        "score": {"teachers": [f"dense:{tiny_model}"]},
        "train": {
            "student": {"kind": "cross_encoder", "model": str(tiny_model), "layers": 2},
            "losses": ["kl", {"kind": "infonce", "in_batch_negatives": False}],
            "batch_size": 4,
            "documents": 4,
            "learning_rate": 0.001,
            "precision": "fp32",
        },
        "index": None,
        "evaluate": {"metrics": ["nDCG@10"], "baselines": ["bm25"]},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def test_the_road_of_a_student_that_re_ranks(recipe, tmp_path, tiny_model):
    first = done("run", recipe)
    assert all(system in first.stdout for system in ("student before", "student after", "teacher", "bm25"))
    folder = tmp_path / "runs" / "pairs"
    assert not (folder / "index").exists()
    assert not (folder / "search").exists()
    results = json.loads((folder / "evaluate/student/results.json").read_text())
    assert results["details"]["system"] == "re-ranking"
    assert results["details"]["sources"] == ["bm25", f"dense:{tiny_model}"]
    assert results["details"]["depth"] == 6
    card = (folder / "train/README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["pipeline_tag"] == "text-ranking"
    assert f"{results['metrics']['nDCG@10']:.4f}" in card
    assert f"- dense:{tiny_model}" in card  # the teacher

    again = done("run", recipe)
    assert again.stdout == first.stdout
    for stop in ("train", "evaluate  before", "evaluate  student"):
        assert f"{stop:<9} unchanged, skipped" in again.stderr
    assert (folder / "train/README.md").read_text() == card


def test_a_re_ranker_by_hand(recipe, tmp_path, collection_folder):
    done("run", recipe, "train.max_steps=1")
    model, data = tmp_path / "runs/pairs/train", ("--data", collection_folder)
    results = []
    for place, depth in enumerate((6, 1)):
        out = tmp_path / str(place)
        system = f"{{kind: rerank, sources: [bm25], teacher: 'cross_encoder:{model}', depth: {depth}}}"
        assert "cross_encoder" in done("evaluate", system, *data, "--out", out, "--metric", "R@10").stdout
        results.append(json.loads((out / "results.json").read_text()))
    assert results[0]["metrics"]["R@10"] > results[1]["metrics"]["R@10"]
    refused = call("index", model, *data, "--out", tmp_path / "index")
    assert refused.exit_code == 2
    assert "is a CrossEncoder, expected a SentenceTransformer" in refused.stderr


def test_what_does_not_fit_is_refused_whole(recipe):
    refused = call("run", recipe, "index=flat", "train.losses=[infonce]")
    assert refused.exit_code == 2
    assert "2 mistakes; nothing was run" in refused.stderr
    assert "emits pairs; leave it out" in refused.stderr
    assert "set in_batch_negatives: false" in refused.stderr
