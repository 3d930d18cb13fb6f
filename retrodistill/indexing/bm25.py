"""BM25 over the words of a collection, by bm25s: the first stage that every other one is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill import console
from retrodistill.emissions import Emission
from retrodistill.errors import nearest
from retrodistill.registry import Part

StopWords = Literal[
    "english", "english_plus", "german", "dutch", "french", "spanish", "portuguese", "italian", "russian", "swedish",
    "norwegian", "chinese", "turkish", "korean", "danish",
]  # fmt: skip


class BM25Index(Part):
    """An inverted index of stemmed words, weighted by BM25 when it is built.

    The defaults are those of Lucene and BEIR's published BM25: k1 0.9, b 0.4, Snowball stems, title and text together.
    """

    accepts: ClassVar[Emission] = "text"
    kind: Literal["bm25"] = "bm25"
    k1: float = Field(0.9, ge=0)
    b: float = Field(0.4, ge=0, le=1)
    method: Literal["lucene", "robertson", "atire", "bm25l", "bm25+"] = "lucene"
    stemmer: str | None = "english"
    stopwords: StopWords | None = "english"

    @field_validator("stemmer")
    @classmethod
    def _known_stemmer(cls, language: str | None) -> str | None:
        import Stemmer

        if language is not None and language not in Stemmer.algorithms():
            raise ValueError(f"{language!r} has no Snowball stemmer; {nearest(language, Stemmer.algorithms())}")
        return language

    def build(self, texts: Sequence[str]) -> BuiltBM25:
        """Index documents."""
        return BuiltBM25(self, texts)


class BuiltBM25:
    """BM25 scores of one collection."""

    def __init__(self, options: BM25Index, texts: Sequence[str]) -> None:
        import bm25s

        self.options = options
        self.documents = len(texts)
        self._bm25 = bm25s.BM25(k1=options.k1, b=options.b, method=options.method)
        tokens: list[list[str]] = []
        blocks = range(0, len(texts), 8_192)
        for start in console.track(blocks, len(blocks), "index words", "blocks of documents"):
            tokens += _words(list(texts[start : start + 8_192]), options.stemmer, options.stopwords)
        if any(tokens):
            self._bm25.index(tokens, show_progress=False)
            # bm25l and bm25+ score documents without a query's words, all alike; without that constant they stand at 0.
            self._bm25.nonoccurrence_array = None
        else:
            self._bm25 = None  # not a single word in the collection: nothing can match

    def scores(self, query: str) -> np.ndarray:
        """The score of every document, float32, shape (documents,); 0 where no word is shared."""
        words = _words([query], self.options.stemmer, self.options.stopwords)[0]
        known = [word for word in words if self._bm25 is not None and word in self._bm25.vocab_dict]
        if not known:
            return np.zeros(self.documents, dtype=np.float32)
        return np.asarray(self._bm25.get_scores(known), dtype=np.float32)


@lru_cache(maxsize=8)
def _stemmer(language: str | None) -> Any:
    if language is None:
        return None
    import Stemmer

    return Stemmer.Stemmer(language)


def _words(texts: list[str], stemmer: str | None, stopwords: str | None) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(texts, stopwords=stopwords, stemmer=_stemmer(stemmer), return_ids=False, show_progress=False)


INDEXES = {"bm25": BM25Index}
