"""Dense encoders: one vector a text, by a SentenceTransformer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from retrodistill.emissions import Emission
from retrodistill.encoders.common import Role
from retrodistill.encoders.encoder import Encoder
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from retrodistill.packed.sentences import PackedSentences
    from retrodistill.packed.tokens import Tokens


class DenseEncoder(Encoder):
    """One vector a text, float32, of unit length where the model compares by cosine."""

    emits: ClassVar[Emission] = "dense"
    model_type: ClassVar[str] = "SentenceTransformer"

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return int(self.model.get_embedding_dimension())

    @property
    def similarity(self) -> Literal["cosine", "dot"]:
        """How the model compares vectors."""
        name = self.model.similarity_fn_name
        if name not in ("cosine", "dot"):
            raise InputError(f"model {self.name!r} compares vectors by {name!r}; only cosine and dot can be searched")
        return name

    @cached_property
    def packed(self) -> PackedSentences | None:
        """The model without padding, where that is known to give the same vectors."""
        from retrodistill.packed.sentences import PackedSentences

        return PackedSentences.of(self.model, self.precision)

    def computed(self, packed: PackedSentences, tokens: Tokens, role: Role) -> Tensor:
        """Shape (texts, dimensions)."""
        return packed.vectors(tokens, normalize=self.similarity == "cosine")

    def encode_batch(self, texts: Sequence[str], role: Role) -> np.ndarray:
        """Shape (texts, dimensions)."""
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        options: dict[str, Any] = {} if self.prompts[role] is None else {"prompt": self.prompts[role]}
        vectors = encode(
            list(texts),
            batch_size=len(texts),
            normalize_embeddings=self.similarity == "cosine",
            convert_to_tensor=True,
            show_progress_bar=False,
            **options,
        )
        return vectors.float().cpu().numpy()
