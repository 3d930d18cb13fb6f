"""What a user types, typed: every verb through the real command line, on files of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from commands import call, done

from retrodistill.files import alone_in


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, tiny_cross_encoder: Path, collection_folder: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    tree = {
        "name": "journey",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": str(collection_folder),
        "mine": {
            "sources": ["bm25", f"dense:{tiny_model}"],
            "depth": 8,
            "sampler": "uniform:5",
            "filters": ["duplicates"],
        },
        "score": {"teachers": ["bm25", f"cross_encoder:{tiny_cross_encoder}"]},
        "train": {
            "student": {"kind": "dense", "model": str(tiny_model), "layers": 2},
            "losses": [{"kind": "kl", "student_temperature": 0.1}, "infonce", {"kind": "margin_mse", "weight": 0.1}],
            "epochs": 2,
            "batch_size": 4,
            "documents": 4,
            "learning_rate": 0.001,
            "precision": "fp32",
        },
        "evaluate": {"metrics": ["nDCG@10", "R@5"], "baselines": ["bm25", "random"]},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def test_the_whole_road_and_again_and_with_one_stop_changed(recipe, tmp_path):
    first = done("run", recipe)
    assert "student before" in first.stdout and "teacher" in first.stdout and "student after" in first.stdout
    folder = tmp_path / "runs" / "journey"
    student = json.loads((folder / "evaluate" / "student" / "results.json").read_text())
    assert set(student["metrics"]) == {"nDCG@10", "R@5"}
    assert student["counts"]["queries"] == 6
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    manifest = json.loads((folder / "train" / "manifest.json").read_text())
    assert {"kl", "infonce", "margin_mse", "loss"} <= set(manifest["log"][0])
    assert manifest["versions"]["retrodistill"] and manifest["recipe"] == "journey"
    written = {path: path.read_bytes() for path in folder.rglob("*.parquet")}

    again = done("run", recipe)
    for stop in ("mine", "train", "index", "search"):
        assert f"{stop:<9} unchanged, skipped" in again.stderr
    assert "judgements are in the store" in again.stderr
    assert again.stdout == first.stdout
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == written

    changed = done("run", recipe, "train.epochs=3")
    assert "mine      unchanged, skipped" in changed.stderr
    assert "train     unchanged" not in changed.stderr and "index     unchanged" not in changed.stderr
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["train"]["epochs"] == 3


def test_a_folder_that_another_run_works_in_is_left_alone(recipe, tmp_path):
    with alone_in(tmp_path / "runs" / "journey"):
        refused = call("run", recipe, "train.learning_rate=0.1")
    assert refused.exit_code == 2 and "another run, process" in refused.stderr
    assert [path.name for path in (tmp_path / "runs" / "journey").iterdir()] == [".lock"]


def test_a_resolved_recipe_is_a_recipe(recipe, tmp_path):
    resolved = done("validate", recipe, "seed=7").stdout
    copy = tmp_path / "resolved.yaml"
    copy.write_text(resolved)
    assert done("validate", copy).stdout == resolved
    assert "seed: 7" in resolved


def test_each_stop_alone(tmp_path, tiny_model, tiny_cross_encoder, collection_folder):
    data = ("--data", collection_folder)
    candidates, store, model = tmp_path / "candidates.parquet", tmp_path / "scores", tmp_path / "model"
    mined = done(
        "mine", *data, "--split", "train", "--source", "bm25", "--source", f"dense:{tiny_model}", "--depth", 6, "--out", candidates
    )  # fmt: skip
    assert "found by bm25" in mined.stdout and "kept" in mined.stdout
    teacher = f"cross_encoder:{tiny_cross_encoder}"
    score = ("score", candidates, *data, "--teacher", teacher, "--teacher", "bm25", "--store", store)
    assert "pairs judged" in done(*score).stdout
    again = done(*score).stdout
    assert "pairs judged" not in again and again.count("judgements are in the store") == 2
    done(
        "train", *data, "--candidates", candidates, "--store", store, "--teacher", teacher, "--teacher", "bm25",
        "--student", f"dense:{tiny_model}", "--loss", "kl", "--loss", "{kind: margin_mse, weight: 0.1}",
        "--out", model, "epochs=1", "batch_size=4", "documents=4",
    )  # fmt: skip
    index, run = tmp_path / "index", tmp_path / "run.trec"
    assert "24 documents" in done("index", model, *data, "--out", index).stdout
    done("search", index, *data, "--split", "test", "--depth", 10, "--out", run)
    assert len(run.read_text().splitlines()) == 60
    searched = done("evaluate", f"run:{run}", *data, "--out", tmp_path / "a")
    direct = done("evaluate", model, *data, "--out", tmp_path / "b")
    indexed = done("evaluate", f"index:{index}", *data, "--out", tmp_path / "c")
    metrics = [json.loads((tmp_path / name / "results.json").read_text())["metrics"] for name in "abc"]
    assert metrics[1] == metrics[2]
    assert metrics[0]["nDCG@10"] == pytest.approx(metrics[1]["nDCG@10"], abs=1e-9)
    assert all("nDCG@10" in result.stdout for result in (searched, direct, indexed))


def test_evaluate_and_report(tmp_path, collection_folder):
    data = ("--data", collection_folder)
    done("evaluate", "bm25", *data, "--out", tmp_path / "bm25", "k1=0.9", "b=0.4")
    results = json.loads((tmp_path / "bm25" / "results.json").read_text())
    assert list(results["metrics"]) == ["nDCG@10", "AP@100", "R@100", "RR@10"]
    assert {"collection", "split", "counts", "protocol", "versions"} <= set(results)
    assert results["details"]["options"]["k1"] == 0.9
    table = pq.read_table(tmp_path / "bm25" / "per_query.parquet")
    assert table.num_rows == results["counts"]["queries"] == 6
    qrels = collection_folder / "qrels" / "train.tsv"
    done("evaluate", "random", *data, "--out", tmp_path / "random", "seed=3")
    done(
        "evaluate",
        "bm25",
        *data,
        "--qrels",
        qrels,
        "--metric",
        "MRR@10",
        "--metric",
        "P@1",
        "--out",
        tmp_path / "train",
    )
    assert set(json.loads((tmp_path / "train" / "results.json").read_text())["metrics"]) == {"RR@10", "P@1"}
    done("report", tmp_path / "bm25", tmp_path / "random", "--out", tmp_path / "report.md")
    written = (tmp_path / "report.md").read_text()
    assert "bm25" in written and "random" in written and "Difference" in written
    assert done("report", tmp_path / "bm25", tmp_path / "random").stdout.strip() == written.strip()
    refused = call("report", tmp_path / "bm25", tmp_path / "train")
    assert refused.exit_code == 2 and "error:" in refused.stderr


def test_the_same_from_python(recipe, monkeypatch, tmp_path):
    import retrodistill as rd

    results = rd.run(recipe, "train.max_steps=1")
    assert 0 <= results["student"].metrics["nDCG@10"] <= 1
    assert set(results) == {"before", "student", "teacher", "bm25", "random"}


@pytest.mark.parametrize(
    "verb", ["run", "mine", "score", "train", "index", "search", "evaluate", "report", "validate", "ls"]
)
def test_every_verb_explains_itself_with_an_example(verb):
    shown = done(verb, "--help").stdout
    assert "Example" in shown and f"retrodistill {verb}" in shown
    assert verb in done("--help").stdout


def test_ls(recipe):
    everything = done("ls").stdout
    assert all(word in everything for word in ("kl", "infonce", "bm25", "flat", "scifact", "builtin/pydocs"))
    assert "student_temperature" in done("ls", "loss", "kl").stdout
    assert "infonce" in done("ls", "losses").stdout
    assert "did you mean 'kl'" in call("ls", "loss", "klx").stderr
    assert call("ls", "nothing").exit_code == 2
