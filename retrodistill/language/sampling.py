"""Answers that are drawn: each by a number of its own, so that no batch decides what is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor


class Sampling(BaseModel):
    """How the next token is drawn; `temperature: 0` takes the likeliest.

    Source: Fan et al. 2018, "Hierarchical Neural Story Generation" (top-k); Holtzman et al. 2020, "The Curious Case of
    Neural Text Degeneration" (top-p).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, ge=0)
    top_k: int | None = Field(10, ge=1, description="of the likeliest tokens; all where null")
    top_p: float = Field(1.0, gt=0, le=1, description="of the tokens that make up so much of the probability")


class Drawn:
    """Turns logits into such that their maximum is a draw: Gumbel noise is added to what is left of them.

    A processor of transformers' `generate`, called once a step; each text has a generator of its own.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        import torch

        self.sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits (texts, vocabulary) with noise; -inf for tokens that are not drawn from."""
        import torch

        if self.sampling.temperature == 0:
            return scores
        logits = scores.float() / self.sampling.temperature
        if self.sampling.top_k is not None:
            least = logits.topk(min(self.sampling.top_k, logits.shape[1]), dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.sampling.top_p < 1:
            ranked, places = logits.sort(dim=1, descending=True)
            shares = ranked.softmax(dim=1)
            beyond = shares.cumsum(dim=1) - shares >= self.sampling.top_p
            logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, places, beyond), -torch.inf)
        uniform = torch.stack([torch.rand(logits.shape[1], generator=own) for own in self._generators])
        return logits - (-uniform.to(logits.device).clamp_min(1e-20).log()).log()
