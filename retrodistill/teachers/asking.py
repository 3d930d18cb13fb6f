"""What every teacher shares that asks a language model: its texts, and the golden pair it must get right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from retrodistill.language.model import Message, Prompt
from retrodistill.registry import of
from retrodistill.teachers.golden import expect_better
from retrodistill.teachers.teacher import Teacher
from retrodistill.words import first_words

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.language.model import LanguageModel


class Asking(Teacher):
    """A teacher that asks a language model.

    `chat` puts the question as a turn of a chat, which instruction-tuned models expect; without, it is plain text, and
    the answer what comes next. Before anything is judged, the golden pair is: a model that likes a document about
    bridge railings better as an answer about colds judges nothing, unless `golden: false`.
    """

    argument: ClassVar[str | None] = "model"
    model: of("language_model")  # type: ignore[valid-type]
    chat: bool = True
    max_words: int = Field(300, ge=1, description="of a document; what is longer is cut")
    golden: bool = Field(True, description="refuse to judge where an absurd document is preferred")

    @property
    def label(self) -> str:
        """The kind and the model that is asked."""
        return f"{self.kind}:{self.model.label}"

    def check(self) -> None:
        """What the language model needs."""
        self.model.check()

    @property
    def question(self) -> dict[str, Any]:
        """What decides the prompt: the template, and all options but those of the model."""
        return self.model_dump(exclude={"model", "golden"})


class Asker:
    """A language model that judges the documents of one collection."""

    pairs_a_part = 64
    may_fail: ClassVar[bool] = True

    def __init__(self, options: Asking, collection: Collection) -> None:
        self.options = options
        self.collection = collection
        self.model: LanguageModel = options.model.open()
        self._sure = not options.golden

    @property
    def reasons(self) -> Sequence[str]:
        """Why the model failed at each of what was asked last, empty where it did not; nothing where it tells none."""
        found: Sequence[str] = getattr(self.model, "reasons", ())
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """The model's own, and the question."""
        return {"kind": self.options.kind, "asked": self.model.identity, **self.options.question}

    def query_text(self, query_id: str) -> str:
        """The query, whole."""
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id: str) -> str:
        """The document, cut to its first words."""
        return first_words(self.collection.corpus.text(doc_id), self.options.max_words)

    def be_sure(self) -> None:
        """Judge the golden pair, once, before anything else is judged.

        Raises:
            InputError: the absurd document is preferred.
        """
        if self._sure:
            return
        better, worse = self.golden()
        expect_better(self.options.label, better, worse, "it is too weak, or its template wrong for it")
        self._sure = True

    def golden(self) -> tuple[float, float]:
        """What the teacher gives the document that answers the golden query, and the absurd one."""
        raise NotImplementedError

    def prompt(self, text: str, system: str | None = None) -> Prompt:
        """A question as the model is asked it: in a chat, or as plain text."""
        if not self.options.chat:
            return Prompt(f"{system}\n\n{text}" if system else text)
        turns = [Message("system", system)] if system else []
        return Prompt((*turns, Message("user", text)))
