"""Recipes with several students, with rounds, with queries held out, and in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import call, done
from safetensors.torch import load_file

from retrodistill.candidates import Candidates
from retrodistill.collections import open_collection


@pytest.fixture
def tree(tmp_path: Path, tiny_model: Path, collection_folder: Path):
    return {
        "name": "walk",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": {"path": str(collection_folder)},
        "mine": {"sources": ["bm25"], "depth": 8},
        "score": {"teachers": ["bm25"]},
        "train": {
            "student": {"kind": "dense", "model": str(tiny_model), "layers": 2, "dropout": 0},
            "losses": [{"kind": "kl", "student_temperature": 0.1}],
            "batch_size": 4,
            "documents": 4,
            "learning_rate": 0.001,
            "precision": "fp32",
        },
        "evaluate": {"metrics": ["nDCG@10"], "baselines": ["bm25"]},
    }


def written(tmp_path, tree):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_several_students_learn_from_one_set_of_scores(tmp_path, tree, tiny_model):
    deep = {**tree["train"], "name": "deep", "student": f"dense:{tiny_model}"}
    recipe = written(tmp_path, {**tree, "train": [{**tree["train"], "name": "cut"}, deep]})
    first = done("run", recipe)
    for name in ("cut before", "deep before", "cut after", "deep after", "teacher", "bm25"):
        assert name in first.stdout
    folder = tmp_path / "runs" / "walk"
    layers = [
        json.loads((folder / "train" / name / "config.json").read_text())["num_hidden_layers"]
        for name in ("cut", "deep")
    ]
    assert layers == [2, 4]
    assert sorted(path.name for path in (folder / "evaluate").iterdir()) == [
        "before-cut", "before-deep", "bm25", "cut", "deep", "teacher",
    ]  # fmt: skip
    again = done("run", recipe, "train.1.epochs=2")
    assert "train cut unchanged" in again.stderr and "train deep unchanged" not in again.stderr
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text((folder / "recipe.yaml").read_text())
    assert "train deep unchanged" in done("run", resolved).stderr


def test_the_student_of_a_round_mines_for_the_next_and_teaches_it(tmp_path, tree):
    rounds = [
        {"name": "first"},
        {
            "name": "second",
            "mine": {"sources": ["bm25", "dense:@first"], "depth": 8},
            "score": {"teachers": ["bm25", "dense:@first"]},
            "train": {**tree["train"], "student": {"kind": "dense", "model": "@first"}},
        },
    ]
    recipe = written(tmp_path, {**tree, "rounds": rounds})
    assert "no mistake found" in done("validate", recipe).stderr
    first = done("run", recipe)
    folder = tmp_path / "runs" / "walk"
    student = folder / "first" / "train"
    assert f"found by dense:{student}" in first.stderr
    manifest = json.loads((folder / "second" / "train" / "manifest.json").read_text())
    assert manifest["teachers"] == ["bm25", f"dense:{student}"]
    assert manifest["student"]["model"] == str(student)
    assert sorted(path.name for path in (folder / "evaluate").iterdir()) == [
        "before", "bm25", "first", "student", "teacher",
    ]  # fmt: skip
    again = done("run", recipe)
    assert again.stdout == first.stdout
    for stop in ("mine", "train", "index"):
        for name in ("first", "second"):
            assert f"{stop} {name} unchanged" in again.stderr


def test_a_round_is_asked_for_a_student_that_it_has(tmp_path, tree, tiny_model):
    both = [{**tree["train"], "name": "a"}, {**tree["train"], "name": "b"}]
    sources = ["splade:@first/a", "dense:@first", "dense:@first/c", "dense:@first/b"]
    rounds = [{"name": "first", "train": both}, {"name": "second", "mine": {"sources": sources}}]
    refused = call("validate", written(tmp_path, {**tree, "rounds": rounds}))
    assert refused.exit_code == 2
    assert "sources[0]: '@first/a' is a dense student; write dense:@first/a" in refused.stderr
    for number, name in ((1, "@first"), (2, "@first/c")):
        assert f"sources[{number}]: '{name}' names no student; choose from @first/a, @first/b" in refused.stderr
    assert "sources[3]" not in refused.stderr


def test_a_student_takes_no_other_systems_name(tmp_path, tree):
    refused = call("validate", written(tmp_path, {**tree, "train": [{**tree["train"], "name": "teacher"}]}))
    assert refused.exit_code == 2
    assert "train: the report calls another system 'teacher'; choose another name" in refused.stderr


def test_a_round_is_named_in_rounds_alone(tmp_path, tree):
    refused = call("validate", written(tmp_path, {**tree, "mine": {"sources": ["dense:@first"]}}))
    assert "mine.sources[0]: '@first' names no round before this one; a round names those before it" in refused.stderr


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("dense:@second", "'@second' names no round before this one; did you mean 'first'?"),
        ("dense:@frist", "'@frist' names no round before this one; did you mean 'first'?"),
    ],
)
def test_a_round_learns_from_rounds_before_it_alone(tmp_path, tree, model, said):
    rounds = [{"name": "first"}, {"name": "second", "mine": {"sources": [model]}}]
    refused = call("validate", written(tmp_path, {**tree, "rounds": rounds}))
    assert refused.exit_code == 2
    assert said.partition(";")[0] in refused.stderr and "rounds[1].mine.sources[0]" in refused.stderr


def test_names_stand_once(tmp_path, tree):
    refused = call("validate", written(tmp_path, {**tree, "train": [tree["train"]] * 2}))
    assert refused.exit_code == 2
    assert "train: 'dense' stands twice; give each a `name:` of its own" in refused.stderr


def test_queries_held_out_choose_the_weights(tmp_path, tree):
    tree["data"]["hold_out"] = 0.3
    tree["train"] |= {"epochs": 3, "evaluate_every": 1}
    done("run", written(tmp_path, tree))
    manifest = json.loads((tmp_path / "runs" / "walk" / "train" / "manifest.json").read_text())
    assert manifest["dev"]["metric"] == "nDCG@10"
    assert manifest["dev"]["kept"] == max(manifest["dev"]["by_step"].values())
    assert 0 < manifest["queries"] < 12


def test_an_evaluation_while_training_needs_a_split(tmp_path, tree):
    tree["train"]["evaluate_every"] = 1
    refused = call("validate", written(tmp_path, tree))
    assert refused.exit_code == 2
    assert "train.evaluate_every: needs a split to measure on; name it as data.dev" in refused.stderr
    tree["data"] |= {"dev": "test", "hold_out": 0.5}
    refused = call("validate", written(tmp_path, tree))
    assert "hold_out makes a dev split, and dev names 'test'; keep one of them" in refused.stderr


def test_two_processes_walk_one_road(tmp_path, tree):
    tree["train"]["losses"].append({"kind": "infonce", "temperature": 0.1})
    whole = written(tmp_path, {**tree, "name": "one"})
    done("run", whole)
    shared = written(tmp_path, {**tree, "name": "two"})
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "retrodistill",
        "run",
        str(shared),
    ]
    finished = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("## Results") == 1  # one process speaks
    one, two = (load_file(tmp_path / "runs" / name / "train" / "model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)
    manifest = json.loads((tmp_path / "runs" / "two" / "train" / "manifest.json").read_text())
    assert manifest["processes"] == 2


def test_queries_made_of_the_corpus_are_trained_on_and_no_label_is_looked_at(tmp_path, tree):
    tree["data"]["queries"] = ["title", {"kind": "sentence", "shortest": 5, "limit": 7}]
    tree["data"]["hold_out"] = 0.3
    tree["mine"]["labels"] = False
    tree["train"] |= {"batches": "topics", "pick": "log_uniform", "losses": [{"kind": "in_batch_kl"}]}
    done("run", written(tmp_path, tree))
    folder = tmp_path / "runs" / "walk"
    manifest = json.loads((folder / "train" / "manifest.json").read_text())
    collection = open_collection(tree["data"]["path"])
    own = collection.hold_out("train", 0.3).query_ids("train")
    titles = [doc for doc in collection.corpus.ids if collection.corpus.title(doc)]
    assert manifest["queries"] == len(own) + len(titles) + 7
    assert manifest["positives"] == 0
    mined = Candidates.read(folder / "mine" / "candidates.parquet")
    pairs = set(zip(mined.query_ids, mined.doc_ids, strict=True))
    assert not any((f"title-{doc}", doc) in pairs for doc in titles)
    assert any((query, query.split("-", 2)[-1]) in pairs for query in mined.queries if query.startswith("sentence-"))


def test_made_queries_are_written_as_a_folder_that_can_be_mined(tmp_path, collection_folder):
    out = tmp_path / "made"
    told = done(
        "queries",
        "--data",
        collection_folder,
        "--from",
        "title",
        "--from",
        "{kind: sentence, shortest: 5}",
        "--out",
        out,
    )
    old, new = open_collection(collection_folder), open_collection(out)
    assert new.corpus.digest == old.corpus.digest
    assert new.qrels("test") == old.qrels("test")
    assert f"title: {sum(query.startswith('title-') for query in new.qrels('made'))} queries" in told.output
    assert all(query.endswith(doc) for query, grades in new.qrels("made").items() for doc in grades)
    done("mine", "--data", out, "--split", "made", "--source", "bm25", "--no-labels", "--out", tmp_path / "c.parquet")
    assert Candidates.read(tmp_path / "c.parquet").queries
    refused = call("queries", "--data", collection_folder, "--from", "sentense", "--out", tmp_path / "other")
    assert refused.exit_code == 2 and "'sentense'" in refused.output and "sentence" in refused.output
    assert not (tmp_path / "other").exists()


def folded(tree, tiny_cross_encoder):
    pairs = {"kind": "cross_encoder", "model": str(tiny_cross_encoder), "dropout": 0}
    teach = {
        **tree["train"],
        "student": pairs,
        "losses": [{"kind": "infonce", "in_batch_negatives": False}],
        "folds": 2,
        "max_steps": 2,
    }
    rounds = [
        {"name": "teach", "score": {"teachers": []}, "train": teach},
        {"name": "learn", "score": {"teachers": ["bm25", "cross_fitted:cross_encoder:@teach"]}},
    ]
    return {**tree, "rounds": rounds}


def test_the_models_of_folds_teach_the_next_round(tmp_path, tree, tiny_cross_encoder):
    recipe = written(tmp_path, folded(tree, tiny_cross_encoder))
    told = done("run", recipe)
    assert "train teach fold 0" in told.stderr and "train teach fold 1" in told.stderr
    folder = tmp_path / "runs" / "walk"
    kept = json.loads((folder / "teach" / "train" / "folds.json").read_text())
    whole = Candidates.read(folder / "teach" / "mine" / "candidates.parquet")
    seen = [
        json.loads((folder / "teach" / "train" / f"fold-{n}" / "manifest.json").read_text())["queries"] for n in (0, 1)
    ]
    assert sum(seen) == len(whole.queries) == len(kept["queries"])  # two folds: each query is unseen by one of them
    manifest = json.loads((folder / "learn" / "train" / "manifest.json").read_text())
    assert manifest["judged"] == manifest["pairs"]
    assert sorted(path.name for path in (folder / "evaluate").iterdir()) == ["before", "bm25", "student", "teacher"]
    again = done("run", recipe)
    assert "train teach fold 1 unchanged" in again.stderr and "train learn unchanged" in again.stderr


def test_folds_that_do_not_fit_are_told(tmp_path, tree, tiny_cross_encoder):
    whole = folded(tree, tiny_cross_encoder)
    whole["rounds"][1]["score"]["teachers"] = ["cross_encoder:@teach"]
    assert "write cross_fitted:cross_encoder:@teach" in call("validate", written(tmp_path, whole)).stderr
    whole = folded(tree, tiny_cross_encoder)
    del whole["rounds"][0]["train"]["folds"]
    assert "is one model; have its round train `folds: 3`" in call("validate", written(tmp_path, whole)).stderr
    last = {**tree, "train": {**tree["train"], "folds": 3}}
    assert (
        "train.folds: models of folds are teachers of a later round" in call("validate", written(tmp_path, last)).stderr
    )


def test_a_later_round_mines_where_the_first_ones_student_errs(tmp_path, tree, tiny_model):
    sampler = {"kind": "disagreement", "n": 3, "student": "dense:@first", "teacher": "bm25"}
    rounds = [{"name": "first"}, {"name": "second", "mine": {"sources": ["random"], "depth": 8, "sampler": sampler}}]
    recipe = written(tmp_path, {**tree, "rounds": rounds})
    run = done("run", recipe)
    assert "disagreement:3: bm25: " in run.stderr
    folder = tmp_path / "runs" / "walk" / "second" / "mine"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [judge["kind"] for judge in manifest["inputs"]["judges"]] == ["dense", "bm25"]
    found = Candidates.read(folder / "candidates.parquet")
    assert manifest["kept"] == len(found) and manifest["dropped"]["not sampled by disagreement:3"] > 0

    sampler["student"] = "dense:@frist"
    result = call("validate", written(tmp_path, {**tree, "rounds": rounds}))
    assert result.exit_code == 2
    assert "'@frist' names no round before this one; did you mean 'first'?" in result.output
    sampler["student"] = None
    rounds[1]["mine"]["sources"] = ["random", "bm25"]
    result = call("validate", written(tmp_path, {**tree, "rounds": rounds}))
    assert "rounds[1].mine: disagreement:3: scores of 2 sources are on scales of their own" in result.output
    rounds[1]["mine"]["memory"] = "2 apples"
    result = call("validate", written(tmp_path, {**tree, "rounds": rounds}))
    assert "rounds[1].mine.memory: '2 apples' is no size; write it as 2GB" in result.output
    rounds[1]["mine"]["memory"] = "2GB"
    sampler["student"] = "dense:no/such-model"
    result = call("validate", written(tmp_path, {**tree, "rounds": rounds}))
    assert "rounds[1].mine.sampler.student: model 'no/such-model' is no folder here" in result.output
