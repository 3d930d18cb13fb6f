"""Orders of a list: ranks, exact and differentiable, and pairs. Columns' order never decides: ties have rules."""

from __future__ import annotations

import torch
from torch import Tensor


def differences(values: Tensor) -> Tensor:
    """Entry [..., i, j] is value i minus value j: (Q, K) to (Q, K, K)."""
    return values.unsqueeze(-1) - values.unsqueeze(-2)


def pairs(mask: Tensor) -> Tensor:
    """Entry [..., i, j] is true where i and j are different entries of `mask`: (Q, K) to (Q, K, K)."""
    apart = ~torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    return mask.unsqueeze(-1) & mask.unsqueeze(-2) & apart


def descending(keys: Tensor, ties: Tensor, mask: Tensor) -> Tensor:
    """Columns by descending key, int64 (Q, K); of equal keys the lower `ties` first, and what is not in `mask` last."""
    by_ties = torch.argsort(ties.detach().masked_fill(~mask, 0.0), dim=-1, stable=True)
    keys = keys.detach().masked_fill(~mask, -torch.inf).gather(-1, by_ties)
    return by_ties.gather(-1, torch.argsort(keys, dim=-1, descending=True, stable=True))


def ranks(keys: Tensor, ties: Tensor, mask: Tensor) -> Tensor:
    """The place of each column in `descending`, from 1, int64 (Q, K)."""
    return torch.argsort(descending(keys, ties, mask), dim=-1) + 1


def shared_ranks(keys: Tensor, mask: Tensor) -> Tensor:
    """Ranks from 1 by descending key; equal keys share the mean of their places. Float32 (Q, K), 1 off `mask`."""
    apart = differences(keys)
    before = ((apart < 0) + 0.5 * (apart == 0)).masked_fill(~pairs(mask), 0.0)
    return 1 + before.sum(-1)


def soft_ranks(scores: Tensor, mask: Tensor) -> Tensor:
    """Differentiable ranks: 1 plus the sum of `sigmoid(s_j - s_i)` over the others; 1 off `mask`. Float32 (Q, K).

    Source: Qin et al. 2010, "A General Approximation Framework for Direct Optimization of Information Retrieval
    Measures".
    """
    scores = scores.masked_fill(~mask, 0.0)
    return 1 + torch.sigmoid(-differences(scores)).masked_fill(~pairs(mask), 0.0).sum(-1)
