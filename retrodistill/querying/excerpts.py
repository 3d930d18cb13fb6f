"""Queries that stand in the documents already: their titles and their sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from retrodistill.collections import MadeQuery, Texts
from retrodistill.querying.maker import QueryMaker, Role, draw

# A sentence ends where the next begins with a capital or a digit; good enough for queries, whose harm is small.
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
# What abstracts put before their parts: "CONCLUSIONS: ", "METHODS AND RESULTS ", "Background: ".
_PART = (
    "aims?|background|conclusions?|context|design|discussion|findings|importance|interpretation|introduction|"
    "(?:main )?(?:outcomes?|results?)(?: measures?)?|(?:materials|patients) and methods|methodology|methods?|"
    "objectives?|participants|patients|purpose|rationale|setting|significance|summary"
)
_LABEL = re.compile(rf"^(?i:(?:{_PART})(?:(?:,| and|/| &) ?(?:{_PART}))*)(?:: *|(?<=[A-Z]) +(?=[A-Z]))")


class Title(QueryMaker):
    """Each document's title.

    A title finds its own document easily and teaches little by it; what teachers say of the others is worth more, so
    that the document is barred from the candidates where nothing else is asked.
    """

    version: ClassVar[int | None] = 1
    kind: Literal["title"] = "title"
    source: Role = Field("barred", description="what the document that a query is made of is to it")

    def make(self, corpus: Texts, seed: int) -> Iterator[MadeQuery]:
        """Titles that are not empty."""
        for doc in corpus.ids:
            yield MadeQuery(f"title-{doc}", corpus.title(doc), doc)


class Sentence(QueryMaker):
    """Sentences of documents: what a claim, or a long question, looks like.

    Taking a passage's sentence for a query is the inverse cloze task: Lee, Chang and Toutanova 2019, "Latent Retrieval
    for Weakly Supervised Open Domain Question Answering". There the sentence is cut from the passage nine times of ten;
    here documents stay whole, as they are searched.
    """

    argument: ClassVar[str | None] = "each"
    version: ClassVar[int | None] = 1
    kind: Literal["sentence"] = "sentence"
    each: int = Field(1, ge=1, description="sentences of a document; all there are in a shorter one")
    where: Literal["any", "last"] = Field("any", description="last: the last sentence first, then any")
    shortest: int = Field(40, ge=1, description="characters")
    longest: int = Field(250, ge=1, description="characters")

    @model_validator(mode="after")
    def _window(self) -> Sentence:
        if self.longest < self.shortest:
            raise ValueError(f"longest: {self.longest} is below shortest: {self.shortest}; no sentence is left")
        return self

    def make(self, corpus: Texts, seed: int) -> Iterator[MadeQuery]:
        """Sentences within the lengths, without the label of an abstract's part."""
        for doc in corpus.ids:
            found = [text for text in sentences(corpus.body(doc)) if self.shortest <= len(text) <= self.longest]
            order = sorted(range(len(found)), key=lambda place: draw(seed, f"{place} {doc}"))
            if self.where == "last" and found:
                order = [len(found) - 1, *(place for place in order if place != len(found) - 1)]
            for number, place in enumerate(order[: self.each]):
                yield MadeQuery(f"sentence-{number}-{doc}", found[place], doc)


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the label of an abstract's part at their start."""
    return [_LABEL.sub("", part.strip()) for part in _END.split(text) if part.strip()]


QUERIES = {"title": Title, "sentence": Sentence}
