"""Losses over a query's whole list: the student's distribution over documents is drawn to the teacher's."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from retrodistill.losses.batch import ScoreBatch, masked_log_softmax
from retrodistill.losses.targets import Tempered


class Divergence(Tempered):
    """A distance of two distributions, `p = softmax(t / T_t)` and `q = softmax(s / T_s)`, over judged documents.

    A document's share in both is multiplied with the certainty of its score, where scores have one, before they are
    brought to 1: what is uncertain moves little, and where the student says what the teacher says the distance is 0.
    """

    heeds: ClassVar[bool] = True

    def entries(self, batch: ScoreBatch) -> Tensor:
        """What a query's distributions are over, bool (Q, D)."""
        return batch.taught

    def said(self, batch: ScoreBatch) -> Tensor:
        """The teacher's scores, (Q, D); anything outside the entries."""
        return batch.teacher

    def certainty(self, batch: ScoreBatch) -> Tensor | None:
        """How sure what is said is, (Q, D)."""
        return batch.certainty

    @abstractmethod
    def between(self, teacher: Tensor, student: Tensor) -> Tensor:
        """What each entry adds, from log-probabilities (Q, D)."""

    def terms(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """One divergence a query; fewer than two documents teach nothing."""
        mask = self.entries(batch)
        teacher = self.cooled_target(self.said(batch)).masked_fill(~mask, 0.0)
        student = self.cooled(batch.student)
        if (certainty := self.certainty(batch)) is not None:
            teacher, student = teacher + certainty.log(), student + certainty.log()
        parts = self.between(masked_log_softmax(teacher, mask), masked_log_softmax(student, mask))
        return parts.masked_fill(~mask, 0.0).sum(-1), mask.sum(-1) >= 2


class SkewKL(Divergence):
    """The options of Kullback-Leibler divergences: which way, and how much of the one is mixed into the other."""

    direction: Literal["forward", "reverse"] = Field("forward", description="KL(p || q), or KL(q || p)")
    skew: float = Field(0.0, ge=0, lt=1, description="share of the first distribution that is mixed into the second")

    def between(self, teacher: Tensor, student: Tensor) -> Tensor:
        """`a (log a - log b)`, in nats."""
        first, second = (teacher, student) if self.direction == "forward" else (student, teacher)
        return first.exp() * (first - mixture(first, second, self.skew))


class KL(SkewKL):
    r"""`KL(softmax(t / T_t) || softmax(s / T_s))` over a query's judged candidates, in nats.

    With cosine students, whose scores span little, a low `student_temperature` such as 0.05 lets the distribution be
    as sharp as the teacher's. A list of fewer than two judged documents teaches nothing and is not counted.

    `direction: reverse` is `KL(q || p)`: the student may ignore what the teacher likes, but not like what the teacher
    does not. `skew: a` measures against a mixture, `KL(p || a p + (1-a) q)` or `KL(q || a q + (1-a) p)`, which bounds
    the loss where one side is near zero; the paper has 0.1.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; as a ranking loss over candidates, e.g.
    Ren et al. 2021, "RocketQAv2"; reverse, Gu et al. 2024, "MiniLLM"; skewed, Ko et al. 2024, "DistiLLM". No factor T
    squared is applied: the two temperatures are apart.
    """

    kind: Literal["kl"] = "kl"


class InBatchKL(SkewKL):
    r"""`kl` over all documents of the batch that the teacher scored, other queries' among them.

    What the teacher scored are the candidates of each query; where queries have none in common, this is `kl`. Options
    as of `kl`.

    `unjudged: asked` has teachers that search, such as ColBERT, a bi-encoder or BM25, score every query against every
    document of each batch, as the paper does, from the vectors and indexes that they have; `score.combine` makes one of
    several over the documents of the batch. `unjudged: lowest` takes in every other document of the batch too, as good
    as the worst that the teacher judged for the query: no source found it, and a student that is told nothing of it may
    move it anywhere.

    Source: Lin et al. 2021, "In-Batch Negatives for Knowledge Distillation with Tightly-Coupled Teachers for Dense
    Retrieval" (TCT-ColBERT).
    """

    kind: Literal["in_batch_kl"] = "in_batch_kl"
    unjudged: Literal["left_out", "lowest", "asked"] = Field(
        "left_out", description="what becomes of documents without a score; asked: teachers that search score them"
    )

    @property
    def in_batch(self) -> bool:
        """Always."""
        return True

    def entries(self, batch: ScoreBatch) -> Tensor:
        """Everything judged, whoever it was mined for; with `lowest` everything, where anything is judged."""
        if self._asked(batch) is not None:
            return batch.valid
        judged = batch.valid & batch.judged
        return judged if self.unjudged == "left_out" else batch.valid & judged.any(-1, keepdim=True)

    def said(self, batch: ScoreBatch) -> Tensor:
        """The teacher's scores, and the lowest of a query where it has none."""
        if (whole := self._asked(batch)) is not None:
            return whole
        judged = batch.valid & batch.judged
        lowest = batch.teacher.masked_fill(~judged, torch.inf).min(-1, keepdim=True).values
        return torch.where(judged, batch.teacher, lowest)

    @property
    def asks_teachers(self) -> bool:
        """With `asked`."""
        return self.unjudged == "asked"

    def certainty(self, batch: ScoreBatch) -> Tensor | None:
        """As of candidates; of whole batches nothing is known."""
        return batch.certainty if self._asked(batch) is None else None

    def _asked(self, batch: ScoreBatch) -> Tensor | None:
        return batch.whole if self.asks_teachers else None


class JensenShannon(Divergence):
    r"""`beta KL(p || m) + (1 - beta) KL(q || m)`, with `m = beta p + (1 - beta) q`, over a query's judged candidates.

    Bounded (by ln 2 for `beta: 0.5`, where it is symmetric), so that a list on which teacher and student disagree
    utterly, as with a wrong judgement, does not drown the batch. Near 0, over beta it is `KL(p || q)`; near 1, over
    1 - beta, `KL(q || p)`.

    Source: Lin 1991, "Divergence Measures Based on the Shannon Entropy"; for distillation, Agarwal et al. 2024,
    "On-Policy Distillation of Language Models" (GKD).
    """

    kind: Literal["jensen_shannon"] = "jensen_shannon"
    beta: float = Field(0.5, gt=0, lt=1, description="share of the teacher in the mixture")

    def between(self, teacher: Tensor, student: Tensor) -> Tensor:
        """What each entry adds, in nats."""
        middle = mixture(teacher, student, self.beta)
        return self.beta * teacher.exp() * (teacher - middle) + (1 - self.beta) * student.exp() * (student - middle)


def mixture(first: Tensor, second: Tensor, share: float) -> Tensor:
    """`log(share * exp(first) + (1 - share) * exp(second))`."""
    if share == 0:
        return second
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share))


LOSSES = {"kl": KL, "in_batch_kl": InBatchKL, "jensen_shannon": JensenShannon}
