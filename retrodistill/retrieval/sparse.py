"""Learned sparse retrievers, searched exactly."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from retrodistill.encoders import Encoder, SpladeEncoder
from retrodistill.indexing.index import Index
from retrodistill.indexing.inverted import Inverted
from retrodistill.retrieval.encoded import EncoderRetriever


class Splade(EncoderRetriever):
    """Exact search by the weighted terms of a SparseEncoder; documents that share no term are not found.

    `query_top_k` and `document_top_k` keep the heaviest terms of each text; the model's own number where None.
    """

    kind: Literal["splade"] = "splade"
    encoder_class: ClassVar[type[Encoder]] = SpladeEncoder
    query_top_k: int | None = Field(None, ge=1)
    document_top_k: int | None = Field(None, ge=1)

    @property
    def exact_index(self) -> Index:
        """An inverted index."""
        return Inverted()


RETRIEVERS = {"splade": Splade}
