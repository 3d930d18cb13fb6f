"""Bi-encoders, searched exactly."""

from __future__ import annotations

from typing import ClassVar, Literal

from retrodistill.encoders import DenseEncoder, Encoder
from retrodistill.indexing.dense import Flat
from retrodistill.indexing.index import Index
from retrodistill.retrieval.encoded import EncoderRetriever


class Dense(EncoderRetriever):
    """Exact search by the vectors of a SentenceTransformer."""

    kind: Literal["dense"] = "dense"
    encoder_class: ClassVar[type[Encoder]] = DenseEncoder

    @property
    def exact_index(self) -> Index:
        """A flat index."""
        return Flat()


RETRIEVERS = {"dense": Dense}
