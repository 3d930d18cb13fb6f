"""Language models that score one document at a time: yes or no, a grade, or how likely the query is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from retrodistill.teachers.asking import Asker, Asking
from retrodistill.teachers.golden import ABSURD_DOCUMENT, GOLDEN_DOCUMENT, GOLDEN_QUERY

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.language.model import Prompt


class Scoring(Asking):
    """A question about one document."""

    def open(self, collection: Collection) -> Scorer:
        """Get ready to ask; the model is loaded when first needed."""
        self.check()
        return Scorer(self, collection)

    def scores(self, asker: Scorer, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Scores of pairs of texts, float32 (pairs,); NaN where the model failed."""
        raise NotImplementedError


class Scorer(Asker):
    """A language model that scores pairs."""

    options: Scoring

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """Raw scores, float32 (pairs,); NaN where the model failed.

        Raises:
            InputError: the model prefers the absurd document of the golden pair.
        """
        self.be_sure()
        queries = [self.query_text(query) for query in query_ids]
        return self.options.scores(self, queries, [self.document_text(doc) for doc in doc_ids])

    def golden(self) -> tuple[float, float]:
        """Both documents as any other pair."""
        better, worse = self.options.scores(self, [GOLDEN_QUERY] * 2, [GOLDEN_DOCUMENT, ABSURD_DOCUMENT])
        return float(better), float(worse)


class YesNo(Scoring):
    """Is the document relevant? The log-odds of "yes" against "no".

    `log p(yes) - log p(no)`, p of the next token: unbounded, so that a sure teacher still tells documents apart.
    `template` is the question, in which {query} and {document} stand for the texts; `qwen3_reranker` and
    `bge_reranker_gemma` ask as the models of that name were trained to be asked, labels and all (they want
    `chat: false`). BGE's own score is the logit of Yes alone; here it is against No, as of any other model.

    Source: Nogueira et al. 2020, "Document Ranking with a Pretrained Sequence-to-Sequence Model", for decoders Zhang et
    al. 2025, "Qwen3 Embedding".
    """

    kind: Literal["yes_no"] = "yes_no"
    template: str = (
        "Does the document answer the query, or is it relevant to it? Answer with yes or no only.\n\n"
        "Query: {query}\n\nDocument: {document}\n\nRelevant:"
    )
    yes: str = Field("yes", min_length=1, description="as the answer begins; plain text may want a space before it")
    no: str = Field("no", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        named = TEMPLATES.get(given.get("template", "")) if isinstance(given, dict) else None
        return given if named is None else {**dict(named.labels), **given, "template": named.template}

    @field_validator("template")
    @classmethod
    def _names_both(cls, template: str) -> str:
        return checked(template)

    @model_validator(mode="after")
    def _in_its_own_words(self) -> Self:
        if self.chat and any(self.template == named.template for named in TEMPLATES.values()):
            raise ValueError("the template is all that the model wants to read; set chat: false")
        return self

    def scores(self, asker: Scorer, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Log-odds."""
        logs = asker.model.choices(prompts_of(asker, self.template, queries, documents), [self.yes, self.no])
        return logs[:, 0] - logs[:, 1]


class MonoT5(YesNo):
    """monoT5: the log-odds of "true" against "false" by a T5 that was trained to say so.

    Source: Nogueira et al. 2020, "Document Ranking with a Pretrained Sequence-to-Sequence Model".
    """

    kind: Literal["monot5"] = "monot5"  # type: ignore[assignment]
    template: str = "Query: {query} Document: {document} Relevant:"
    chat: bool = False
    yes: str = "true"
    no: str = "false"


class Graded(Scoring):
    """How relevant is the document? The expected value over the labels: `sum_l p(l) value(l)`, p over the labels alone.

    Source: Zhuang et al. 2024, "Beyond Yes and No: Improving Zero-Shot LLM Rankers via Scoring Fine-Grained Relevance
    Labels".
    """

    kind: Literal["graded"] = "graded"
    template: str = (
        "How relevant is the document to the query? Answer with one number from 0 (not at all) to {highest} "
        "(perfectly) only.\n\nQuery: {query}\n\nDocument: {document}\n\nRelevance:"
    )
    labels: tuple[str, ...] = Field(("0", "1", "2", "3"), min_length=2, description="from the lowest to the highest")

    @field_validator("template")
    @classmethod
    def _names_both(cls, template: str) -> str:
        return checked(template)

    @field_validator("labels")
    @classmethod
    def _apart(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels) or "" in labels:
            raise ValueError(f"expected labels that differ, got {list(labels)}")
        return labels

    def scores(self, asker: Scorer, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Expected values, from 0 to the number of labels less one."""
        template = self.template.replace("{highest}", self.labels[-1])
        logs = asker.model.choices(prompts_of(asker, template, queries, documents), list(self.labels))
        shares = np.exp(logs - logs.max(axis=1, keepdims=True))
        return (shares @ np.arange(len(self.labels)) / shares.sum(axis=1)).astype(np.float32)


class QueryLikelihood(Scoring):
    """How likely is the query, once the document was read? The mean log-probability of its tokens.

    Source: Sachan et al. 2022, "Improving Passage Retrieval with Zero-Shot Question Generation" (UPR).
    """

    kind: Literal["query_likelihood"] = "query_likelihood"
    template: str = "Passage: {document}\n\nPlease write a question based on this passage.\n\nQuestion:"
    chat: bool = False
    space: bool = Field(True, description="a space between the prompt and the query, as plain text has it")

    @field_validator("template")
    @classmethod
    def _names_the_document(cls, template: str) -> str:
        return checked(template, ("document",))

    def scores(self, asker: Scorer, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Mean log-probabilities, at most 0."""
        prompts = prompts_of(asker, self.template, queries, documents)
        return asker.model.likelihood(prompts, [f" {query}" if self.space else query for query in queries])


class Named(NamedTuple):
    """A question as a model was trained to be asked it.

    Attributes:
        template: the whole of what it reads.
        yes: as its answer begins where the document is relevant.
        no: and where it is not.
    """

    template: str
    yes: str = "yes"
    no: str = "no"

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Options and their values."""
        return ("yes", self.yes), ("no", self.no)


TEMPLATES = {
    "qwen3_reranker": Named(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
        "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
    "bge_reranker_gemma": Named(
        "A: {query}\nB: {document}\nGiven a query A and a passage B, determine whether the passage contains an answer "
        "to the query by providing a prediction of either 'Yes' or 'No'.",
        yes="Yes",
        no="No",
    ),
}


def checked(template: str, names: Sequence[str] = ("query", "document")) -> str:
    """A template, once all texts have a place in it."""
    missing = [f"{{{name}}}" for name in names if f"{{{name}}}" not in template]
    if missing:
        raise ValueError(f"the template lacks {' and '.join(missing)}, where the texts go")
    return template


def prompts_of(asker: Scorer, template: str, queries: Sequence[str], documents: Sequence[str]) -> list[Prompt]:
    """The question about each pair of texts."""
    return [
        asker.prompt(filled(template, query=query, document=document))
        for query, document in zip(queries, documents, strict=True)
    ]


def filled(template: str, **texts: str) -> str:
    """A template with texts in its places; braces within the texts stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda found: texts.get(found[1], found[0]), template)


TEACHERS: dict[str, type[Any]] = {
    "yes_no": YesNo,
    "monot5": MonoT5,
    "graded": Graded,
    "query_likelihood": QueryLikelihood,
}
