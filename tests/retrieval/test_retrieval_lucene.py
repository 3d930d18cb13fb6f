import os
import sys
import textwrap
from pathlib import Path

import pytest

from retrodistill import steps
from retrodistill.collections import open_collection
from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.retrieval import lucene
from retrodistill.retrieval.lucene import Lucene


def test_without_pyserini_it_says_what_to_install(monkeypatch, collection):
    monkeypatch.setitem(sys.modules, "pyserini", None)
    monkeypatch.setattr(lucene.importlib.util, "find_spec", lambda name: None)
    for ask in (Lucene().check, lambda: Lucene().open(collection)):
        with pytest.raises(
            InputError, match=r"no module pyserini; lucene needs Pyserini and a Java.* pip install pyserini"
        ):
            ask()


def test_without_java_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(lucene.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(InputError, match=r"there is no java; lucene needs .* Java 21"):
        Lucene().check()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    Lucene().check()


# A Pyserini that indexes by copying and scores by counting shared words, to see what it is asked.
STAND_IN = {
    "index/lucene/__main__.py": """
        import sys, shutil, pathlib
        words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
        assert words["--collection"] == "JsonCollection" and words["--stemmer"] in ("porter", "none")
        if "--keepStopwords" in sys.argv:
            sys.exit("no room for stop words")
        shutil.copy(pathlib.Path(words["--input"]) / "corpus.jsonl", words["--index"])
        with open(pathlib.Path(words["--index"]).parent / "built.txt", "a") as stream:
            stream.write(words["--stemmer"] + "\\n")
    """,
    "search/lucene/__init__.py": """
        import json, pathlib, types
        class LuceneSearcher:
            def __init__(self, folder):
                lines = (pathlib.Path(folder) / "corpus.jsonl").read_text().splitlines()
                self.texts = {line["id"]: line["contents"].lower().split() for line in map(json.loads, lines)}
            def set_bm25(self, k1, b):
                self.k1 = k1
            def set_analyzer(self, analyzer):
                assert analyzer == {"stemming": False, "stemmer": "porter", "stopwords": True}
            def search(self, query, k):
                found = {doc: self.k1 * sum(word in words for word in query.split()) for doc, words in self.texts.items()}
                best = sorted((score, doc) for doc, score in found.items() if score)[::-1][:k]
                return [types.SimpleNamespace(docid=doc, score=score) for score, doc in best]
    """,
    "analysis/__init__.py": """
        def get_lucene_analyzer(**options):
            return options
    """,
}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    for name, text in STAND_IN.items():
        path = tmp_path / "pyserini" / name
        path.parent.mkdir(parents=True)
        path.write_text(textwrap.dedent(text))
    for folder in [tmp_path / "pyserini", *(tmp_path / "pyserini").iterdir()]:
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lucene.shutil, "which", lambda name: "/usr/bin/java")
    yield tmp_path / "cache" / "lucene"
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyserini"]:
        del sys.modules[name]


def test_what_pyserini_is_asked_and_what_becomes_of_its_answer(stand_in, collection):
    searcher = build("retriever", "lucene").open(collection)
    found = searcher.search(["q-storm0", "q-bread0"], 4)
    assert list(found) == ["q-storm0", "q-bread0"]
    assert all(len(docs) == 4 and list(docs.values()) == sorted(docs.values(), reverse=True) for docs in found.values())
    assert found["q-storm0"]["storm0"] == pytest.approx(0.9 * 3)  # "storm rain storm"
    assert searcher.details["options"] == {"k1": 0.9, "b": 0.4, "stemmer": "porter", "stopwords": "english"}
    # Another k1 is another score on the same index; another analyzer is another index.
    again = Lucene(k1=1.8).open(collection)
    assert again.search(["q-storm0"], 4)["q-storm0"]["storm0"] == pytest.approx(1.8 * 3)
    assert again.identity != searcher.identity
    Lucene(stemmer=None).open(collection).search(["q-storm0"], 1)
    assert (stand_in / "built.txt").read_text().split() == ["porter", "none"]


def test_an_index_that_fails_leaves_nothing_and_says_why(stand_in, collection):
    with pytest.raises(InputError, match=r"Pyserini could not index: no room for stop words. lucene needs"):
        Lucene(stopwords=None).open(collection).search(["q-storm0"], 1)
    assert list(stand_in.iterdir()) == []


@pytest.mark.real
@pytest.mark.skipif("RETRODISTILL_DATA" not in os.environ, reason="RETRODISTILL_DATA names no folder of collections")
def test_on_scifact_lucene_and_bm25_agree():
    pytest.importorskip("pyserini")
    scifact = open_collection(str(Path(os.environ["RETRODISTILL_DATA"]) / "scifact"))
    ours, theirs = (steps.evaluate(system, scifact)[0].metrics["nDCG@10"] for system in ("bm25", "lucene"))
    assert theirs == pytest.approx(ours, abs=0.005)
