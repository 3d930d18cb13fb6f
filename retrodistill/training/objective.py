"""One training step: texts to vectors to a score matrix to losses, and back, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from retrodistill.encoders import TOKENS_A_BATCH, Precision, Role, autocast, token_batches
from retrodistill.errors import InputError
from retrodistill.losses.batch import Loss, ScoreBatch

if TYPE_CHECKING:
    from retrodistill.students.student import Student
    from retrodistill.training.lists import Batch


class Objective:
    """The weighted sum of losses of a student on a batch, and its gradient.

    The gradient is the same however a batch is computed; what differs is what is held in memory:

    - a batch within `max_tokens` is computed at once;
    - a larger one, where no loss looks at other queries' documents, goes through in groups of whole queries;
    - otherwise through a gradient cache: vectors first, without their graphs, then the loss's gradient at the vectors,
      then each chunk of texts again with its graph (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size
      under Memory Limited Setup"), with the same dropout.

    Args:
        student: how texts are embedded and scored.
        model: its model, on its device.
        losses: what is summed.
        precision: of matrix products; losses are always float32.
        max_tokens: how many tokens may hold gradients at once.

    Attributes:
        progress: share of the training that is done, from 0 to 1; weights may follow it.
    """

    def __init__(
        self, student: Student, model: Any, losses: Sequence[Loss], *, precision: Precision, max_tokens: int
    ) -> None:
        self.student = student
        self.model = model
        self.losses = dict(zip(_names(losses), losses, strict=True))
        self.precision = precision
        self.max_tokens = max_tokens
        self.progress = 0.0
        self.device = str(model.device)

    @property
    def in_batch(self) -> bool:
        """Some loss looks at other queries' documents."""
        return any(loss.in_batch for loss in self.losses.values())

    def backward(self, batch: Batch, scale: float = 1.0) -> dict[str, float]:
        """Add the gradient of `scale` times the sum to the model's.

        Returns:
            The sum as `loss`, each loss unweighted by name, and `NAME_without_entries`, 1 where it had none.

        Raises:
            InputError: a loss is not finite, named.
        """
        query_tokens = self.student.lengths(self.model, batch.queries, "query")
        document_tokens = self.student.lengths(self.model, batch.documents, "document")
        counts = self._counts(batch)
        if sum(query_tokens) + sum(document_tokens) <= self.max_tokens:
            parts = self._direct(batch, counts, scale)
        elif self.in_batch:
            parts = self._cached(batch, counts, scale)
        else:
            parts = dict.fromkeys(self.losses, 0.0)
            for group in batch.split(query_tokens, document_tokens, self.max_tokens):
                for name, value in self._direct(group, counts, scale).items():
                    parts[name] += value
        total = sum(self.losses[name].weight_at(self.progress) * value for name, value in parts.items())
        silent = {f"{name}_without_entries": float(count == 0) for name, count in counts.items()}
        return {"loss": total, **parts, **silent}

    def _direct(self, batch: Batch, counts: dict[str, int], scale: float) -> dict[str, float]:
        with autocast(self.device, self.precision):
            queries, documents = self._embed(batch.queries, "query"), self._embed(batch.documents, "document")
        total, parts = self._losses(self._scores(batch, queries, documents), counts)
        (scale * total).backward()
        return parts

    def _cached(self, batch: Batch, counts: dict[str, int], scale: float) -> dict[str, float]:
        chunks: list[tuple[Role, list[str], Tensor, Tensor]] = []  # role, texts, rows, the random state before them
        leaves: dict[Role, Tensor] = {}
        texts_of: list[tuple[Role, list[str]]] = [("query", batch.queries), ("document", batch.documents)]
        with torch.no_grad(), autocast(self.device, self.precision):
            for role, texts in texts_of:
                rows_of, outputs = self._chunks(texts, role), []
                for rows in rows_of:
                    chunk = [texts[row] for row in rows]
                    chunks.append((role, chunk, rows, self._random_state()))
                    outputs.append(self.student.embed(self.model, chunk, role))
                leaves[role] = _in_order(outputs, rows_of).requires_grad_()
        total, parts = self._losses(self._scores(batch, leaves["query"], leaves["document"]), counts)
        (scale * total).backward()
        devices = [self.device] if self.device.startswith("cuda") else []
        for role, chunk, rows, state in chunks:
            gradient = leaves[role].grad
            if gradient is None:
                continue
            with torch.random.fork_rng(devices=devices), autocast(self.device, self.precision):
                self._restore(state)
                output = self.student.embed(self.model, chunk, role)
            output.backward(gradient[rows.to(gradient.device)])
        return parts

    def _random_state(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device) if self.device.startswith("cuda") else torch.get_rng_state()

    def _restore(self, state: Tensor) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.set_rng_state(state, self.device)
        else:
            torch.set_rng_state(state)

    def _chunks(self, texts: Sequence[str], role: Role) -> list[Tensor]:
        budget = TOKENS_A_BATCH["cuda" if self.device.startswith("cuda") else "cpu"]
        lengths = self.student.lengths(self.model, texts, role)
        return [torch.from_numpy(rows) for rows in token_batches(lengths, budget)]

    def _embed(self, texts: Sequence[str], role: Role) -> Tensor:
        chunks = self._chunks(texts, role)
        outputs = [self.student.embed(self.model, [texts[row] for row in rows], role) for rows in chunks]
        return _in_order(outputs, chunks)

    def _scores(self, batch: Batch, queries: Tensor, documents: Tensor) -> ScoreBatch:
        return score_batch(batch, self.student.score(queries.float(), documents.float()))

    def _counts(self, batch: Batch) -> dict[str, int]:
        """How many queries each loss has anything to learn from; no student is needed to know it."""
        empty = score_batch(batch, torch.zeros(batch.own.shape))
        return {name: int(loss.terms(empty)[1].sum()) for name, loss in self.losses.items()}

    def _losses(self, scores: ScoreBatch, counts: dict[str, int]) -> tuple[Tensor, dict[str, float]]:
        total, parts = scores.student.sum() * 0.0, {}
        for name, loss in self.losses.items():
            values, counted = loss.terms(scores)
            value = torch.where(counted, values, 0.0).sum() / max(1, counts[name])
            parts[name] = float(value.detach())
            if not torch.isfinite(value):
                raise InputError(
                    f"loss {name} is {parts[name]}; a lower train.learning_rate, train.precision=fp32 or a higher "
                    "temperature may help. The last checkpoint is kept"
                )
            total = total + loss.weight_at(self.progress) * value
        return total, parts


def _in_order(outputs: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """Chunks of vectors joined, each at its row."""
    return torch.cat(list(outputs))[torch.argsort(torch.cat(list(rows))).to(outputs[0].device)]


def score_batch(batch: Batch, student: Tensor) -> ScoreBatch:
    """Put a batch's labels and judgements beside the student's scores, on the student's device."""

    def tensor(array: Any) -> Tensor:
        return torch.from_numpy(array).to(student.device)

    teacher = tensor(batch.teacher)
    judged = ~torch.isnan(teacher)
    return ScoreBatch(
        student=student,
        teacher=teacher.masked_fill(~judged, 0.0),
        judged=judged,
        positive=tensor(batch.positive),
        grades=tensor(batch.positive).float(),
        own=tensor(batch.own),
        valid=tensor(batch.valid),
    )


def _names(losses: Sequence[Loss]) -> list[str]:
    """A name for each loss in logs: its kind, numbered where several share it."""
    kinds = [loss.kind for loss in losses]
    return [
        kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: place + 1].count(kind)}"
        for place, kind in enumerate(kinds)
    ]
