"""Queries that a language model writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from retrodistill.collections import Collection, MadeQuery, Texts
from retrodistill.language import kept
from retrodistill.language.model import LanguageModel, Message, Prompt
from retrodistill.querying.maker import FAILED, QueryMaker, draw
from retrodistill.registry import of
from retrodistill.words import words

_AT_ONCE = 64
_TOKENS_A_QUERY = 48

Kind = Literal["question", "claim", "title", "keywords"]


class _Form(NamedTuple):
    name: str
    instruction: str


_FORMS: dict[str, _Form] = {
    "question": _Form("Question", "Write a question that the document answers, as one would ask who has not read it."),
    "claim": _Form("Claim", "Write a claim in one sentence that the document supports or refutes."),
    "title": _Form("Title", "Write a short title for the document in other words than its own."),
    "keywords": _Form("Keywords", "Write a keyword search, three to six words, that the document is a good result of."),
}


class Example(BaseModel):
    """A document, and a query that it answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    document: str = Field(min_length=1)
    query: str = Field(min_length=1)


class Written(QueryMaker):
    """Queries that a language model writes: questions, claims, titles or keywords, with a few examples shown.

    Examples are those given, or else `shots` labelled pairs of the collection's own train queries, where it has any.
    What is said comes first in the prompt, the document last, so that servers that keep prefixes compute the rest once.
    Answers are kept raw and asked for once. They are read line by line: numbers, bullets, quotes and a leading "Query:"
    go; lines that refuse, are too short or long, repeat the title or an earlier query are dropped, and counted.

    Source: Bonifacio et al. 2022, "InPars: Data Augmentation for Information Retrieval using Large Language Models".
    """

    argument: ClassVar[str | None] = "model"
    version: ClassVar[int | None] = 2  # titles were compared without marks
    kind: Literal["written"] = "written"
    model: of("language_model")  # type: ignore[valid-type]
    form: Kind = Field("question", description="what kind of query is asked for")
    each: int = Field(1, ge=1, description="queries of a document")
    shots: int = Field(3, ge=0, description="labelled pairs shown as examples; they look at labels")
    examples: tuple[Example, ...] = Field((), description="shown in place of the collection's own")
    chat: bool = Field(True, description="false: as plain text, for models that were not tuned to follow instructions")
    max_words: int = Field(250, ge=1, description="of a document; what is longer is cut")
    shortest: int = Field(10, ge=1, description="characters of a query")
    longest: int = Field(300, ge=1, description="characters of a query")

    @property
    def label(self) -> str:
        """Kind, form and model."""
        return f"written:{self.form}:{self.model.label}"

    def check(self) -> None:
        """What the language model needs."""
        self.model.check()

    def make(self, corpus: Texts, seed: int) -> Iterator[MadeQuery]:
        """As `stream`, of a collection without queries."""
        yield from self.stream(Collection("corpus", corpus, Texts.queries("none", []), {}), seed, Counter())

    def decided_by(self, collection: Collection, seed: int) -> dict[str, Any]:
        """As every maker's; what is shown stands for the labelled pairs that were looked at."""
        told = super().decided_by(collection, seed)
        for seen_in_shown in ("shots", "examples"):
            told.pop(seen_in_shown)
        return {**told, "model": self.model.open().identity, "shown": self._shown(collection, seed)}

    def stream(self, collection: Collection, seed: int, dropped: Counter[str]) -> Iterator[MadeQuery]:
        """Queries of documents in an order that ids and seed decide, some documents at a time."""
        model: LanguageModel = self.model.open()
        shown = self._shown(collection, seed)
        order = sorted(collection.corpus.ids, key=lambda doc: draw(seed, f"written {doc}"))
        seen: set[str] = set()
        for start in range(0, len(order), _AT_ONCE):
            yield from self._written(model, order[start : start + _AT_ONCE], collection.corpus, shown, seen, dropped)

    def _written(
        self,
        model: LanguageModel,
        docs: Sequence[str],
        corpus: Texts,
        shown: str,
        seen: set[str],
        dropped: Counter[str],
    ) -> Iterator[MadeQuery]:
        prompts = [self._prompt(shown, cut_to_words(corpus.text(doc), self.max_words)) for doc in docs]
        answers = kept.generate(model, prompts, _TOKENS_A_QUERY * self.each, f"write {self.form}s")
        for doc, answer in zip(docs, answers, strict=True):
            if answer is None:
                dropped[FAILED] += 1
                continue
            good = 0
            for text in lines_of(answer):
                reason = self._unfit(text, corpus.title(doc), seen)
                if reason:
                    dropped[reason] += 1
                elif good < self.each:
                    seen.add(text.casefold())
                    yield MadeQuery(f"written-{self.form}-{good}-{doc}", text, doc)
                    good += 1
            if not good:
                dropped["documents without a query"] += 1

    def _unfit(self, text: str, title: str, seen: set[str]) -> str | None:
        """Why a line is no query; None where it is one."""
        if _NO_QUERY.match(text):
            return "lines that refuse or introduce"
        if not self.shortest <= len(text) <= self.longest:
            return "lines too short or long"
        if words(text) == words(title):
            return "copies of the title"
        if text.casefold() in seen:
            return "repeated"
        return None

    def _shown(self, collection: Collection, seed: int) -> str:
        """What stands before the document in every prompt."""
        form = _FORMS[self.form]
        count = "Write it alone, on one line." if self.each == 1 else f"Write {self.each} of them, one a line, no more."
        pairs = self.examples or tuple(_labelled(collection, self.shots, seed))
        shots = [f"Document: {cut_to_words(pair.document, 80)}\n{form.name}: {pair.query}" for pair in pairs]
        return "\n\n".join([f"{form.instruction} {count}", *shots])

    def _prompt(self, shown: str, document: str) -> Prompt:
        text = f"{shown}\n\nDocument: {document}\n{_FORMS[self.form].name}:"
        return Prompt((Message("user", text),)) if self.chat else Prompt(text)


