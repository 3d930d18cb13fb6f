"""Losses over an order as a chain of choices: the best document out of all, the next out of the rest, and so on.

Ties of the target are put in the order that the student likes least, so that documents which the target holds equal are
drawn together, and the order of columns does not matter.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from retrodistill.losses.batch import ScoreBatch, masked_log_softmax
from retrodistill.losses.orders import descending
from retrodistill.losses.targets import Targeted, Tempered


def choices(student: Tensor, order: Tensor, mask: Tensor) -> Tensor:
    """`-log P` of each choice under Plackett-Luce: of `order`, its k-th document out of it and all behind it.

    Args:
        student: scores, (Q, D).
        order: columns by rank, what is not in `mask` last, int64 (Q, D).
        mask: which documents there are to choose from.

    Returns:
        float32 (Q, D), by rank; 0 behind the last document.
    """
    present = mask.gather(-1, order)
    scores = student.float().gather(-1, order).masked_fill(~present, torch.finfo(torch.float32).min)
    remaining = torch.logcumsumexp(scores.flip(-1), dim=-1).flip(-1)
    return (remaining - scores).masked_fill(~present, 0.0)


class Chain(Targeted):
    """A weighted sum of the choices that make up the target's order."""

    temperature: float = Field(1.0, gt=0, description="of the student")

    @abstractmethod
    def shares(self, rank: Tensor, count: Tensor) -> Tensor:
        """What each choice is worth, from ranks (D,), from 1, and the lengths of lists (Q, 1)."""

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """One sum of choices a query; fewer than two documents have no order."""
        target, mask = self.wanted(batch)
        student = batch.student.float() / self.temperature
        losses = choices(student, descending(target, student, mask), mask)
        rank = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
        count = mask.sum(-1, keepdim=True)
        return (self.shares(rank, count) * losses).sum(-1), count.squeeze(-1) >= 2


class ListMLE(Chain):
    r"""`-sum_k log(exp(s_k) / sum_{l >= k} exp(s_l))`, k the target's ranks, s over T: the likelihood of its order.

    Every choice weighs the same, those at the tail too, and longer lists weigh more. Documents that the target holds
    equal are put in the order that the student likes least, which draws them together.

    Source: Xia et al. 2008, "Listwise Approach to Learning to Rank: Theory and Algorithm".
    """

    kind: Literal["listmle"] = "listmle"

    def shares(self, rank: Tensor, count: Tensor) -> Tensor:
        """One each."""
        return torch.ones_like(rank, dtype=torch.float32)


class PListMLE(Chain):
    r"""`listmle` with the k-th of n choices weighted by `2^(n - k) - 1`, over the sum: the top of the list first.

    The last choice, of one document out of one, has no weight. Ties are as in `listmle`.

    Source: Lan et al. 2014, "Position-Aware ListMLE: A Sequential Learning Process for Ranking".
    """

    kind: Literal["p_listmle"] = "p_listmle"

    def shares(self, rank: Tensor, count: Tensor) -> Tensor:
        """Powers of two over 2^n, for a list may be long."""
        weights = (torch.exp2(-rank.float()) - torch.exp2(-count.float())).clamp(min=0)
        total = weights.sum(-1, keepdim=True)
        return weights / total.where(total > 0, 1.0)


class PartialPlackettLuce(Chain):
    r"""`listmle` of the first `top` choices alone: the best documents in order, each against all that come behind.

    How the rest is ordered among itself does not matter. `top: 1` is a cross-entropy with the target's best document.
    Ties are as in `listmle`; what ties with the last of the first is chosen or not by the same rule.

    Source: Plackett 1975, "The Analysis of Permutations"; for retrievers, Kim and Baek 2025, "Syntriever: How to Train
    Your Retriever with Synthetic Data from LLMs".
    """

    kind: Literal["partial_plackett_luce"] = "partial_plackett_luce"
    top: int = Field(2, ge=1, description="how many choices count")

    def shares(self, rank: Tensor, count: Tensor) -> Tensor:
        """One each of the first."""
        return (rank <= self.top).float()


class PLD(Tempered):
    r"""`-sum_k softmax(t / T_t)_k log(exp(s_k) / sum_{l >= k} exp(s_l))`, k the ranks: labels first, then the teacher.

    One term for labels and teacher at once: relevant documents lead (by grade, then by the teacher), the rest follows
    in the teacher's order, and each choice weighs as much as the teacher believes in its document. A query without a
    relevant document takes the teacher's order whole. Ties are put in the order that the student likes least.

    Source: Bassam et al. 2025, "PLD: A Choice-Theoretic List-Wise Knowledge Distillation".
    """

    kind: Literal["pld"] = "pld"

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """One weighted sum of choices a query; fewer than two documents have no order."""
        mask = batch.taught
        student, teacher = self.cooled(batch.student), self.cooled_target(batch.teacher).masked_fill(~mask, 0.0)
        order = descending(teacher, student, mask)
        grades = batch.grades.masked_fill(~mask, 0.0).gather(-1, order)
        order = order.gather(-1, torch.argsort(grades, dim=-1, descending=True, stable=True))
        belief = masked_log_softmax(teacher, mask).exp().gather(-1, order)
        return (belief * choices(student, order, mask)).sum(-1), mask.sum(-1) >= 2


LOSSES = {"listmle": ListMLE, "p_listmle": PListMLE, "partial_plackett_luce": PartialPlackettLuce, "pld": PLD}
