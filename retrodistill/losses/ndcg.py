"""Losses that bound or smooth nDCG: the top of a list matters more than its tail."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from retrodistill.losses.batch import ScoreBatch, pair_mean, pair_weights
from retrodistill.losses.orders import differences, pairs, ranks, soft_ranks
from retrodistill.losses.targets import Targeted

Gains = Literal["exponential", "linear"]
Scheme = Literal["ndcg_loss1", "ndcg_loss2", "lambdarank", "ndcg_loss2++"]


def relative_gains(
    target: Tensor, mask: Tensor, *, scaled: bool, gains: Gains = "exponential", cutoff: int | None = None
) -> Tensor:
    """Each document's gain as a share of the ideal DCG, float32 (Q, K); 0 off `mask`.

    Args:
        target: grades or teacher's scores, (Q, K).
        mask: where they stand.
        scaled: bring a list's targets to [0, 1] first, least to greatest, for a teacher's scores have no zero.
        gains: 2^target - 1, as in the learning-to-rank papers, or the target itself, as trec_eval has it.
        cutoff: ideal DCG at this rank; None for the whole list.
    """
    if scaled:
        least = target.masked_fill(~mask, torch.inf).amin(-1, keepdim=True)
        span = target.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True) - least
        target = (target - least) / span.where(span > 0, 1.0)
    target = target.masked_fill(~mask, 0.0)
    gain = torch.exp2(target) - 1 if gains == "exponential" else target
    best = gain.sort(-1, descending=True).values[..., :cutoff]
    places = torch.arange(1, best.shape[-1] + 1, device=gain.device)
    ideal = (best * discounts(places)).sum(-1, keepdim=True)
    return gain / ideal.where(ideal > 0, 1.0)


def discounts(rank: Tensor) -> Tensor:
    """What a gain at a rank, from 1, is worth in DCG: `1 / log2(1 + rank)`."""
    return 1 / torch.log2(1.0 + rank)


def swaps(gains: Tensor, rank: Tensor) -> Tensor:
    """How much nDCG changes where documents i and j change places: gains and ranks (Q, K) to (Q, K, K)."""
    return differences(gains).abs() * differences(discounts(rank)).abs()


class Lambda(Targeted):
    r"""`w_ij log(1 + exp(-(s_i - s_j) / T))` over the pairs where the target puts i above j; w from gains and ranks.

    The mean over the pairs of which one document is among the student's first `cutoff`. With gain `G_i` (over the ideal
    DCG), discount `D(r) = 1 / log2(1 + r)` and the student's ranks `r`, the weights of the schemes are

    - `lambdarank`: `|G_i - G_j| |D(r_i) - D(r_j)|`;
    - `ndcg_loss2`: `|G_i - G_j| (D(|r_i - r_j|) - D(|r_i - r_j| + 1))`, a tighter bound of nDCG;
    - `ndcg_loss2++`: `mu` times the latter plus the former, the best in the paper;
    - `ndcg_loss1`: `G_i D(r_i)`, over all ordered pairs, each document with itself among them.

    A teacher's scores are scaled to [0, 1] in each list before they become gains; labels' grades are taken as they are.
    Where the student ties, it is taken to have the worse document first. A pair counts in the mean by the product of
    its documents' own weights.

    Source: Wang et al. 2018, "The LambdaLoss Framework for Ranking Metric Optimization"; in nats, where the paper has
    bits.
    """

    weighs: ClassVar[bool] = True
    heeds: ClassVar[bool] = True
    kind: Literal["lambda"] = "lambda"
    scheme: Scheme = "ndcg_loss2++"
    cutoff: int | None = Field(None, ge=1, description="the k of nDCG@k; none: the whole list")
    mu: float = Field(10.0, ge=0, description="share of ndcg_loss2 in ndcg_loss2++")
    gains: Gains = Field("exponential", description="2^grade - 1, or linear, as BEIR's nDCG")
    temperature: float = Field(1.0, gt=0, description="of the student")

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's pairs."""
        lists = batch.lists()
        target, mask = self.wanted(lists)
        student = (lists.student.float() / self.temperature).masked_fill(~mask, 0.0)
        rank = ranks(student, target, mask)
        gains = relative_gains(target, mask, scaled=self.target == "teacher", gains=self.gains, cutoff=self.cutoff)
        better = pairs(mask) & (differences(target) > 0)
        kept = mask.unsqueeze(-1) & mask.unsqueeze(-2) if self.scheme == "ndcg_loss1" else better
        if self.cutoff is not None:
            top = rank <= self.cutoff
            kept = kept & (top.unsqueeze(-1) | top.unsqueeze(-2))
        losses = self._weights(gains, rank) * softplus(-differences(student))
        return pair_mean(losses, kept, pair_weights(self.counting(lists))), better.any((-1, -2))

    def _weights(self, gains: Tensor, rank: Tensor) -> Tensor:
        if self.scheme == "ndcg_loss1":
            return (gains * discounts(rank)).unsqueeze(-1)
        if self.scheme == "lambdarank":
            return swaps(gains, rank)
        gap = differences(rank).abs().clamp(min=1)
        tighter = differences(gains).abs() * (discounts(gap) - discounts(gap + 1))
        return tighter if self.scheme == "ndcg_loss2" else self.mu * tighter + swaps(gains, rank)


class ApproxNDCG(Targeted):
    r"""`1 - sum_i G_i / log2(1 + r_i)`, with `r_i = 1 + sum_j sigmoid((s_j - s_i) / T)`: nDCG made smooth.

    A low temperature is near to nDCG and nearly flat; a high one is smooth and far from it. Not convex: start from a
    student that ranks already. A teacher's scores are scaled to [0, 1] in each list before they become gains. A list
    whose targets are all equal says nothing and is not counted.

    Source: Qin et al. 2010, "A General Approximation Framework for Direct Optimization of Information Retrieval
    Measures"; Bruch et al. 2019, "Revisiting Approximate Metric Optimization in the Age of Deep Neural Networks".
    """

    kind: Literal["approx_ndcg"] = "approx_ndcg"
    temperature: float = Field(0.1, gt=0, description="of the student's ranks")
    gains: Gains = Field("exponential", description="2^grade - 1, or linear, as BEIR's nDCG")

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """One smooth nDCG a query."""
        lists = batch.lists()
        target, mask = self.wanted(lists)
        gains = relative_gains(target, mask, scaled=self.target == "teacher", gains=self.gains)
        ndcg = (gains * discounts(soft_ranks(lists.student.float() / self.temperature, mask))).sum(-1)
        return 1 - ndcg, (pairs(mask) & (differences(target) > 0)).any((-1, -2))


LOSSES = {"lambda": Lambda, "approx_ndcg": ApproxNDCG}
