"""Late-interaction encoders: one vector a token, by a MultiVectorEncoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from retrodistill.emissions import Emission, MultiVectors
from retrodistill.encoders.common import Role
from retrodistill.encoders.encoder import Encoder


class MultiEncoder(Encoder):
    """A vector for each token that counts, float32: those of the model's scoring mask, query expansion included.

    `max_length` is of documents; a model that reads queries at a length of its own keeps it. The query vectors of a
    model that compares by `meanmaxsim` are divided by how many a query has, so that MaxSim of them is what it means.
    """

    emits: ClassVar[Emission] = "multi"
    model_type: ClassVar[str] = "MultiVectorEncoder"

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return int(self.model.get_embedding_dimension())

    def encode_batch(self, texts: Sequence[str], role: Role) -> MultiVectors:
        """As many vectors a text as its tokens count."""
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        options: dict[str, Any] = {} if self.prompts[role] is None else {"prompt": self.prompts[role]}
        found = encode(list(texts), batch_size=len(texts), show_progress_bar=False, **options)
        if role == "query" and self.model.similarity_fn_name == "meanmaxsim":
            found = [vectors / max(1, len(vectors)) for vectors in found]
        arrays = [vectors.float().cpu().numpy() for vectors in found]
        return MultiVectors(np.array([len(array) for array in arrays], dtype=np.int64), np.concatenate(arrays))
