"""Queries are kept that lead back to the document that they were made of."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.querying import make_queries, round_trip
from retrodistill.registry import build
from retrodistill.retrieval.bm25 import BM25

DOCUMENTS = [
    ("zinc", "Zinc and colds", "Zinc lozenges shorten the common cold."),
    ("iron", "Iron", "Iron tablets help against anaemia."),
    ("odd", "A study of many things", "Quartz watches keep the time."),
]


@pytest.fixture
def collection():
    return Collection("c", Texts.documents("c", DOCUMENTS), Texts.queries("c", []), {})


def titles(collection, **options):
    return [query.id for query in make_queries([build("queries", {"kind": "title", **options})], collection, 0)]


def test_only_those_that_come_back_are_kept(collection):
    assert titles(collection) == ["title-zinc", "title-iron", "title-odd"]
    # every title stands before its own text, so that all come back first; a run that finds zinc alone keeps one
    assert titles(collection, round_trip={}) == ["title-zinc", "title-iron", "title-odd"]


def test_a_source_that_finds_another_document_drops_the_query(collection, tmp_path):
    run = tmp_path / "run.trec"
    run.write_text("title-zinc Q0 zinc 1 2.0 x\ntitle-iron Q0 zinc 1 2.0 x\ntitle-iron Q0 iron 2 1.0 x\n")
    first = {"sources": [f"run:{run}"], "depth": 1}
    assert titles(collection, round_trip=first) == ["title-zinc"]
    assert titles(collection, round_trip={**first, "depth": 2}) == ["title-zinc", "title-iron"]
    both = {"sources": [f"run:{run}", "bm25"], "depth": 1}
    assert titles(collection, round_trip=both) == ["title-zinc", "title-iron", "title-odd"]


def test_a_limit_counts_those_that_are_kept(collection, tmp_path):
    run = tmp_path / "run.trec"
    run.write_text("title-odd Q0 odd 1 2.0 x\ntitle-iron Q0 iron 1 1.0 x\n")
    kept = {"sources": [f"run:{run}"]}
    assert titles(collection, round_trip=kept, limit=2) == ["title-iron", "title-odd"]
    (one,) = titles(collection, round_trip=kept, limit=1)
    assert one in ("title-iron", "title-odd")


def test_sources_are_opened_once_however_many_queries_there_are(collection, monkeypatch):
    built = []
    build_index = BM25.build
    monkeypatch.setattr(BM25, "build", lambda self, texts: built.append(1) or build_index(self, texts))
    monkeypatch.setattr(round_trip, "_AT_ONCE", 1)
    assert titles(collection, round_trip={"depth": 2}) == ["title-zinc", "title-iron", "title-odd"]
    assert len(built) == 1


def test_where_none_leads_back_it_is_told(collection, tmp_path):
    run = tmp_path / "run.trec"
    run.write_text("title-odd Q0 iron 1 2.0 x\n")
    with pytest.raises(InputError, match="makes none of the documents"):
        titles(collection, round_trip={"sources": [f"run:{run}"]})
    with pytest.raises(ValidationError, match="depth"):
        titles(collection, round_trip={"depth": 0})
