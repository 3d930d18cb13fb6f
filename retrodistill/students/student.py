"""What every student offers to the training loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from retrodistill.encoders import Role
from retrodistill.indexing.index import Emission
from retrodistill.registry import Part

if TYPE_CHECKING:
    from torch import Tensor


class Student(Part):
    """A model that learns. It never asks which loss trains it."""

    emits: ClassVar[Emission]
    argument: ClassVar[str | None] = "model"
    model: str

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides what the student starts from."""

    @abstractmethod
    def load(self, device: str) -> Any:
        """The model to train, an `nn.Module`, as it is before training."""

    @abstractmethod
    def lengths(self, model: Any, texts: Sequence[str], role: Role) -> list[int]:
        """How many tokens of each text the model reads: what batches are packed by."""

    @abstractmethod
    def embed(self, model: Any, texts: Sequence[str], role: Role) -> Tensor:
        """What the model makes of texts, with gradients; first axis: texts."""

    @abstractmethod
    def score(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Scores of all pairs, shape (queries, documents)."""

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None:
        """Write the model as plain sentence-transformers, which loads it with nothing of ours installed."""
