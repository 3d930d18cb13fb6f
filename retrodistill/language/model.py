"""What a teacher asks of a language model, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """What a model reads."""

    messages: tuple[Message, ...] | str


class LanguageModel(Protocol):
    """A model opened."""

    identity: dict[str, Any]

    def choices(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """Log-probabilities of the choices' first tokens, float32 (prompts, choices); a NaN row where that failed."""

    def likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> np.ndarray:
        """Mean log-probability of a continuation's tokens, float32 (n,); NaN where that failed."""

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[str | None]:
        """Answers in words; None where that failed."""
