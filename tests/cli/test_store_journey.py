"""Other tools' files in and out of the score store, and the store looked into, through the command line."""

from __future__ import annotations

import json

import pytest
from commands import call, done

from retrodistill.candidates import Candidates
from retrodistill.scores.store import ScoreStore


@pytest.fixture
def mined(tmp_path, collection_folder):
    out = tmp_path / "candidates.parquet"
    done("mine", "--data", collection_folder, "--split", "train", "--source", "bm25", "--depth", 4, "--out", out)
    done("score", out, "--data", collection_folder, "--teacher", "bm25", "--store", tmp_path / "scores")
    return out


@pytest.mark.parametrize("form", ["colbert", "margin_mse", "trec", "pylate", "flagembedding", "dataset"])
def test_scores_go_out_and_come_back(form, mined, tmp_path, collection_folder):
    file, back = tmp_path / "lists", tmp_path / "back.parquet"
    store = ["--store", tmp_path / "scores"]
    done("export", form, mined, "--data", collection_folder, "--teacher", "bm25", *store, "--out", file)
    told = done("import", form, file, "--data", collection_folder, *store, "--out", back).output
    assert "scores (store" in told and "fingerprint" in told
    first, second = Candidates.read(mined), Candidates.read(back)
    pairs = set(zip(first.query_ids, first.doc_ids, strict=True))
    assert set(zip(second.query_ids, second.doc_ids, strict=True)) <= pairs
    teachers = {found["identity"]["kind"]: found["fingerprint"] for found in ScoreStore(tmp_path / "scores").teachers()}
    told = done("store", "diff", teachers["bm25"], teachers["imported"], *store).output
    both = int(next(line for line in told.splitlines() if "pairs of both" in line).split("|")[2])
    equal = int(next(line for line in told.splitlines() if "equal scores" in line).split("|")[2])
    assert both == equal == len(second) > 40


def test_imported_scores_teach(tmp_path, mined, collection_folder, tiny_model):
    file, back, store = tmp_path / "a.jsonl", tmp_path / "back.parquet", tmp_path / "scores"
    done("export", "colbert", mined, "--data", collection_folder, "--teacher", "bm25", "--store", store, "--out", file)
    done("import", "colbert", file, "--data", collection_folder, "--store", store, "--out", back)
    teacher = f"{{kind: imported, path: {file}, format: colbert}}"
    words = ["--data", collection_folder, "--candidates", back, "--store", store, "--teacher", teacher]
    done(
        "train",
        *words,
        "--student",
        f"dense:{tiny_model}",
        "--loss",
        "margin_mse",
        "--out",
        tmp_path / "model",
        "max_steps=2",
        "batch_size=4",
        "documents=3",
        "precision=fp32",
    )
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["judged"] == manifest["pairs"]


def test_a_store_is_looked_into(mined, tmp_path, collection_folder, tiny_model):
    store = tmp_path / "scores"
    done("score", mined, "--data", collection_folder, "--teacher", f"dense:{tiny_model}", "--store", store)
    told = done("store", "info", "--store", store).output
    assert "bm25" in told and "dense" in told and f"{len(Candidates.read(mined))}" in told
    assert "all is well" in done("store", "verify", "--store", store).output
    done("store", "compact", "--store", store)
    part = next(store.glob("*/part-*.parquet"))
    content = bytearray(part.read_bytes())
    content[40] ^= 255
    part.write_bytes(content)
    told = call("store", "verify", "--store", store)
    assert told.exit_code == 1 and str(part) in told.output and "1 damaged" in told.output


def test_caches_are_told_and_dropped_and_nothing_that_was_paid_for(mined, tmp_path, monkeypatch):
    cache, store = tmp_path / "cache", ["--store", tmp_path / "scores"]
    monkeypatch.setenv("RETRODISTILL_CACHE", str(cache))
    gone = [cache / "combined" / "a.npy", cache / "candidates" / "b.parquet", cache / "candidates" / "c" / "rows.arrow"]
    gone += [cache / "queries" / "d.json", cache / "tokens" / "e-f" / "tokens.npy"]
    stays = [
        cache / "combined" / ".d.npy.host-1-00000000.tmp",  # somebody is writing it
        cache / "calls" / "e" / "answers.jsonl",
        cache / "vectors" / "f" / "vectors.npy",
    ]
    for size, path in enumerate([*gone, *stays], start=1):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size * 1_000_000))
    judged = {path: path.read_bytes() for path in (tmp_path / "scores").rglob("*") if path.is_file()}
    told = done("store", "info", *store).output
    assert "candidates: 2 entries, 5.0 MB" in told and "combined: 1 entries, 1.0 MB" in told
    assert "queries: 1 entries, 4.0 MB" in told and "tokens: 1 entries, 5.0 MB" in told
    assert "cache" not in done("store", "compact", *store).output and all(path.exists() for path in gone)
    told = done("store", "compact", "--caches", *store).output
    assert "candidates: 2 entries dropped, 5.0 MB" in told and "combined: 1 entries dropped, 1.0 MB" in told
    assert not any(path.exists() for path in gone) and not (cache / "candidates" / "c").exists()
    assert all(path.exists() for path in stays)
    assert {path: path.read_bytes() for path in judged} == judged
    assert "candidates: 0 entries, 0.0 MB" in done("store", "info", *store).output


def test_mistakes_are_told(mined, tmp_path, collection_folder):
    for words, message in (
        (["import", "colbrt", mined], "did you mean 'colbert'?"),
        (["import", "colbert", tmp_path / "none"], "no such file"),
        (["export", "msmarco_hard_negatives", mined], "only read"),
    ):
        told = call(*words, "--data", collection_folder, "--store", tmp_path / "scores", "--out", tmp_path / "out")
        assert told.exit_code == 2 and message in told.stderr
        assert not (tmp_path / "out").exists()
    told = call("store", "diff", "a", "b", "--store", tmp_path / "scores")
    assert told.exit_code == 2 and "no teacher 'a'" in told.stderr


@pytest.mark.parametrize("words", [["verify"], ["compact"]])
def test_what_is_no_store_is_not_well(words, tmp_path, collection_folder):
    for folder in tmp_path / "mistyped", collection_folder:
        told = call("store", *words, "--store", folder)
        assert told.exit_code == 2 and "no score store" in told.stderr


def test_a_seed_that_training_could_not_take_is_refused_before_mining(tmp_path, collection_folder):
    words = ["mine", "--data", collection_folder, "--source", "bm25", "--out", tmp_path / "out.parquet"]
    told = call(*words, "--seed", 2**32)
    assert told.exit_code == 2 and "4294967295" in told.stderr
    assert not (tmp_path / "out.parquet").exists()
