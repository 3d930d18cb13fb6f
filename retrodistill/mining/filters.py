"""Filters by text: which found documents cannot stand as negatives, or are not worth it."""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections import Counter
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from retrodistill.mining.pool import Pool, Rule
from retrodistill.words import folded, normal, words


class Filter(Rule):
    """A rule that drops documents unlikely to be negative. Labelled documents are never asked about."""

    @abstractmethod
    def keep(self, pool: Pool) -> np.ndarray:
        """Which of a query's unlabelled documents stay, bool, shape (documents,)."""


def relevant_texts(pool: Pool) -> list[str]:
    """The texts of a query's positives, those aside that the corpus does not hold."""
    return [pool.collection.corpus.text(doc) for doc in pool.positives if doc in pool.collection.corpus]


class DuplicatesFilter(Filter):
    """A filter of documents that say the same as a positive or, if that is asked for, as each other.

    Attributes:
        among: of candidates that say the same the best ranked alone stays, too. Without labels this is all there is to
            do, and must be asked for.
    """

    among: bool = Field(False, description="of candidates that say the same, the best ranked alone stays")

    @property
    def needs_positives(self) -> bool:
        """Where nothing else is to be compared with."""
        return not self.among

    @property
    def alternative(self) -> str:
        """What to do without labels."""
        return "say among: true to compare candidates with each other"


class DuplicatesOfPositives(DuplicatesFilter):
    """Drops documents that say the same as a positive: letter case, punctuation, spaces and encoding aside."""

    kind: Literal["duplicates"] = "duplicates"

    def keep(self, pool: Pool) -> np.ndarray:
        """Compare normalised texts."""
        seen = {normal(text) for text in relevant_texts(pool)}
        kept = np.ones(len(pool), dtype=bool)
        for row, doc in enumerate(pool.documents if seen or self.among else ()):
            said = normal(pool.collection.corpus.text(doc))
            kept[row] = said not in seen
            if self.among:
                seen.add(said)
        return kept


class Length(Filter):
    """Drops documents of too few or too many words, such as empty ones, which are negatives that teach nothing.

    In scripts without spaces, such as Chinese, Japanese and Thai, each character counts as a word.
    """

    argument: ClassVar[str | None] = "min"
    kind: Literal["length"] = "length"
    min: int = Field(1, ge=0)
    max: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Length:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max: {self.max} words are fewer than min: {self.min}; no document is left")
        return self

    def keep(self, pool: Pool) -> np.ndarray:
        """Count words."""
        counts = np.array([len(words(pool.collection.corpus.text(doc))) for doc in pool.documents], dtype=np.int64)
        return (counts >= self.min) & (counts <= (np.inf if self.max is None else self.max))


# Scripts that stand beside each other in one text: Han and kana in Japanese, Hangul and Han in Korean.
_BESIDE = {
    "CJK": ("HIRAGANA", "KATAKANA", "BOPOMOFO"),
    "HIRAGANA": ("CJK", "KATAKANA"),
    "KATAKANA": ("CJK", "HIRAGANA"),
    "BOPOMOFO": ("CJK",),
    "HANGUL": ("CJK",),
}


class Script(Filter):
    """Drops documents that are written in other letters than the query, or than those named.

    Letters tell scripts apart, not languages: English from Russian, not English from German. A document without letters
    stays, and every document of a query without letters. A query's kana, kanji or hangul let in what a text of its
    language is written in beside them: kanji alone may be Japanese or Chinese.

    Attributes:
        scripts: as Unicode names letters, such as LATIN, CYRILLIC, ARABIC, CJK, HIRAGANA; the query's most frequent
            one where left out, and those that stand beside it.
        share: of a document's letters that must be of these.
    """

    argument: ClassVar[str | None] = "scripts"
    kind: Literal["script"] = "script"
    scripts: tuple[Annotated[str, Field(pattern="^[A-Z]+$")], ...] | None = Field(None, min_length=1)
    share: float = Field(0.5, gt=0, le=1)

    @field_validator("scripts", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """With the scripts, joined by "+"."""
        return ":".join([self.kind, *(["+".join(self.scripts)] if self.scripts else [])])

    def keep(self, pool: Pool) -> np.ndarray:
        """Count letters by script."""
        asked = self.scripts or _written_in(pool.collection.queries.text(pool.query))
        kept = np.ones(len(pool), dtype=bool)
        for row, doc in enumerate(pool.documents if asked else ()):
            letters = scripts_of(pool.collection.corpus.text(doc))
            total = sum(letters.values())
            kept[row] = not total or sum(letters[script] for script in asked) >= self.share * total
        return kept


def _written_in(query: str) -> tuple[str, ...]:
    """The scripts of a query's language, as far as its letters tell; none where it has no letters."""
    letters = scripts_of(query)
    if not letters:
        return ()
    # of Han with a Hangul letter or two, these say what it is
    first = "HANGUL" if letters["HANGUL"] and letters.keys() <= {"HANGUL", "CJK"} else letters.most_common(1)[0][0]
    return first, *_BESIDE.get(first, ())


def scripts_of(text: str) -> Counter[str]:
    """How many letters of each script a text has, in whatever form they are encoded."""
    counts: Counter[str] = Counter()
    for letter, count in Counter(folded(text)).items():
        if letter.isalpha():
            counts[_script(letter)] += count
    return counts


@lru_cache(maxsize=65_536)
def _script(letter: str) -> str:
    # The first word of a letter's name is its script: LATIN SMALL LETTER A, CJK UNIFIED IDEOGRAPH-4E00.
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return _NAMED.get(name, name)


# Signs that repeat or lengthen the letter before them.
_NAMED = {"IDEOGRAPHIC": "CJK", "KATAKANA-HIRAGANA": "KATAKANA"}

FILTERS = {"duplicates": DuplicatesOfPositives, "length": Length, "script": Script}
