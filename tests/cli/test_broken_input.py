"""Broken input of every kind: one clear message, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from retrodistill.cli import main


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(*words: object) -> str:
    """The message of a call that must fail as a user's mistake does."""
    result = call(*words)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def folder(tmp_path: Path, collection_folder: Path) -> Path:
    return Path(shutil.copytree(collection_folder, tmp_path / "data"))


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"

BROKEN: dict[str, tuple[str, Callable[[list[str]], list[str]], list[str]]] = {
    "malformed JSON": (CORPUS, lambda rows: [*rows[:4], '{"_id": "x", ', *rows[4:]], ["corpus.jsonl", "line 5"]),
    "no object": (CORPUS, lambda rows: [*rows[:2], "[1, 2]", *rows[2:]], ["corpus.jsonl", "line 3"]),
    "missing id": (QUERIES, lambda rows: [*rows, '{"text": "who am I"}'], ["queries.jsonl", "line 19", "_id"]),
    "duplicate document": (CORPUS, lambda rows: [*rows, rows[0]], ["corpus.jsonl", "25", "storm0"]),
    "duplicate query": (QUERIES, lambda rows: [*rows, rows[1]], ["queries.jsonl", "19"]),
    "empty query": (QUERIES, lambda rows: [*rows, '{"_id": "q", "text": " "}'], ["queries.jsonl", "line 19"]),
    "empty corpus": (CORPUS, lambda rows: [], ["corpus.jsonl", "empty"]),
    "unknown document": (QRELS, lambda rows: [*rows, "q-storm2\tnowhere\t1"], ["test.tsv", "nowhere"]),
    "unknown query": (QRELS, lambda rows: [*rows, "nobody\tstorm0\t1"], ["test.tsv", "nobody"]),
    "wrong columns": (QRELS, lambda rows: [*rows, "q-storm2\tstorm1"], ["test.tsv", "columns"]),
    "grade no number": (QRELS, lambda rows: [*rows, "q-storm2\tstorm1\tgood"], ["test.tsv", "good"]),
    "empty qrels": (QRELS, lambda rows: [], ["test.tsv", "no judgements"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_collection_is_told_by_file_and_line(case, folder, tmp_path):
    name, change, words = BROKEN[case]
    edit(folder / name, change)
    told = refused("evaluate", "bm25", "--data", folder, "--out", tmp_path / "out")
    for word in words:
        assert word in told, told
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_and_an_unknown_name(tmp_path):
    assert "nowhere" in refused("evaluate", "bm25", "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert "scifact" in refused("evaluate", "bm25", "--data", "scifatc", "--out", tmp_path / "out")


def test_an_unknown_split_names_the_choices(folder, tmp_path):
    told = refused("evaluate", "bm25", "--data", folder, "--split", "validation", "--out", tmp_path / "out")
    assert "train" in told and "test" in told


def test_windows_line_ends_and_a_byte_order_mark_are_read(folder, tmp_path):
    for name in (CORPUS, QUERIES, QRELS):
        path = folder / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert call("evaluate", "bm25", "--data", folder, "--out", tmp_path / "out").exit_code == 0


def test_not_utf8(folder, tmp_path):
    (folder / CORPUS).write_bytes((folder / CORPUS).read_bytes() + b'{"_id": "l1", "text": "caf\xe9"}\n')
    assert "line 25" in refused("evaluate", "bm25", "--data", folder, "--out", tmp_path / "out")


def test_empty_texts_are_kept_and_never_found_by_words(folder, tmp_path):
    edit(folder / CORPUS, lambda rows: [*rows, '{"_id": "void", "title": "", "text": ""}'])
    assert call("evaluate", "bm25", "--data", folder, "--out", tmp_path / "out").exit_code == 0
    assert "void" not in (tmp_path / "out" / "run.trec").read_text()


def test_one_document_and_one_query(folder, tmp_path, tiny_model):
    (folder / CORPUS).write_text('{"_id": "only", "text": "storm"}\n')
    (folder / QUERIES).write_text('{"_id": "q", "text": "storm wind"}\n')
    (folder / QRELS).write_text("query-id\tcorpus-id\tscore\nq\tonly\t1\n")
    (folder / "qrels" / "train.tsv").unlink()
    for system in ("bm25", tiny_model):
        assert call("evaluate", system, "--data", folder, "--out", tmp_path / "out").exit_code == 0
        assert json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]["nDCG@10"] == 1


def test_a_depth_beyond_the_corpus(folder, tmp_path, tiny_model):
    out = tmp_path / "candidates.parquet"
    result = call(
        "mine", "--data", folder, "--source", "bm25", "--source", f"dense:{tiny_model}", "--depth", 1000, "--out", out
    )
    assert result.exit_code == 0, result.output
    assert pq.read_table(out).num_rows == 12 * 24


def test_models_that_are_none(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "model.txt"
    text.write_text("no model")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    out = ("--data", folder, "--out", tmp_path / "out")
    assert "config.json" in refused("evaluate", empty, *out)
    assert "folder" in refused("evaluate", text, *out)
    assert "JSON" in refused("evaluate", broken, *out)
    assert "no such folder" in refused("evaluate", tmp_path / "absent", *out)
    assert "Hub" in refused("evaluate", "nobody/nothing", *out)


def test_weights_that_do_not_fit_their_configuration(folder, tmp_path, tiny_model):
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:500])
    assert "cannot be loaded" in refused("evaluate", copy, "--data", folder, "--out", tmp_path / "out")


def test_a_cross_encoder_is_no_retriever_and_the_other_way_round(folder, tmp_path, tiny_model, tiny_cross_encoder):
    told = refused("evaluate", tiny_cross_encoder, "--data", folder, "--out", tmp_path / "out")
    assert "CrossEncoder" in told and "SentenceTransformer" in told
    candidates = tmp_path / "c.parquet"
    assert call("mine", "--data", folder, "--source", "bm25", "--out", candidates).exit_code == 0
    told = refused(
        "score", candidates, "--data", folder, "--teacher", f"cross_encoder:{tiny_model}", "--store", tmp_path / "s"
    )
    assert "SentenceTransformer" in told


RUNS = {
    "five fields": ("q-storm2 Q0 storm0 1 2.0\n", "line 1"),
    "an id with a space": ("q-storm2 Q0 storm 0 1 2.0 tag\n", "line 1"),
    "a score that is NaN": ("q-storm2 Q0 storm0 1 nan tag\n", "nan"),
    "a score that is a word": ("q-storm2 Q0 storm0 1 high tag\n", "high"),
    "a document twice": ("q-storm2 Q0 storm0 1 2 tag\nq-storm2 Q0 storm0 2 1 tag\n", "line 2"),
    "an empty file": ("", "empty"),
    "documents of another collection": ("q-storm2 Q0 elsewhere 1 2 tag\n", "elsewhere"),
    "queries of another collection": ("stranger Q0 storm0 1 2 tag\n", "stranger"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_broken_run_file(case, folder, tmp_path):
    text, word = RUNS[case]
    path = tmp_path / "x.trec"
    path.write_text(text)
    told = refused("evaluate", f"run:{path}", "--data", folder, "--out", tmp_path / "out")
    assert word in told, told


def test_a_missing_run_file(folder, tmp_path):
    assert "x.trec" in refused("evaluate", f"run:{tmp_path}/x.trec", "--data", folder, "--out", tmp_path / "out")


def test_broken_candidates(folder, tmp_path):
    path = tmp_path / "candidates.parquet"
    score = ("score", path, "--data", folder, "--teacher", "bm25", "--store", tmp_path / "store")
    assert "retrodistill mine" in refused(*score)
    path.write_text("no parquet")
    assert "candidates.parquet" in refused(*score)
    pq.write_table(pa.table({"query": ["a"], "document": ["b"]}), path)
    assert "query_id" in refused(*score)
    assert call("mine", "--data", folder, "--source", "bm25", "--out", path).exit_code == 0
    edit(folder / CORPUS, lambda rows: rows[1:])
    edit(folder / QRELS, lambda rows: [row for row in rows if "storm0" not in row])
    told = refused(*score)
    assert "storm0" in told and "not in" in told
    assert not list((tmp_path / "store").glob("*/part-*"))


def test_scores_that_are_missing(folder, tmp_path, tiny_model):
    path = tmp_path / "candidates.parquet"
    assert call("mine", "--data", folder, "--source", "bm25", "--out", path).exit_code == 0
    told = refused(
        "train", "--data", folder, "--candidates", path, "--store", tmp_path / "none", "--teacher", "bm25",
        "--student", f"dense:{tiny_model}", "--loss", "kl", "--out", tmp_path / "model",
    )  # fmt: skip
    assert "retrodistill score" in told
    assert not (tmp_path / "model").exists()


def test_an_export_of_scores_that_are_missing(folder, tmp_path):
    path, out = tmp_path / "candidates.parquet", tmp_path / "out.jsonl"
    assert call("mine", "--data", folder, "--source", "bm25", "--out", path).exit_code == 0
    words = ["export", "colbert", path, "--data", folder, "--store", tmp_path / "none", "--teacher", "bm25"]
    told = refused(*words, "--out", out)
    assert "no score of these candidates by bm25" in told and "retrodistill score" in told
    assert not out.exists()


def test_a_dev_split_that_nothing_would_be_measured_on(folder, tmp_path, tiny_model):
    path = tmp_path / "candidates.parquet"
    assert call("mine", "--data", folder, "--source", "bm25", "--out", path).exit_code == 0
    train = [
        "train", "--data", folder, "--candidates", path, "--store", tmp_path / "store", "--student",
        f"dense:{tiny_model}", "--loss", "infonce", "--out", tmp_path / "model",
    ]  # fmt: skip
    assert "--dev test: nothing is measured on it; add evaluate_every=N" in refused(*train, "--dev", "test")
    assert "no split 'tset'; did you mean 'test'" in refused(*train, "--dev", "tset", "evaluate_every=1")
    assert not (tmp_path / "model").exists() and not (tmp_path / "model.partial").exists()


def test_a_damaged_part_of_the_store_is_named_and_left_out(folder, tmp_path):
    path, store = tmp_path / "candidates.parquet", tmp_path / "store"
    assert call("mine", "--data", folder, "--source", "bm25", "--out", path).exit_code == 0
    score = ("score", path, "--data", folder, "--teacher", "bm25", "--store", store)
    assert call(*score).exit_code == 0
    (part,) = store.glob("*/part-*")
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    part.chmod(0o644)
    part.write_bytes(damaged)
    again = call(*score)
    assert again.exit_code == 0 and part.name in again.stderr and "pairs judged" in again.stdout


def test_results_with_something_else_in_them(folder, tmp_path):
    out = tmp_path / "out"
    assert "retrodistill evaluate" in refused("report", out)
    assert call("evaluate", "bm25", "--data", folder, "--out", out).exit_code == 0
    (out / "results.json").write_text("{")
    assert "results.json" in refused("report", out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metric", "nDGC@10"], "nDCG"),
        (["k2=1"], "k1"),
        (["k1=fast"], "k1"),
        (["b=2"], "b"),
        (["k1"], "key=value"),
        (["stemmer=klingon"], "klingon"),
    ],
)
def test_wrong_options(words, said, folder, tmp_path):
    assert said in refused("evaluate", "bm25", "--data", folder, "--out", tmp_path / "out", *words)


def test_wrong_parts(folder, tmp_path):
    out = ("--data", folder, "--out", tmp_path / "c.parquet")
    assert "did you mean 'bm25'" in refused("mine", *out, "--source", "bm52")
    assert "did you mean 'uniform'" in refused("mine", *out, "--source", "bm25", "--sampler", "unifrom:3")
    assert "depth" in refused("mine", *out, "--source", "bm25", "--depth", 0)
    assert "n" in refused("mine", *out, "--source", "bm25", "--sampler", "top")


def test_every_mistake_of_a_recipe_at_once(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: x\ndata: y\nmine: {deepth: 3}\ntrain:\n  student: {kind: dense, model: ./absent}\n"
        "  losses: [{kind: kl, temprature: 2}]\n  epochs: many\nindex: flatt\n"
    )
    told = refused("run", recipe)
    for words in (
        "line 3: mine.deepth: unknown key; did you mean 'depth'?",
        "line 6: train.losses[0].temprature: unknown key; did you mean 'temperature'?",
        "line 7: train.epochs",
        "line 8: index: unknown index 'flatt'; did you mean 'flat'?",
    ):
        assert words in told, told
    assert "4 mistakes" in told
    assert not (tmp_path / "runs").exists()


def test_student_and_index_that_do_not_fit(tmp_path, tiny_model):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: x\ndata: y\ntrain:\n  student: dense:{tiny_model}\n  losses: [kl]\nindex: bm25\n")
    told = refused("validate", recipe)
    assert "line 6: index: bm25 accepts text" in told and "emits dense" in told
    assert "kl learns from a teacher" in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(folder, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "locked" in refused("evaluate", "bm25", "--data", folder, "--out", locked / "out")


def test_a_file_where_a_folder_should_be(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused("evaluate", "bm25", "--data", folder, "--out", tmp_path / "file" / "out")


@pytest.mark.parametrize("verb", ["evaluate", "mine"])
def test_no_space_left(verb, folder, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out"))

    monkeypatch.setattr("os.fsync", full)
    words = ["mine", "--source", "bm25"] if verb == "mine" else ["evaluate", "bm25"]
    told = refused(*words, "--data", folder, "--out", tmp_path / "out" / "x")
    assert "No space left" in told
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and (tmp_path / "out") in path.parents]


def test_a_teacher_that_gives_no_number(folder, tmp_path, tiny_cross_encoder):
    from safetensors.numpy import load_file, save_file

    copy = Path(shutil.copytree(tiny_cross_encoder, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    weights["classifier.weight"] = np.full_like(weights["classifier.weight"], np.nan)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    path = tmp_path / "candidates.parquet"
    assert call("mine", "--data", folder, "--source", "bm25", "--out", path).exit_code == 0
    told = refused("score", path, "--data", folder, "--teacher", f"cross_encoder:{copy}", "--store", tmp_path / "s")
    assert "nan" in told and "finite" in told


@pytest.mark.parametrize("verb", ["mine", "evaluate", "search", "index", "train"])
def test_a_place_that_cannot_be_is_told_before_the_work(verb, folder, tmp_path, monkeypatch):
    """Before anything is read, so that nothing else need be right."""
    file, place = tmp_path / "file", tmp_path / "folder"
    file.write_text("kept")
    place.mkdir()
    words = {
        "mine": ["--source", "bm25"],
        "evaluate": ["bm25"],
        "search": [tmp_path / "no-index"],
        "index": ["no-model"],
        "train": ["--candidates", tmp_path / "none", "--student", "dense:no-model", "--loss", "kl"],
    }
    for out in (place if verb in ("mine", "search") else file, file / "below"):
        assert str(out) in refused(verb, *words[verb], "--data", folder, "--out", out)
    assert file.read_text() == "kept"


def test_what_is_no_file_is_not_replaced(folder, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "is a device or the like" in refused("mine", "--data", folder, "--source", "bm25", "--out", pipe)
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["run.trec", "results.json"])
def test_files_that_only_bear_the_names_of_an_evaluation_are_kept(name, folder, tmp_path):
    own = tmp_path / "mine" / name
    own.parent.mkdir()
    own.write_text("kept")
    assert str(own) in refused("evaluate", "bm25", "--data", folder, "--out", own.parent)
    assert own.read_text() == "kept"


@pytest.mark.parametrize("words", [["evaluate", "bm25"], ["search", "no-index"], ["run"]])
@pytest.mark.parametrize("what", ["document", "query"])
def test_ids_that_no_run_file_can_carry_are_told_before_the_work(words, what, folder, tmp_path):
    path = folder / ("corpus.jsonl" if what == "document" else "queries.jsonl")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"_id": "two words", "title": "", "text": "anything"}\n')
    if words == ["run"]:
        recipe = {
            "name": "x",
            "runs": str(tmp_path / "runs"),
            "data": {"path": str(folder)},
            "mine": {"sources": ["bm25"]},
        }
        recipe |= {"train": {"student": "dense:sentence-transformers/all-MiniLM-L6-v2", "losses": ["infonce"]}}
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
        told = refused("run", tmp_path / "recipe.yaml")
    else:
        told = refused(*words, "--data", folder, "--out", tmp_path / "out")
    assert f"the {what} id 'two words' is empty or holds white space" in told
    assert not list(tmp_path.glob("runs/*/mine")) and not (tmp_path / "out").exists()
