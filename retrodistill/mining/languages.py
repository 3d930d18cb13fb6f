"""A filter by language, which letters alone do not tell."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill.errors import InputError, nearest
from retrodistill.mining.filters import Filter

if TYPE_CHECKING:
    from types import ModuleType

    from retrodistill.mining.pool import Pool


class Language(Filter):
    """Drops documents in other languages than those named, as py3langid tells them; `script` is the cheaper one.

    A document of few letters stays, as too little to tell by. Queries mostly are, so that their language is not asked.

    Source: Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool".

    Attributes:
        languages: their codes (ISO 639), such as en or de.
        letters: a document of fewer stays.
    """

    argument: ClassVar[str | None] = "languages"
    kind: Literal["language"] = "language"
    languages: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1, description="codes such as en, de")
    letters: int = Field(25, ge=0, description="a document of fewer stays")

    @field_validator("languages", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """With the languages, joined by "+"."""
        return f"{self.kind}:{'+'.join(self.languages)}"

    def check(self) -> None:
        """Find the package, and the languages among those that it tells.

        Raises:
            InputError: one of them is not there.
        """
        known = [language for language, _ in _identifier().rank("")]
        for language in self.languages:
            if language not in known:
                raise InputError(f"filter language: unknown language {language!r}; {nearest(language, known)}")

    def keep(self, pool: Pool) -> np.ndarray:
        """Tell each document's language."""
        texts = map(pool.collection.corpus.text, pool.documents)
        return np.array([self._fits(text) for text in texts], dtype=bool)

    def _fits(self, text: str) -> bool:
        return sum(map(str.isalpha, text)) < self.letters or _language_of(text) in self.languages


def _identifier() -> ModuleType:
    try:
        import py3langid
    except ImportError as error:
        raise InputError(
            "filter language needs the package py3langid; pip install 'retrodistill[language]', or filter by script"
        ) from error
    return py3langid


@lru_cache(maxsize=4_096)
def _language_of(text: str) -> str:
    language: str = _identifier().classify(text)[0]
    return language


FILTERS = {"language": Language}
