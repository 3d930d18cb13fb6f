"""Queries drawn by doc2query, from a corpus to a folder that everything else opens."""

from __future__ import annotations

import json

import pytest
import yaml
from commands import call, done
from small_decoder import decoder, encoder_decoder

from retrodistill.collections import open_collection
from retrodistill.language.local import LocalModel
from retrodistill.querying.round_trip import RoundTrip


@pytest.fixture(scope="module")
def models(tiny_model, tmp_path_factory):
    llama = decoder(tiny_model, tmp_path_factory.mktemp("llama"))
    return llama, encoder_decoder(llama, tmp_path_factory.mktemp("t5"))


def test_a_corpus_gets_queries(collection_folder, models, tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    maker = json.dumps({"kind": "doc2query", "model": models[1], "each": 2, "limit": 12, "max_tokens": 5})
    told = done("queries", "--data", collection_folder, "--from", maker, "--out", tmp_path / "made").output
    assert "12 queries" in told
    made = open_collection(str(tmp_path / "made"))
    assert len(made.query_ids("made")) == 12
    assert all(made.queries.text(query) for query in made.query_ids("made"))
    for query, grades in made.qrels("made").items():
        (document,) = grades
        assert query in {f"doc2query-{number}-{document}" for number in (0, 1)}


def test_each_maker_is_told_for_itself(collection_folder, tmp_path):
    makers = ["--from", "sentence:1", "--from", "{kind: sentence, each: 2, shortest: 1, limit: 9}", "--from", "title"]
    told = done("queries", "--data", collection_folder, *makers, "--out", tmp_path / "made").output
    made = open_collection(str(tmp_path / "made"))
    counts = [int(line.split(": ")[1].split()[0]) for line in told.splitlines() if " documents" in line]
    assert len(counts) == 3 and sum(counts) == len(made.query_ids("made"))
    assert "title: 24 queries of 24 documents" in told


def test_a_folder_cannot_say_that_a_document_is_unlabelled(collection_folder, tmp_path):
    maker = "{kind: sentence, source: unlabelled}"
    result = call("queries", "--data", collection_folder, "--from", maker, "--out", tmp_path / "no")
    assert result.exit_code == 2
    assert "sentence:1: source: unlabelled cannot be told by a folder's judgements" in result.output
    assert not (tmp_path / "no").exists()


def test_a_decoder_is_told_in_one_line(collection_folder, models, tmp_path):
    result = call("queries", "--data", collection_folder, "--from", f"doc2query:{models[0]}", "--out", tmp_path / "no")
    assert result.exit_code == 2
    assert "needs an encoder-decoder" in result.output
    assert not (tmp_path / "no").exists()


def test_a_recipe_makes_its_queries_once(collection_folder, models, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    makers = [
        {"kind": "title", "round_trip": {"depth": 8}},
        {"kind": "doc2query", "model": models[1], "limit": 4, "max_tokens": 5},
    ]
    tree = {
        "name": "made",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": {"path": str(collection_folder), "train": "made", "queries": makers},
        "mine": {"sources": ["bm25"], "depth": 4},
        "score": {"teachers": ["bm25"]},
        "train": {
            "student": {"kind": "dense", "model": str(tiny_model), "layers": 1, "dropout": 0},
            "losses": [{"kind": "kl", "student_temperature": 0.1}],
            "batch_size": 4,
            "documents": 3,
            "max_steps": 2,
        },
        "evaluate": {"metrics": ["nDCG@10"], "before": False},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    assert "led back" in done("run", recipe).output
    monkeypatch.setattr(LocalModel, "model", None)
    monkeypatch.setattr(RoundTrip, "kept", None)
    told = done("run", recipe).output
    assert "title: 24 queries, unchanged, skipped" in told
    assert f"doc2query:{models[1]}: 4 queries, unchanged, skipped" in told
    assert "mine      unchanged, skipped" in told
    # the verb makes the same ones, and reads them as well
    told = done("queries", "--data", collection_folder, "--from", json.dumps(makers[0]), "--out", tmp_path / "b").output
    assert "title: 24 queries, unchanged, skipped" in told
    assert len(open_collection(str(tmp_path / "b")).qrels("made")) == 24
