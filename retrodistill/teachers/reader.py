"""Readers: what a fusion-in-decoder T5 looks at while it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill import models
from retrodistill.encoders import Precision, autocast
from retrodistill.errors import InputError
from retrodistill.language.local import LocalModel, Transformers
from retrodistill.scores.orders import Order
from retrodistill.teachers.language import checked, filled
from retrodistill.teachers.ordering import Ordering

if TYPE_CHECKING:
    from torch import Tensor

    from retrodistill.collections import Collection
    from retrodistill.teachers.teacher import Window


class Reader(Ordering):
    """What a fusion-in-decoder T5 looks at as it begins to answer: cross-attention as a judgement.

    Each document is encoded with the query, all together are decoded over; a document's score is the cross-attention
    of the first answer token before the softmax, averaged over layers, heads and the document's tokens. Give the window
    room for all candidates: scores of one window share the decoder's state, those of several do not.

    Source: Izacard and Grave 2021, "Distilling Knowledge from Reader to Retriever for Question Answering"; the model,
    the same 2021, "Leveraging Passage Retrieval with Generative Models for Open Domain Question Answering".
    """

    argument: ClassVar[str | None] = "model"
    kind: Literal["reader"] = "reader"
    model: str = Field(min_length=1, description="a T5 of transformers, trained with fusion in the decoder")
    template: str = "question: {query} context: {document}"
    max_length: int = Field(250, ge=8, description="tokens of a query with a document")
    precision: Precision = "fp32"
    window: int = Field(100, ge=2, description="documents read together")
    stride: int = Field(100, ge=1, description="how far a window is from the next")
    read: Literal["scores", "borda", "reciprocal_rank", "expected_rank"] = "scores"

    @field_validator("template")
    @classmethod
    def _names_both(cls, template: str) -> str:
        return checked(template)

    def check(self) -> None:
        """Find the model."""
        models.locate(self.model)

    def open(self, collection: Collection) -> ReaderJudge:
        """Get ready to read; weights are loaded when first needed."""
        self.check()
        return ReaderJudge(self, collection)


class ReaderJudge:
    """A reader on one collection."""

    pairs_a_part = 1

    def __init__(self, options: Reader, collection: Collection) -> None:
        self.options = options
        self.collection = collection
        self._loaded = LocalModel(Transformers(model=options.model, precision=options.precision))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Weights, template, length and precision."""
        options = self.options
        asked = options.model_dump(include={"template", "max_length", "precision"})
        return {"kind": "reader", "weights": models.digest(options.model), **asked}

    def query_text(self, query_id: str) -> str:
        """The query."""
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id: str) -> str:
        """The document; its tokens are cut."""
        return self.collection.corpus.text(doc_id)

    @cached_property
    def model(self) -> Any:
        """The T5.

        Raises:
            InputError: it is none, or cannot be loaded.
        """
        model = self._loaded.model
        if not model.config.is_encoder_decoder or not hasattr(model, "decoder"):
            raise InputError(f"model {self.options.model!r} is no T5; a reader needs one, with encoder and decoder")
        return model

    def order(self, windows: Sequence[Window]) -> list[Order | None]:
        """Documents by falling cross-attention, and its values."""
        found: list[Order | None] = []
        for query, docs in windows:
            values = self._attention(self.query_text(query), [self.document_text(doc) for doc in docs])
            found.append(Order(tuple(np.argsort(-values, kind="stable").tolist()), tuple(values.tolist())))
        return found

    def _attention(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Cross-attention of the first answer token before the softmax, a mean a document: float32 (documents,)."""
        import torch

        prompts = [filled(self.options.template, query=query, document=document) for document in documents]
        length = self.options.max_length
        read = self._loaded.tokenizer(prompts, truncation=True, max_length=length, padding=True, return_tensors="pt")
        model, inputs = self.model, read.to(self.model.device)
        mask = inputs["attention_mask"].bool()
        with torch.inference_mode(), autocast(str(model.device), self.options.precision), _looks(model) as looks:
            states = model.encoder(**inputs).last_hidden_state[mask]
            start = torch.full((1, 1), int(model.config.decoder_start_token_id), device=model.device)
            model.decoder(input_ids=start, encoder_hidden_states=states[None], use_cache=False)
        by_token = torch.stack([_products(q, k, model.config.num_heads) for q, k in looks]).mean(dim=(0, 1))
        document = torch.arange(len(documents), device=mask.device)[:, None].expand_as(mask)[mask]
        sums = torch.zeros(len(documents), device=mask.device).index_add_(0, document, by_token)
        return (sums / mask.sum(dim=1)).cpu().numpy()


@contextmanager
def _looks(model: Any) -> Iterator[list[list[Tensor]]]:
    """Gathers queries and keys of the cross-attention of each decoder layer as they are computed."""
    found: list[list[Tensor]] = []
    hooks = []
    for block in model.decoder.block:
        attention, pair = block.layer[1].EncDecAttention, list[Any]()
        found.append(pair)
        for part in (attention.q, attention.k):
            hooks.append(part.register_forward_hook(lambda _, __, output, pair=pair: pair.append(output.float())))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _products(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Scores of every head for the one decoder position: (heads, tokens). T5 does not scale them."""
    q, k = (side.reshape(side.shape[1], heads, -1).transpose(0, 1) for side in (queries, keys))
    return (q @ k.transpose(1, 2)).squeeze(1)


TEACHERS = {"reader": Reader}
