"""Queries drawn by doc2query, from a corpus to a folder that everything else opens."""

from __future__ import annotations

import json

import pytest
from commands import call, done
from small_decoder import decoder, encoder_decoder

from retrodistill.collections import open_collection


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


def test_a_decoder_is_told_in_one_line(collection_folder, models, tmp_path):
    result = call("queries", "--data", collection_folder, "--from", f"doc2query:{models[0]}", "--out", tmp_path / "no")
    assert result.exit_code == 2
    assert "needs an encoder-decoder" in result.output
    assert not (tmp_path / "no").exists()
