"""Language models that compare two documents, or order many."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill.scores.orders import Order
from retrodistill.teachers.asking import Asker, Asking
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.golden import ABSURD_DOCUMENT, GOLDEN_DOCUMENT, GOLDEN_QUERY
from retrodistill.teachers.language import checked, filled
from retrodistill.teachers.ordering import Ordering

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.language.model import Prompt
    from retrodistill.teachers.teacher import Window

# How a question is read later decides nothing of the answer.
_READING = {"pairs", "read", "seed", "window", "stride", "runs", "repair_limit"}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Pairwise(Comparing, Asking):
    """Which of the two is the more relevant, A or B? The log-odds of "A" against "B", asked in both orders.

    Source: Qin et al. 2024, "Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting".
    """

    kind: Literal["pairwise"] = "pairwise"
    template: str = (
        "Which of the two documents is more relevant to the query? Answer with A or B only.\n\n"
        "Query: {query}\n\nDocument A: {first}\n\nDocument B: {second}\n\nMore relevant:"
    )
    first: str = Field("A", min_length=1, description="as the answer begins where the first document is better")
    second: str = Field("B", min_length=1)

    @field_validator("template")
    @classmethod
    def _names_all(cls, template: str) -> str:
        return checked(template, ("query", "first", "second"))

    @property
    def question(self) -> dict[str, Any]:
        """Template and labels."""
        return {name: value for name, value in super().question.items() if name not in _READING}

    def open(self, collection: Collection) -> Comparer:
        """Get ready to ask."""
        self.check()
        return Comparer(self, collection)


class DuoT5(Pairwise):
    """duoT5: the log-odds of "true" against "false" by a T5 trained to say whether the first document is better.

    Source: Pradeep, Nogueira and Lin 2021, "The Expando-Mono-Duo Design Pattern for Text Ranking with Pretrained
    Sequence-to-Sequence Models".
    """

    kind: Literal["duot5"] = "duot5"  # type: ignore[assignment]
    template: str = "Query: {query} Document0: {first} Document1: {second} Relevant:"
    chat: bool = False
    first: str = "true"
    second: str = "false"


class Comparer(Asker):
    """A language model that compares."""

    options: Pairwise

    def prefer(self, query_ids: Sequence[str], first_ids: Sequence[str], second_ids: Sequence[str]) -> np.ndarray:
        """Log-odds that the document shown first is better, float32 (n,); NaN where the model failed.

        Raises:
            InputError: the model prefers the absurd document of the golden pair.
        """
        self.be_sure()
        shown = zip(query_ids, first_ids, second_ids, strict=True)
        return self._odds(
            [(self.query_text(q), self.document_text(first), self.document_text(second)) for q, first, second in shown]
        )

    def _odds(self, texts: Sequence[tuple[str, str, str]]) -> np.ndarray:
        options = self.options
        prompts = [self.prompt(filled(options.template, query=q, first=a, second=b)) for q, a, b in texts]
        logs = self.model.choices(prompts, [options.first, options.second])
        return logs[:, 0] - logs[:, 1]

    def golden(self) -> tuple[float, float]:
        """The log-odds of both orders, averaged, against even ones."""
        there, back = self._odds(
            [(GOLDEN_QUERY, GOLDEN_DOCUMENT, ABSURD_DOCUMENT), (GOLDEN_QUERY, ABSURD_DOCUMENT, GOLDEN_DOCUMENT)]
        )
        odds = float(there - back) / 2
        return odds, -odds


class Listwise(Ordering, Asking):
    """In which order do these documents belong? The model writes it: `[2] > [1] > [3]`.

    Identifiers are read in the order written. One that stands twice counts once, one that names no document not at all,
    and documents that are not named follow in the order shown: such an answer is repaired, and counted. An answer that
    names no document is none: the order shown would be the first stage's, and no judgement.

    Source: Sun et al. 2023, "Is ChatGPT Good at Search?" (RankGPT).
    """

    kind: Literal["listwise"] = "listwise"
    template: str = (
        "Here are {count} documents, each behind its number in brackets, and a query. Order all of them by how "
        "relevant they are to the query, the most relevant first. Answer with the numbers only, such as [2] > [1].\n\n"
        "{documents}\n\nQuery: {query}\n\nOrder:"
    )

    @field_validator("template")
    @classmethod
    def _names_all(cls, template: str) -> str:
        return checked(template, ("query", "documents"))

    @property
    def question(self) -> dict[str, Any]:
        """The template."""
        return {name: value for name, value in super().question.items() if name not in _READING}

    def names(self, count: int) -> list[str]:
        """What the documents of a window are called."""
        return [f"[{number}]" for number in range(1, count + 1)]

    def open(self, collection: Collection) -> Orderer:
        """Get ready to ask."""
        self.check()
        return Orderer(self, collection)

    def orders(self, asker: Orderer, prompts: Sequence[Prompt], counts: Sequence[int]) -> list[Order | None]:
        """What the model makes of windows of so many documents."""
        said = asker.model.generate(prompts, max_tokens=8 * self.window)  # the same for each, so that it is asked once
        found = [None if text is None else parsed(text, count) for text, count in zip(said, counts, strict=True)]
        why = getattr(asker.model, "reasons", ()) or [""] * len(found)
        asker.why = [
            "the answer names no document" if order is None and text is not None else reason
            for order, text, reason in zip(found, said, why, strict=True)
        ]
        return found


class First(Listwise):
    """FIRST: the order is read from the logits of the first identifier, one forward pass a window.

    Documents are called A, B, C, ...; their scores are the log-probabilities of these letters as what comes first.
    No answer is written, so that none needs repair.

    Source: Reddy et al. 2024, "FIRST: Faster Improved Listwise Reranking with Single Token Decoding".
    """

    kind: Literal["first"] = "first"  # type: ignore[assignment]
    window: int = Field(20, ge=2, le=len(_LETTERS), description="documents shown at once, a letter each")
    template: str = (
        "Here are {count} documents, each behind its letter, and a query. Which document is the most relevant to the "
        "query? Answer with its letter only.\n\n{documents}\n\nQuery: {query}\n\nMost relevant:"
    )

    def names(self, count: int) -> list[str]:
        """Letters."""
        return list(_LETTERS[:count])

    def orders(self, asker: Orderer, prompts: Sequence[Prompt], counts: Sequence[int]) -> list[Order | None]:
        """By falling log-probability; equal ones in the order shown."""
        found: list[Order | None] = [None] * len(prompts)
        asker.why = [""] * len(prompts)
        for count in dict.fromkeys(counts):
            rows = [row for row, own in enumerate(counts) if own == count]
            logs = asker.model.choices([prompts[row] for row in rows], self.names(count))
            for row, reason in zip(rows, getattr(asker.model, "reasons", ()), strict=False):
                asker.why[row] = reason
            for row, values in zip(rows, logs, strict=True):
                if not np.isnan(values).any():
                    ranking = np.argsort(-values, kind="stable")
                    found[row] = Order(tuple(ranking.tolist()), tuple(values.tolist()))
        return found


class Orderer(Asker):
    """A language model that orders."""

    pairs_a_part = 16
    options: Listwise
    why: list[str] | None = None

    @property
    def reasons(self) -> Sequence[str]:
        """Why there is no order of each window of the last."""
        return super().reasons if self.why is None else self.why

    def order(self, windows: Sequence[Window]) -> list[Order | None]:
        """The order of each window; None where the model failed.

        Raises:
            InputError: the model puts the absurd document of the golden pair first.
        """
        self.be_sure()
        texts = [(self.query_text(query), [self.document_text(doc) for doc in docs]) for query, docs in windows]
        return self._orders(texts)

    def _orders(self, texts: Sequence[tuple[str, Sequence[str]]]) -> list[Order | None]:
        prompts = []
        for query, documents in texts:
            names = self.options.names(len(documents))
            listed = "\n\n".join(f"{name} {text}" for name, text in zip(names, documents, strict=True))
            prompts.append(
                self.prompt(filled(self.options.template, query=query, documents=listed, count=str(len(documents))))
            )
        return self.options.orders(self, prompts, [len(documents) for _, documents in texts])

    def golden(self) -> tuple[float, float]:
        """How often the document that answers comes first, and the absurd one, shown in either order."""
        shown = [(GOLDEN_QUERY, [GOLDEN_DOCUMENT, ABSURD_DOCUMENT]), (GOLDEN_QUERY, [ABSURD_DOCUMENT, GOLDEN_DOCUMENT])]
        better = worse = 0.0
        for place, order in enumerate(self._orders(shown)):
            if order is not None and not order.repairs:
                better += order.ranking[0] == place
                worse += order.ranking[0] != place
        return better, worse


def parsed(answer: str, count: int) -> Order | None:
    """The order that an answer writes, repaired where it must be; None where it names no document."""
    named = [int(found) - 1 for found in re.findall(r"\[(\d{1,6})\]", answer)]
    if not named:  # some models leave the brackets out
        named = [int(found) - 1 for found in re.findall(r"(?<![\d.])(\d{1,6})(?![\d.]*\d)", answer)]
    ranking = list(dict.fromkeys(place for place in named if 0 <= place < count))
    if not ranking:
        return None
    missing = [place for place in range(count) if place not in set(ranking)]
    repairs = len(named) - len(ranking) + len(missing)
    return Order((*ranking, *missing), None, answer, repairs)


TEACHERS: dict[str, type[Any]] = {"pairwise": Pairwise, "duot5": DuoT5, "listwise": Listwise, "first": First}
