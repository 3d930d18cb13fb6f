"""Late-interaction encoders: one vector a token, by a MultiVectorEncoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from retrodistill import models
from retrodistill.emissions import Emission, MultiVectors
from retrodistill.encoders.common import Role
from retrodistill.encoders.encoder import Encoder
from retrodistill.encoders.loading import set_max_length
from retrodistill.encoders.token_vectors import late_interaction, skip_punctuation
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from retrodistill.packed.late import PackedTokenVectors
    from retrodistill.packed.tokens import Tokens


class MultiEncoder(Encoder):
    """A vector for each token that counts, float32: those of the model's scoring mask, query expansion included.

    `max_length` is of documents; a model that reads queries at a length of its own keeps it. The query vectors of a
    model that compares by `meanmaxsim` are divided by how many a query has, so that MaxSim of them is what it means.

    Args:
        model: a folder or a Hub name.
        untrained: the model is a SentenceTransformer, and the vectors that it has for tokens, at unit length, are used
            as they are; a document's punctuation has none, as in ColBERT.
        options: as every encoder has them.
    """

    emits: ClassVar[Emission] = "multi"
    model_type: ClassVar[str] = "MultiVectorEncoder"

    def __init__(self, model: str, *, untrained: bool = False, **options: Any) -> None:
        self.untrained = untrained
        super().__init__(model, **options)

    def expect(self, model: str) -> None:
        """A MultiVectorEncoder, or a SentenceTransformer to take token vectors of."""
        found = models.model_type(model)
        if self.untrained:
            models.expect_type(model, "SentenceTransformer")
        elif found == "SentenceTransformer":
            raise InputError(
                f"model {model!r} is a SentenceTransformer, expected a MultiVectorEncoder; `untrained: true` takes the "
                "vectors that it has for tokens as they are"
            )
        else:
            models.expect_type(model, self.model_type)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """As every encoder's, and whether it was trained for this."""
        return super().identity | ({"untrained": True} if self.untrained else {})

    @cached_property
    def model(self) -> Any:
        """The sentence-transformers model itself."""
        if not self.untrained:
            return super().model
        made = late_interaction(self.name, self.device)
        skip_punctuation(made, self.name)
        set_max_length(made, self.max_length, self.name)
        return made

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return int(self.model.get_embedding_dimension())

    @cached_property
    def packed(self) -> PackedTokenVectors | None:
        """The model without padding, where that is known to give the same vectors."""
        from retrodistill.packed.late import PackedTokenVectors

        return PackedTokenVectors.of(self.model, self.precision)

    def packed_for(self, role: Role) -> PackedTokenVectors | None:
        """It reads no queries whose [MASK]s their other tokens do not see."""
        return self.packed if self.packed is not None and self.packed.reads(role) else None

    def computed(self, packed: PackedTokenVectors, tokens: Tokens, role: Role) -> tuple[Tensor, Tensor]:
        """Vectors, (vectors, dimensions), text by text, and how many each text has, (texts,)."""
        return packed.vectors(tokens, role)

    def emitted(self, made: tuple[Tensor, Tensor], role: Role) -> MultiVectors:
        """As many vectors a text as its tokens count."""
        vectors, lengths = made
        if role == "query" and self.model.similarity_fn_name == "meanmaxsim":
            vectors = vectors / lengths.repeat_interleave(lengths)[:, None]
        return MultiVectors(lengths.cpu().numpy(), vectors.cpu().numpy())

    def encode_batch(self, texts: Sequence[str], role: Role) -> MultiVectors:
        """As many vectors a text as its tokens count."""
        import torch

        encode = self.model.encode_query if role == "query" else self.model.encode_document
        options: dict[str, Any] = {} if self.prompts[role] is None else {"prompt": self.prompts[role]}
        found = encode(list(texts), batch_size=len(texts), show_progress_bar=False, **options)
        lengths = torch.tensor([len(vectors) for vectors in found])
        return self.emitted((torch.cat(found).float().cpu(), lengths), role)
