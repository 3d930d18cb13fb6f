"""Dense students: bi-encoders, of any encoder or decoder, whole or cut from a larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill import models
from retrodistill.emissions import Emission
from retrodistill.encoders import load_model
from retrodistill.encoders.tokens import features
from retrodistill.errors import InputError
from retrodistill.students import assembly, cutting
from retrodistill.students.backbone import check_dimensions, check_shape, quicken, set_dropout
from retrodistill.students.embedded import Embedded
from retrodistill.students.lora import Lora, merge
from retrodistill.students.student import Student, Tokens

if TYPE_CHECKING:
    from torch import Tensor


class DenseStudent(Student):
    """A SentenceTransformer, or one made of any encoder or decoder of transformers.

    What is made of a bare model reads bare texts and gives unit vectors: the mean of the tokens' vectors, the last one
    of a decoder. Options that are left out stay as the model has them; those given are saved with it, so that it is
    used later as it was trained.

    `layers: 3` keeps three layers spread evenly, the first and the last among them (Sanh et al. 2019, "DistilBERT",
    take every other one); `layers: [0, 2, 5]` keeps those three.

    `dimensions: [256, 128]` has the first 256 and the first 128 numbers of a vector be vectors as well: the losses are
    the mean over them and the whole (Kusupati et al. 2022, "Matryoshka Representation Learning").
    """

    emits: ClassVar[Emission] = "dense"
    kind: Literal["dense"] = "dense"
    layers: cutting.Layers | None = None
    max_length: int | None = Field(None, ge=2, description="tokens kept of a text")
    dropout: float | None = Field(None, ge=0, lt=1)
    pooling: assembly.Pool | None = Field(None, description="how a text's vector is made of its tokens'")
    similarity: assembly.Similarity | None = Field(None, description="cosine: unit vectors; dot: of any length")
    query_prompt: str | None = Field(None, description="what stands before a query")
    document_prompt: str | None = Field(None, description="what stands before a document")
    append_eos: bool = Field(False, description="end texts with the end-of-sequence token, which decoders pool")
    dimensions: tuple[int, ...] = Field((), description="shorter vectors that are good too")
    lora: Lora | None = Field(None, description="learn in low-rank adapters, which are merged when done")

    _checked_layers = field_validator("layers")(cutting.checked)

    @field_validator("dimensions")
    @classmethod
    def _some_width(cls, dimensions: tuple[int, ...]) -> tuple[int, ...]:
        if any(width < 1 for width in dimensions) or len(set(dimensions)) < len(dimensions):
            raise ValueError(f"expected widths of 1 or more, each once, got {list(dimensions)}")
        return dimensions

    def check(self) -> None:
        """Find the model, and what the options need."""
        models.expect_type(self.model, "SentenceTransformer")
        if self.compares not in ("cosine", "dot"):
            raise InputError(
                f"model {self.model!r} compares vectors by {self.compares!r}; a student learns cosine or dot"
            )
        check_shape(self.model, lengths={"max_length": self.max_length}, layers=self.layers)
        check_dimensions(self.model, self.dimensions)
        if self.lora is not None:
            self.lora.check()

    @property
    def compares(self) -> str:
        """How vectors are compared: as asked for, else as the model says, else by cosine."""
        path = models.locate(self.model) / "config_sentence_transformers.json"
        own = models.read_json(path).get("similarity_fn_name") if path.is_file() else None
        return str(self.similarity or own or "cosine")

    def load(self, device: str) -> Any:
        """The SentenceTransformer, with the asked options.

        Raises:
            InputError: the model is none and none can be made of it, or it cannot be had with an option.
        """
        self.check()
        model = load_model(self.model, "SentenceTransformer", self.max_length, device)
        bare = not (models.locate(self.model) / "modules.json").is_file()
        if bare:
            assembly.read_plainly(model)
        if bare or self.similarity is not None:
            assembly.compare(model, "dot" if self.compares == "dot" else "cosine")
        if self.pooling is not None:
            assembly.pool(model, self.pooling, self.model)
        if self.append_eos:
            assembly.append_eos(model, self.model)
        prompts = {"query": self.query_prompt, "document": self.document_prompt}
        model.prompts |= {role: prompt for role, prompt in prompts.items() if prompt is not None}
        if max(self.dimensions, default=0) > (width := int(model.get_embedding_dimension())):
            raise InputError(f"dimensions: {list(self.dimensions)} are wider than the {width} of {self.model!r}")
        if self.layers is not None:
            cutting.cut(getattr(model[0], "auto_model", model[0]), self.layers, self.model)
        if self.dropout is not None:
            set_dropout(model, self.dropout)
        quicken(model)
        if self.lora is not None:
            self.lora.add(model)
        return model

    def embed(self, model: Any, tokens: Tokens, role: str) -> Embedded:
        """Vectors, shape (texts, dimensions), of unit length where the model compares by cosine."""
        vectors = model(features(model, tokens, role))["sentence_embedding"].float()
        return Embedded(_compared(vectors, model.similarity_fn_name))

    def score(self, queries: Embedded, documents: Embedded) -> Tensor:
        """Inner products."""
        return queries.values @ documents.values.T

    def all_scores(self, embedded: Mapping[str, Embedded], own: np.ndarray) -> Sequence[tuple[float, Tensor]]:
        """By the whole vectors, and by their first numbers alone where `dimensions` names some; all weigh the same."""
        whole = embedded["query"].values.shape[-1]
        matrices = [self.scores(embedded, own)]
        for width in (width for width in self.dimensions if width < whole):
            first = {
                role: Embedded(_compared(part.values[:, :width], self.compares)) for role, part in embedded.items()
            }
            matrices.append(self.scores(first, own))
        return [(1 / len(matrices), matrix) for matrix in matrices]

    def save(self, model: Any, folder: Path) -> None:
        """Modules, tokenizer, prompts and similarity; adapters become part of the weights."""
        merge(model)
        model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)


def _compared(vectors: Tensor, similarity: str) -> Tensor:
    """Vectors whose inner product is the similarity."""
    from torch.nn.functional import normalize

    return normalize(vectors, dim=-1) if similarity == "cosine" else vectors


STUDENTS = {"dense": DenseStudent}
