"""Learned sparse encoders: a few weighted terms a text, by a SparseEncoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from retrodistill.emissions import Emission, SparseVectors
from retrodistill.encoders.common import Role
from retrodistill.encoders.encoder import Encoder
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from retrodistill.packed.terms import PackedTerms
    from retrodistill.packed.tokens import Tokens


class SpladeEncoder(Encoder):
    """Terms and their weights, as SparseEncoder.encode gives them.

    SPLADE heads are computed without their logits (`splade_head.fuse`); whatever else a SparseEncoder is made of, such
    as the static weights of inference-free queries, is the library's own.

    Args:
        model: a folder or a Hub name.
        query_top_k: terms kept of a query, the heaviest; as many as the model says where None.
        document_top_k: terms kept of a document.
        options: as `Encoder` has them.
    """

    emits: ClassVar[Emission] = "sparse"
    model_type: ClassVar[str] = "SparseEncoder"
    top_k: Mapping[Role, int | None] = {"query": None, "document": None}

    def __init__(
        self, model: str, *, query_top_k: int | None = None, document_top_k: int | None = None, **options: Any
    ) -> None:
        super().__init__(model, **options)
        self.top_k = {"query": query_top_k, "document": document_top_k}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides a vector."""
        return {**super().identity, "top_k": self.top_k}

    @cached_property
    def model(self) -> Any:
        """The SparseEncoder itself, its heads fused.

        Raises:
            InputError: it compares vectors by anything but their inner product.
        """
        from retrodistill.encoders.splade_head import fuse

        model = super().model
        if model.similarity_fn_name != "dot":
            raise InputError(
                f"model {self.name!r} compares sparse vectors by {model.similarity_fn_name!r}; only dot can be searched"
            )
        fuse(model)
        return model

    @cached_property
    def dimensions(self) -> int:
        """Size of the vocabulary."""
        return int(self.model.encode_document([""], convert_to_sparse_tensor=False, show_progress_bar=False).shape[-1])

    @cached_property
    def packed(self) -> PackedTerms | None:
        """The model without padding, where that is known to give the same weights."""
        from retrodistill.packed.terms import PackedTerms

        return PackedTerms.of(self.model, self.precision)

    def computed(self, packed: PackedTerms, tokens: Tokens, role: Role) -> Tensor:
        """The weight of each term, shape (texts, terms)."""
        return packed.weights(tokens)

    def emitted(self, made: Tensor, role: Role) -> SparseVectors:
        """The terms that have a weight, the heaviest where only so many are kept.

        Raises:
            InputError: a weight is negative.
        """
        import torch
        from sentence_transformers.util import select_max_active_dims

        kept = self.top_k[role]
        weights = select_max_active_dims(made.float(), self.model.max_active_dims if kept is None else kept)
        if (weights < 0).any():
            raise InputError(f"model {self.name!r} gives a term of a {role} a weight below 0; an index needs >= 0")
        rows, terms = weights.nonzero(as_tuple=True)
        return SparseVectors(
            lengths=torch.bincount(rows, minlength=len(weights)).cpu().numpy(),
            terms=terms.int().cpu().numpy(),
            weights=weights[rows, terms].cpu().numpy(),
            dimensions=weights.shape[1],
        )

    def encode_batch(self, texts: Sequence[str], role: Role) -> SparseVectors:
        """The terms that have a weight."""
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        options: dict[str, Any] = {} if self.prompts[role] is None else {"prompt": self.prompts[role]}
        return self.emitted(
            encode(
                list(texts),
                batch_size=len(texts),
                convert_to_sparse_tensor=False,
                max_active_dims=self.top_k[role],
                show_progress_bar=False,
                **options,
            ),
            role,
        )
