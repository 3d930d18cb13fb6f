"""Losses over a query's whole list that ask for its order or its shares, not for the teacher's scale."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from retrodistill.losses.batch import ScoreBatch, masked_log_softmax, masked_mean
from retrodistill.losses.ndcg import discounts
from retrodistill.losses.orders import shared_ranks, soft_ranks
from retrodistill.losses.targets import Targeted, Tempered


class ListNet(Tempered, Targeted):
    r"""`-sum_i softmax(t / T_t)_i log softmax(s / T_s)_i`: which document would be drawn first, by target and student.

    With a teacher the gradient is that of `kl`; with `target: labels` it is the listwise cross-entropy over graded
    labels, of which a low `teacher_temperature` leaves the best alone.

    Source: Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach" (top-one probabilities).
    """

    heeds: ClassVar[bool] = True
    kind: Literal["listnet"] = "listnet"

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """One cross-entropy a query; fewer than two documents teach nothing."""
        target, mask = self.wanted(batch)
        prior = batch.certainty.log() if self.target == "teacher" and batch.certainty is not None else 0.0
        shares = masked_log_softmax(self.cooled_target(target) + prior, mask).exp()
        logs = masked_log_softmax(self.cooled(batch.student) + prior, mask)
        return -(shares * logs).masked_fill(~mask, 0.0).sum(-1), mask.sum(-1) >= 2


class ADRMSE(Targeted):
    r"""`(r_i - r'_i)^2 / log2(1 + r_i)`, r the target's ranks and `r'_i = 1 + sum_j sigmoid((s_j - s_i) / T)`.

    The mean over a query's documents. The target's order alone counts, errors near the top most: made for the orders of
    listwise LLMs. Documents that tie share the mean of their ranks.

    Source: Schlatt et al. 2025, "Rank-DistiLLM: Closing the Effectiveness Gap Between Cross-Encoders and LLMs for
    Passage Re-Ranking".
    """

    kind: Literal["adr_mse"] = "adr_mse"
    temperature: float = Field(1.0, gt=0, description="of the student's ranks")

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """The mean over a query's documents; fewer than two have no order."""
        lists = batch.lists()
        target, mask = self.wanted(lists)
        wanted = shared_ranks(target, mask)
        errors = discounts(wanted) * (wanted - soft_ranks(lists.student.float() / self.temperature, mask)).square()
        return masked_mean(errors, mask), mask.sum(-1) >= 2


LOSSES = {"listnet": ListNet, "adr_mse": ADRMSE}
