"""BM25 by Lucene itself, through Pyserini: a source of candidates, and the baseline that papers print."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from retrodistill import console
from retrodistill.cache import cache_folder
from retrodistill.errors import InputError
from retrodistill.files import atomic_folder, digest_of
from retrodistill.retrieval.retriever import Retriever
from retrodistill.runs import Run, cut

if TYPE_CHECKING:
    from retrodistill.collections import Collection

_INSTALL = (
    "lucene needs Pyserini and a Java runtime: pip install pyserini, and Java 21 (such as openjdk-21-jre-headless) on "
    "PATH or at JAVA_HOME. `bm25` has the same formula and needs neither"
)


class Lucene(Retriever):
    """Lexical search by Lucene itself, as BEIR's published BM25: Anserini's analyzer, title and text in one field."""

    kind: Literal["lucene"] = "lucene"
    k1: float = Field(0.9, ge=0)
    b: float = Field(0.4, ge=0, le=1)
    stemmer: Literal["porter", "krovetz"] | None = "porter"
    stopwords: Literal["english"] | None = "english"

    def check(self) -> None:
        """Find Pyserini and Java.

        Raises:
            InputError: one of them is not there; saying what to install.
        """
        try:
            found = importlib.util.find_spec("pyserini") is not None
        except ValueError:  # a module that was put in its place
            found = "pyserini" in sys.modules
        if not found:
            raise InputError(f"there is no module pyserini; {_INSTALL}")
        home = os.environ.get("JAVA_HOME")
        if shutil.which("java") is None and not (home and (Path(home) / "bin" / "java").exists()):
            raise InputError(f"there is no java; {_INSTALL}")

    def open(self, collection: Collection) -> LuceneSearcher:
        """Find what is needed; index the collection when first asked.

        Raises:
            InputError: Pyserini or Java is not there.
        """
        self.check()
        return LuceneSearcher(self, collection)


class LuceneSearcher:
    """Lucene on one collection; its index is kept between runs."""

    def __init__(self, options: Lucene, collection: Collection) -> None:
        self.options = options
        self.collection = collection
        self._seconds: dict[str, float] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """The options, the corpus, and the version that scores."""
        return {**self.options.model_dump(), "corpus": self.collection.corpus.digest, "pyserini": _version()}

    @property
    def details(self) -> dict[str, Any]:
        """Options, and queries searched a second once there was a search."""
        return {"system": "BM25 (Lucene)", "options": self.options.model_dump(exclude={"kind"}), **self._seconds}

    @cached_property
    def index(self) -> Path:
        """The folder of the collection's index, made where it is not there yet; k1 and b are not in it."""
        options = self.options
        made_of = {
            "corpus": self.collection.corpus.digest,
            "stemmer": options.stemmer,
            "stopwords": options.stopwords,
            "pyserini": _version(),
        }
        folder = cache_folder("lucene") / digest_of(made_of)[:32]
        if not folder.exists():
            with atomic_folder(folder) as temporary, tempfile.TemporaryDirectory() as texts:
                self._write_texts(Path(texts) / "corpus.jsonl")
                _build(Path(texts), temporary, options)
        return folder

    def _write_texts(self, path: Path) -> None:
        corpus = self.collection.corpus
        with path.open("w", encoding="utf-8") as stream:
            for start in range(0, len(corpus), 8_192):
                rows = slice(start, start + 8_192)
                for name, text in zip(corpus.ids[rows], corpus.texts(rows), strict=True):
                    stream.write(json.dumps({"id": name, "contents": text}) + "\n")

    @cached_property
    def _searcher(self) -> Any:
        from pyserini.search.lucene import LuceneSearcher as Pyserini  # type: ignore[import-not-found]

        options = self.options
        searcher = Pyserini(str(self.index))
        searcher.set_bm25(options.k1, options.b)
        if (options.stemmer, options.stopwords) != ("porter", "english"):  # what it reads queries with by itself
            from pyserini.analysis import get_lucene_analyzer  # type: ignore[import-not-found]

            stemming = {"stemming": options.stemmer is not None, "stemmer": options.stemmer or "porter"}
            searcher.set_analyzer(get_lucene_analyzer(**stemming, stopwords=options.stopwords is not None))
        return searcher

    def search(self, query_ids: Sequence[str], depth: int) -> Run:
        """The best documents that share a word with the query; fewer than `depth` where fewer do."""
        searcher, run = self._searcher, Run()
        began = time.perf_counter()
        for query in console.track(query_ids, len(query_ids), "search lucene", "queries"):
            hits = searcher.search(self.collection.queries.text(query), k=depth)
            run[query] = cut({hit.docid: float(hit.score) for hit in hits}, depth)
        self._seconds["search_queries_per_second"] = len(query_ids) / (time.perf_counter() - began)
        return run


def _version() -> str:
    try:
        return importlib.metadata.version("pyserini")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _build(texts: Path, folder: Path, options: Lucene) -> None:
    """Have Anserini index a folder of JSON lines, in a process of its own.

    Raises:
        InputError: it fails, with its last word.
    """
    words = [
        "--collection", "JsonCollection", "--generator", "DefaultLuceneDocumentGenerator", "--threads", "1",
        "--input", str(texts), "--index", str(folder), "--stemmer", options.stemmer or "none",
    ]  # fmt: skip
    if options.stopwords is None:
        words.append("--keepStopwords")
    command = [sys.executable, "-m", "pyserini.index.lucene", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode or not any(folder.iterdir()):
        said = (done.stderr or done.stdout).strip().splitlines()
        raise InputError(f"Pyserini could not index: {said[-1] if said else 'it said nothing'}. {_INSTALL}")


RETRIEVERS = {"lucene": Lucene}
