"""Dense students: bi-encoders, whole or cut from a larger encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill import models
from retrodistill.emissions import Emission
from retrodistill.encoders import load_model
from retrodistill.encoders.tokens import features, reading, tokenize
from retrodistill.errors import InputError
from retrodistill.students.backbone import choose_attention, set_dropout
from retrodistill.students.embedded import Embedded
from retrodistill.students.student import Student, Tokens

if TYPE_CHECKING:
    from torch import Tensor, nn


class DenseStudent(Student):
    """A SentenceTransformer; `layers` cuts it to fewer layers first, as small students are made.

    `layers: 3` keeps three layers spread evenly, the first and the last among them (Sanh et al. 2019, "DistilBERT",
    take every other one); `layers: [0, 2, 5]` keeps those three.
    """

    emits: ClassVar[Emission] = "dense"
    kind: Literal["dense"] = "dense"
    layers: int | tuple[int, ...] | None = None
    max_length: int | None = Field(None, ge=2)
    dropout: float | None = Field(None, ge=0, lt=1)

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, layers: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        numbers = (layers,) if isinstance(layers, int) else layers
        if numbers is not None and (not numbers or min(numbers) < (1 if isinstance(layers, int) else 0)):
            raise ValueError(f"expected how many layers to keep, or which (from 0), got {layers!r}")
        if isinstance(layers, tuple) and len(set(layers)) < len(layers):
            raise ValueError(f"a layer can be kept once, got {layers!r}")
        return layers

    def check(self) -> None:
        """Find the model."""
        models.expect_type(self.model, "SentenceTransformer")

    @property
    def identity(self) -> dict[str, Any]:
        """Weights and cut."""
        return {**self.model_dump(exclude={"model"}), "weights": models.digest(self.model)}

    def load(self, device: str) -> Any:
        """The SentenceTransformer, cut and with the asked dropout.

        Raises:
            InputError: the model is none, or has not the layers asked for.
        """
        self.check()
        model = load_model(self.model, "SentenceTransformer", self.max_length, device)
        if model.similarity_fn_name not in ("cosine", "dot"):
            raise InputError(
                f"model {self.model!r} compares vectors by {model.similarity_fn_name!r}; a student learns cosine or dot"
            )
        encoder = getattr(model[0], "auto_model", model[0])  # a static embedding has none behind it
        if self.layers is not None:
            _cut(encoder, self.layers, self.model)
        if self.dropout is not None:
            set_dropout(model, self.dropout)
        choose_attention(model)
        return model

    def reading(self, model: Any) -> dict[str, Any]:
        """Tokenizer, length and prompts."""
        return reading(model)

    def tokenize(self, model: Any, texts: Sequence[str], role: str) -> list[np.ndarray]:
        """As the SentenceTransformer itself does."""
        return tokenize(model, texts, role)

    def embed(self, model: Any, tokens: Tokens, role: str) -> Embedded:
        """Vectors, shape (texts, dimensions), of unit length where the model compares by cosine."""
        from torch.nn.functional import normalize

        vectors = model(features(model, tokens, role))["sentence_embedding"].float()
        return Embedded(normalize(vectors, dim=-1) if model.similarity_fn_name == "cosine" else vectors)

    def score(self, queries: Embedded, documents: Embedded) -> Tensor:
        """Inner products."""
        return queries.values @ documents.values.T

    def save(self, model: Any, folder: Path) -> None:
        """Modules, tokenizer, prompts and similarity."""
        model.save_pretrained(str(folder), safe_serialization=True)


def _cut(encoder: Any, layers: int | tuple[int, ...], name: str) -> None:
    """Keep some layers of a BERT-like encoder, in place."""
    import torch
    from torch import nn

    owner = next((part for part in (getattr(encoder, "encoder", None), getattr(encoder, "transformer", None), encoder)
                  if part is not None and _stack(part) is not None), None)  # fmt: skip
    attribute = None if owner is None else _stack(owner)
    if owner is None or attribute is None:
        raise InputError(
            f"model {name!r}: no stack of layers is known in a {type(encoder).__name__}; leave `layers` out"
        )
    stack: nn.ModuleList = getattr(owner, attribute)
    kept = _spread(layers, len(stack)) if isinstance(layers, int) else layers
    if (isinstance(layers, int) and layers > len(stack)) or max(kept) >= len(stack):
        raise InputError(
            f"layers: {layers!r} asks for more than the {len(stack)} layers of {name!r} (0 to {len(stack) - 1})"
        )
    setattr(owner, attribute, nn.ModuleList([stack[number] for number in kept]))
    encoder.config.num_hidden_layers = len(kept)
    if getattr(encoder.config, "layer_types", None):
        encoder.config.layer_types = [encoder.config.layer_types[number] for number in kept]
    with torch.device("meta"):
        loaded = type(encoder)(encoder.config)
    # Some models' first layer is unlike the others (ModernBERT) or holds what all share (T5).
    if loaded.state_dict().keys() != encoder.state_dict().keys():
        raise InputError(
            f"layers: {layers!r} would not load again: the first layer of {name!r} is unlike the others; keep layer 0"
        )


def _stack(part: nn.Module) -> str | None:
    from torch import nn

    return next(
        (name for name in ("layer", "layers", "block") if isinstance(getattr(part, name, None), nn.ModuleList)), None
    )


def _spread(count: int, total: int) -> tuple[int, ...]:
    """`count` of `total` layers, the last always among them, the first too when there are two or more."""
    if count == 1:
        return (total - 1,)
    return tuple(round(place * (total - 1) / (count - 1)) for place in range(count))


STUDENTS = {"dense": DenseStudent}
