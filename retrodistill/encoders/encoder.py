"""What every encoder is: a model, loaded when first used, that turns texts into vectors batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from retrodistill import models
from retrodistill.emissions import Emission, Vectors, columns_of, in_order, join
from retrodistill.encoders.common import Precision, Role, autocast, device_of, token_batches, tokens_a_batch
from retrodistill.encoders.loading import load_model, token_lengths
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from retrodistill.packed.tokens import Tokens


class Encoder(ABC):
    """Vectors of texts, by a sentence-transformers model; loaded when first used.

    A subclass names the kind of vector and the class of model, and says what the model makes of a batch.

    Args:
        model: a folder or a Hub name.
        max_length: tokens kept of a text; the model's own where None.
        precision: `bf16` computes matrix products in bfloat16.
        query_prompt: what stands before a query; the model's own prompt where None.
        document_prompt: what stands before a document; the model's own prompt where None.
        device: where to compute; a GPU where there is one when None.
    """

    emits: ClassVar[Emission]
    model_type: ClassVar[str]

    def __init__(
        self,
        model: str,
        *,
        max_length: int | None = None,
        precision: Precision = "fp32",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        device: str | None = None,
    ) -> None:
        self.expect(model)
        self.name = model
        self.max_length = max_length
        self.precision = precision
        self.prompts: dict[Role, str | None] = {"query": query_prompt, "document": document_prompt}
        self._device = device

    def expect(self, model: str) -> None:
        """Refuse a model of another class than this encoder reads."""
        models.expect_type(model, self.model_type)

    @classmethod
    def of(cls, loaded: Any, precision: Precision = "fp32") -> Self:
        """An encoder around a model in memory, such as one in training; without an identity, so nothing is kept."""
        encoder = cls.__new__(cls)
        encoder.name, encoder.max_length, encoder.precision = "in training", None, precision
        encoder.prompts = {"query": None, "document": None}
        encoder._device = str(loaded.device)
        encoder.__dict__["model"] = loaded
        return encoder

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides a vector; the device and the batches do not."""
        return {
            "kind": self.emits,
            "weights": models.digest(self.name),
            "max_length": self.max_length,
            "precision": self.precision,
            "query_prompt": self.prompts["query"],
            "document_prompt": self.prompts["document"],
        }

    @cached_property
    def device(self) -> str:
        """Where vectors are computed."""
        return device_of(self._device)

    @cached_property
    def model(self) -> Any:
        """The sentence-transformers model itself."""
        return load_model(self.name, self.model_type, self.max_length, self.device)

    @cached_property
    def parameters(self) -> int:
        """How many weights the model has."""
        return sum(weight.numel() for weight in self.model.parameters())

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """Width of a vector, or size of the vocabulary."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str], role: Role) -> Vectors:
        """What the model makes of a few texts of like length, in their order; called without gradients."""

    def encode(self, texts: Sequence[str], role: Role, done: Callable[[int], Any] | None = None) -> Any:
        """Vectors of texts, in their order.

        Args:
            texts: what to encode.
            role: queries and documents may have prompts of their own.
            done: called with the number of texts after each batch, for a progress bar.

        Returns:
            The kind of vectors the encoder `emits`: an array of shape (texts, dimensions), `SparseVectors` or
            `MultiVectors`.

        Raises:
            InputError: a vector is not finite.
        """
        import torch

        orders, parts = [], []
        with torch.inference_mode():
            if not texts:
                return self.encode_batch([""], role)[:0]
            for rows, vectors in self.batches(texts, role):
                self._refuse_endless([texts[row] for row in rows], vectors, role)
                orders.append(rows)
                parts.append(vectors)
                if done is not None:
                    done(len(rows))
        return in_order(join(parts), np.concatenate(orders))

    @property
    def packed(self) -> Any | None:
        """The model without padding, where that is known to give the same vectors; a subclass that knows says so."""
        return None

    def packed_for(self, role: Role) -> Any | None:
        """`packed`, where it gives the same vectors of texts of this role too."""
        return self.packed

    def batches(self, texts: Sequence[str], role: Role) -> Iterator[tuple[np.ndarray, Vectors]]:
        """Vectors of some rows of the texts at a time; called in inference mode.

        Without padding where that is known to give the same vectors, else by sentence-transformers itself.
        """
        packed = self.packed_for(role)
        if packed is None:
            for rows in token_batches(self.lengths(texts), tokens_a_batch(self.device)):
                with autocast(self.device, self.precision):
                    yield rows, self.encode_batch([texts[row] for row in rows], role)
            return
        from retrodistill.packed.parallel import each

        tokens = packed.tokens(texts, role, self.prompts[role])
        by_length = token_batches(tokens.lengths, tokens_a_batch(self.device))
        for rows, made in each(lambda rows: self.computed(packed, tokens.take(rows), role), by_length, self.device):
            yield rows, self.emitted(made, role)

    def computed(self, packed: Any, tokens: Tokens, role: Role) -> Any:
        """What the packed model makes of a batch: tensors, where they were computed."""
        return packed.vectors(tokens)

    def emitted(self, made: Any, role: Role) -> Vectors:
        """The kind of vectors that the encoder emits, of what it computed: the same, in memory that numpy sees."""
        return made.float().cpu().numpy()

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text the model reads."""
        return token_lengths(self.model, texts)

    def _refuse_endless(self, texts: list[str], vectors: Vectors, role: Role) -> None:
        if not _finite(vectors):
            bad = next(text for row, text in enumerate(texts) if not _finite(vectors[row : row + 1]))
            raise InputError(
                f"model {self.name!r} gives no finite vector for the {role} {bad[:80]!r}; its weights are damaged"
            )


def _finite(vectors: Vectors) -> bool:
    return all(bool(np.isfinite(column).all()) for column in columns_of(vectors).values())
