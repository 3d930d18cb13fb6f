"""Queries that a sequence-to-sequence model draws, as doc2query does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from retrodistill import models
from retrodistill.collections import Collection, MadeQuery, Texts
from retrodistill.encoders.common import Precision
from retrodistill.errors import InputError
from retrodistill.language import kept
from retrodistill.language.local import LocalModel, Transformers
from retrodistill.language.model import Prompt
from retrodistill.language.sampling import Sampling
from retrodistill.querying.maker import FAILED, QueryMaker, draw
from retrodistill.querying.written import cut_to_words

_AT_ONCE = 64


class Doc2Query(QueryMaker):
    """Queries drawn from a T5 or another encoder-decoder that was trained to ask what a document answers.

    Each query is drawn by a seed of its own, made of the run's seed, the document's text and the query's number: the
    same ones come whatever else is asked, in whatever batches, and are kept as they were said, so that none is drawn
    twice. Empty ones and those that a document or another has already are dropped, and counted.

    Source: Nogueira and Lin 2019, "From doc2query to docTTTTTquery" (top-k sampling with k = 10).
    """

    argument: ClassVar[str | None] = "model"
    version: ClassVar[int | None] = 1
    kind: Literal["doc2query"] = "doc2query"
    model: str = Field(min_length=1, description="a folder or Hub name of an encoder-decoder, safetensors")
    each: int = Field(1, ge=1, description="queries of a document")
    prefix: str = Field("", description="what the model was trained to see before a document")
    sampling: Sampling = Sampling()
    max_words: int = Field(300, ge=1, description="of a document; what is longer is cut")
    max_tokens: int = Field(64, ge=1, description="of a query")
    precision: Precision = "fp32"
    batch_tokens: int = Field(4_096, ge=1, description="tokens computed at once; changes memory, not what is found")

    def check(self) -> None:
        """Find the model, and see that it reads a text and then writes another.

        Raises:
            InputError: it is a GGUF file or a decoder, or a document is to have several of the likeliest query.
        """
        if self.model.endswith(".gguf"):
            raise InputError(
                f"doc2query reads encoder-decoders of transformers, not GGUF files; got {self.model!r}; a language "
                "model of that kind writes queries by {kind: written}"
            )
        config = models.read_json(models.locate(self.model) / "config.json")
        if not config.get("is_encoder_decoder"):
            raise InputError(
                f"doc2query needs an encoder-decoder such as a T5; {self.model!r} is a "
                f"{config.get('model_type', 'model of an unknown kind')}; decoders write queries by {{kind: written}}"
            )
        if self.sampling.temperature == 0 and self.each > 1:
            raise InputError(f"doc2query: at temperature 0 a document has one query; got each: {self.each}")

    @cached_property
    def _opened(self) -> LocalModel:
        self.check()
        return Transformers(model=self.model, precision=self.precision, batch_tokens=self.batch_tokens).open()

    def make(self, corpus: Texts, seed: int) -> Iterator[MadeQuery]:
        """As `stream`, of a collection without queries."""
        yield from self.stream(Collection("corpus", corpus, Texts.queries("none", []), {}), seed, Counter())

    def decided_by(self, collection: Collection, seed: int) -> dict[str, Any]:
        """As every maker's; the model's identity has its precision."""
        told = super().decided_by(collection, seed)
        for never_decides in ("precision", "batch_tokens"):
            told.pop(never_decides)
        return {**told, "model": self._opened.identity}

    def stream(self, collection: Collection, seed: int, dropped: Counter[str]) -> Iterator[MadeQuery]:
        """Queries of documents in an order that ids and seed decide, some documents at a time."""
        order = sorted(collection.corpus.ids, key=lambda doc: draw(seed, f"doc2query {doc}"))
        seen: set[str] = set()
        for start in range(0, len(order), _AT_ONCE):
            yield from self._drawn(order[start : start + _AT_ONCE], collection.corpus, seed, seen, dropped)

    def _drawn(
        self, docs: Sequence[str], corpus: Texts, seed: int, seen: set[str], dropped: Counter[str]
    ) -> Iterator[MadeQuery]:
        asked = [(doc, number) for doc in docs for number in range(self.each)]
        texts = {doc: self.prefix + cut_to_words(corpus.text(doc), self.max_words) for doc in docs}
        seeds = [draw(seed, f"{number} {texts[doc]}") >> 1 for doc, number in asked]  # torch takes 63 bits
        prompts = [Prompt(texts[doc]) for doc, _ in asked]
        answers = kept.draw(self._opened, prompts, self.max_tokens, self.sampling, seeds, "draw queries")
        for (doc, number), answer in zip(asked, answers, strict=True):
            if answer is None:
                dropped[FAILED] += 1
                continue
            text = " ".join(answer.split())
            if not text:
                dropped["empty"] += 1
            elif text.casefold() in seen:
                dropped["repeated"] += 1
            else:
                seen.add(text.casefold())
                yield MadeQuery(f"doc2query-{number}-{doc}", text, doc)


QUERIES = {"doc2query": Doc2Query}
