"""Late-interaction models, searched exactly."""

from __future__ import annotations

from typing import ClassVar, Literal

from retrodistill.encoders import Encoder, MultiEncoder
from retrodistill.indexing.index import Index
from retrodistill.indexing.multivector import MultiVector
from retrodistill.retrieval.encoded import EncoderRetriever


class ColBERT(EncoderRetriever):
    """Exact MaxSim search by the vectors of a MultiVectorEncoder."""

    kind: Literal["colbert"] = "colbert"
    encoder_class: ClassVar[type[Encoder]] = MultiEncoder

    @property
    def exact_index(self) -> Index:
        """A multi-vector index that looks at every document."""
        return MultiVector()


RETRIEVERS = {"colbert": ColBERT}
