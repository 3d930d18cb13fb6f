"""What every student offers to the training loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from retrodistill import models
from retrodistill.emissions import Emission
from retrodistill.encoders import tokens
from retrodistill.registry import Part, code_of

if TYPE_CHECKING:
    from torch import Tensor

    from retrodistill.students.embedded import Embedded

Tokens = Sequence[np.ndarray]  # a text or a pair each: integers, whose last axis is the tokens that the model reads


class Penalty(NamedTuple):
    """What a student adds to the losses: its value, without the weight, and the weight at this point of training."""

    name: str
    value: Tensor
    weight: float


class Student(Part):
    """A model that learns. It never asks which loss trains it.

    Training tokenises queries and documents once (`tokenize`), makes of a batch's tokens what the model reads
    (`items`), has that embedded in chunks of like length (`embed`) and the whole scored (`scores`). A bi-encoder reads
    queries and documents; a cross-encoder overrides `items`, `costs` and `scores` to read pairs of them.
    """

    emits: ClassVar[Emission]
    scores_all_pairs: ClassVar[bool] = True  # false: a query is scored against its own documents alone
    argument: ClassVar[str | None] = "model"
    model: str

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides what the student starts from and how it is trained: weights and options."""
        return {**self.model_dump(exclude={"model"}), **code_of(self), "weights": models.digest(self.model)}

    @abstractmethod
    def load(self, device: str) -> Any:
        """The model to train, an `nn.Module`, as it is before training."""

    def reading(self, model: Any) -> dict[str, Any]:
        """Everything that decides what `tokenize` gives: students that share it share their tokens on disk."""
        return tokens.reading(model)

    def tokenize(self, model: Any, texts: Sequence[str], role: str) -> list[np.ndarray]:
        """The tokens that the model reads of each text, int32, prompt and truncation included, as its own `encode`."""
        return tokens.tokenize(model, texts, role)

    @abstractmethod
    def embed(self, model: Any, items: Tokens, role: str) -> Embedded:
        """What the model makes of a few items, with gradients; called with items of like length."""

    @abstractmethod
    def score(self, queries: Embedded, documents: Embedded) -> Tensor:
        """Scores of all pairs, shape (queries, documents)."""

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None:
        """Write the model as plain sentence-transformers, which loads it with nothing of ours installed."""

    def items(self, model: Any, queries: Tokens, documents: Tokens, own: np.ndarray) -> dict[str, Tokens]:
        """What is embedded for a batch, by role.

        Args:
            model: the model.
            queries: tokens of Q queries.
            documents: tokens of D documents.
            own: bool (Q, D), which documents stand against which query.
        """
        return {"query": queries, "document": documents}

    def costs(self, items: Mapping[str, Tokens], own: np.ndarray) -> np.ndarray:
        """Tokens that each query needs with its own documents, (Q,): what batches are cut by."""
        queries, documents = (np.array([item.shape[-1] for item in items[role]]) for role in ("query", "document"))
        return queries + own @ documents

    def scores(self, embedded: Mapping[str, Embedded], own: np.ndarray) -> Tensor:
        """The score matrix of a batch, float32 (Q, D); where `own` is false a cross-encoder has 0."""
        return self.score(embedded["query"], embedded["document"])

    def all_scores(self, embedded: Mapping[str, Embedded], own: np.ndarray) -> Sequence[tuple[float, Tensor]]:
        """Every score matrix that the losses are asked about, each with its weight.

        One, unless a student should be right in several ways at once, as with vectors that may be cut short.
        """
        return [(1.0, self.scores(embedded, own))]

    @property
    def looks_across(self) -> bool:
        """What it adds to the losses depends on the whole batch, which then cannot be cut into groups of queries."""
        return False

    def penalties(self, embedded: Mapping[str, Embedded], progress: float) -> Sequence[Penalty]:
        """What is added to the losses, such as a FLOPS regulariser.

        Args:
            embedded: of the whole batch, by role.
            progress: the share of the steps that are done, 0 to 1.
        """
        return ()

    def settle(self, model: Any) -> None:
        """Bring a model back to what it may be, after each step of the optimizer."""

    def observe(self, embedded: Embedded, role: str) -> dict[str, Tensor]:
        """Numbers of each query or document, (texts,), by name: of some texts of a step at a time."""
        return {}

    def watch(self, observed: Mapping[str, Sequence[float]], progress: float) -> dict[str, float]:
        """What is logged of a step beside the losses: the means of what was observed of its texts.

        Args:
            observed: by name the numbers of all texts of the step, each text once.
            progress: the share of the steps that are done, 0 to 1.

        Raises:
            InputError: the student has collapsed; with the reason and the remedy.
        """
        return {name: float(np.mean(numbers)) for name, numbers in observed.items()}
