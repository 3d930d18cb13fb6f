"""Late-interaction models, searched exactly."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from retrodistill.encoders import Encoder, MultiEncoder
from retrodistill.indexing.index import Index
from retrodistill.indexing.multivector import MultiVector
from retrodistill.retrieval.encoded import EncoderRetriever


class ColBERT(EncoderRetriever):
    """Exact MaxSim search by the vectors of a MultiVectorEncoder, or by those that an encoder has for tokens."""

    kind: Literal["colbert"] = "colbert"
    untrained: bool = Field(False, description="take the token vectors of a SentenceTransformer as they are")
    encoder_class: ClassVar[type[Encoder]] = MultiEncoder

    @property
    def exact_index(self) -> Index:
        """A multi-vector index that looks at every document."""
        return MultiVector()


RETRIEVERS = {"colbert": ColBERT}