_LEAD = re.compile(
    r"^\s*(?:[-*•]+|\(?\d{1,2}[.):]|(?:query|question|claim|title|keywords?|answer)\s*\d*\s*[:.])\s*", re.IGNORECASE
)
_NO_QUERY = re.compile(
    "(?:document\\s*[:.]|i['\u2019]?m sorry|sorry\\b|as an ai\\b|here (?:is|are)\\b|sure[,!])"
    "|i (?:can(?:no|['\u2019])t|am unable|am not able)",
    re.IGNORECASE,
)
# straight and curly ones
_QUOTES = "\"'\u201c\u201d\u2018\u2019"


def lines_of(answer: str) -> list[str]:
    """The lines of an answer that hold something, without what models put around a query."""
    found = []
    for line in answer.splitlines():
        text = line.strip()
        while (bare := _LEAD.sub("", text)) != text:
            text = bare
        text = text.strip().strip("*_`").strip().strip(_QUOTES).strip()
        if text:
            found.append(" ".join(text.split()))
    return found


def _labelled(collection: Collection, count: int, seed: int) -> Iterator[Example]:
    """Labelled pairs of the train split, drawn by seed."""
    if "train" not in collection.splits:
        return
    qrels = collection.qrels("train")
    answered = [query for query in collection.query_ids("train") if any(grade > 0 for grade in qrels[query].values())]
    for query in sorted(answered, key=lambda query: draw(seed, f"example {query}"))[:count]:
        best = max(qrels[query], key=lambda doc: (qrels[query][doc], doc))
        yield Example(document=collection.corpus.text(best), query=collection.queries.text(query))


def cut_to_words(text: str, words: int) -> str:
    """The first so many words."""
    pieces = text.split()
    return " ".join(pieces[:words])


QUERIES = {"written": Written}
