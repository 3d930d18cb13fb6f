"""Language models that answer: a document is as good as it makes the right answer likely."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill.errors import InputError
from retrodistill.files import digest_of_file
from retrodistill.formats.format import field, objects
from retrodistill.teachers.golden import GOLDEN_QUERY
from retrodistill.teachers.language import Scorer, Scoring, checked, prompts_of

if TYPE_CHECKING:
    from retrodistill.collections import Collection

_GOLDEN_ANSWER = "Seven to ten days."


class AnswerLikelihood(Scoring):
    """How likely does the document make the right answer? The mean log-probability of the answer's tokens.

    `answers` is a JSONL file of `{"_id": QUERY, "text": ANSWER}`. A query without an answer is not judged.

    Source: the reward of Zhang et al. 2023, "Retrieve Anything To Augment Large Language Models" (LLM-Embedder).
    """

    kind: Literal["answer_likelihood"] = "answer_likelihood"
    answers: Path
    template: str = "Knowledge: {document}\n\nQuestion: {query}\n\nAnswer:"
    chat: bool = False
    space: bool = Field(True, description="a space between the prompt and the answer, as plain text has it")

    @field_validator("template")
    @classmethod
    def _names_both(cls, template: str) -> str:
        return checked(template)

    def check(self) -> None:
        """The model, and the file."""
        super().check()
        if not self.answers.is_file():
            raise InputError(f'{self.answers}: no such file; expected lines such as {{"_id": QUERY, "text": ANSWER}}')

    @property
    def question(self) -> dict[str, Any]:
        """Template and answers, these by what they are, wherever they lie."""
        return {**super().question, "answers": digest_of_file(self.answers)}

    def open(self, collection: Collection) -> AnswerScorer:
        """Get ready to ask; the model is loaded when first needed."""
        self.check()
        return AnswerScorer(self, collection)

    def scores(self, asker: Scorer, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Mean log-probabilities, at most 0; NaN for a query without an answer."""
        assert isinstance(asker, AnswerScorer)
        known = [row for row, query in enumerate(queries) if query in asker.answers]
        asked = [queries[row] for row in known]
        prompts = prompts_of(asker, self.template, asked, [documents[row] for row in known])
        answers = [asker.answers[query] for query in asked]
        values = np.full(len(queries), np.nan, dtype=np.float32)
        if known:
            values[known] = asker.model.likelihood(prompts, [f" {text}" if self.space else text for text in answers])
        return values


class AnswerScorer(Scorer):
    """A language model, and the answers that it should give."""

    options: AnswerLikelihood

    @cached_property
    def answers(self) -> dict[str, str]:
        """The answer to a query's text.

        Raises:
            InputError: a line is broken, or names a query that the collection has not.
        """
        queries, found = self.collection.queries, {GOLDEN_QUERY: _GOLDEN_ANSWER}
        for where, row in objects(self.options.answers):
            query, answer = field(row, "_id", str, where), field(row, "text", str, where)
            if query not in queries:
                raise InputError(f"{where}: query {query!r} is not in {self.collection.name}")
            found[queries.text(query)] = answer
        return found


TEACHERS = {"answer_likelihood": AnswerLikelihood}
