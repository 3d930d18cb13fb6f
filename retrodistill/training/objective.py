"""One training step: tokens to vectors to a score matrix to losses, and back, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from retrodistill.encoders import TrainPrecision, autocast, token_batches
from retrodistill.encoders.common import tokens_a_batch
from retrodistill.errors import InputError
from retrodistill.losses.batch import Loss, ScoreBatch
from retrodistill.students.backbone import ready_for_sparse_gradients
from retrodistill.students.embedded import Embedded
from retrodistill.training.workers import Workers

if TYPE_CHECKING:
    from retrodistill.students.student import Student, Tokens
    from retrodistill.training.lists import Batch

Observed = dict[str, dict[int, float]]
TokensOf = Callable[[str, np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class _Chunk:
    """Items of one role and of like length that are embedded together."""

    role: str
    rows: Tensor  # where they stand among the role's items
    tokens: Tokens


class Objective:
    """The weighted sum of losses of a student on a batch, and its gradient.

    The gradient is the same however a batch is computed; what differs is what is held in memory:

    - a batch within `max_tokens` is computed at once;
    - a larger one, where nothing looks at other queries' documents, goes through in groups of whole queries;
    - otherwise through a gradient cache: vectors first, without their graphs, then the loss's gradient at the vectors,
      then each chunk of texts again with its graph (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size
      under Memory Limited Setup"), with the same dropout.

    Several processes share the groups or the chunks; each sees the whole score matrix, so that in-batch negatives
    cross devices, and the sum of their gradients is that of one process with the whole batch.

    Args:
        student: how texts are embedded and scored.
        model: its model, on its device.
        losses: what is summed.
        tokens: gives the tokens of queries (`"query"`) or documents (`"document"`) by row.
        precision: of matrix products; losses are always float32.
        max_tokens: how many tokens may hold gradients at once.
        workers: the processes that share the work; one where None.

    Attributes:
        scaled: multiplies the sum before its gradient is taken, as fp16 wants it; what is told of it stays as it was.
    """

    def __init__(
        self,
        student: Student,
        model: Any,
        losses: Sequence[Loss],
        tokens: TokensOf,
        *,
        precision: TrainPrecision,
        max_tokens: int,
        workers: Workers | None = None,
    ) -> None:
        self.student = student
        self.model = model
        self.losses = dict(zip(_names(losses), losses, strict=True))
        self.tokens = tokens
        self.precision = precision
        self.max_tokens = max_tokens
        self.workers = workers or Workers()
        self.device = str(model.device)
        self.scaled: Callable[[Tensor], Tensor] = lambda total: total

    @property
    def looks_across(self) -> bool:
        """A loss looks at other queries' documents, or the student's penalties at the whole batch."""
        return self.student.looks_across or any(loss.in_batch for loss in self.losses.values())

    def backward(self, batch: Batch, progress: float = 0.0) -> dict[str, float]:
        """Add the gradient of the sum to the model's.

        Args:
            batch: queries, their documents and what is known of them.
            progress: the share of the steps that are done, 0 to 1: what schedules of weights follow.

        Returns:
            The sum as `loss`, each loss and penalty unweighted by name, `NAME_without_entries`, 1 where a loss had
            none, and what the student watches.

        Raises:
            InputError: a loss is not finite, named, or the student has collapsed.
        """
        ready_for_sparse_gradients(self.model)
        counts = self._counts(batch)
        items = self.items(batch)
        costs = self.student.costs(items, batch.own)
        whole = sum(item.shape[-1] for role in items for item in items[role])
        if self.looks_across:
            found = self._across(batch, items, counts, progress, keep=whole <= self.max_tokens)
        elif whole <= self.max_tokens and self.workers.count == 1:
            found = self._group(batch, items, counts, progress)
        else:
            found = self._groups(batch, costs, counts, progress)
        self.workers.add_gradients(self.model)
        observed = {name: list(numbers.values()) for name, numbers in found.observed.items()}
        watched = self.student.watch(observed, progress)
        weights = {name: loss.weight_at(progress) for name, loss in self.losses.items()} | found.weights
        total = sum(weights[name] * value for name, value in found.parts.items())
        silent = {f"{name}_without_entries": float(count == 0) for name, count in counts.items()}
        return {"loss": total, **found.parts, **silent, **watched}

    def items(self, batch: Batch) -> dict[str, Tokens]:
        """What is embedded for a batch, by role."""
        queries, documents = self.tokens("query", batch.queries), self.tokens("document", batch.documents)
        return self.student.items(self.model, queries, documents, batch.own)

    def _group(self, batch: Batch, items: Mapping[str, Tokens], counts: dict[str, int], progress: float) -> _Found:
        """Everything at once, graphs kept."""
        chunks = list(_chunks(items, tokens_a_batch(self.device)))
        with autocast(self.device, self.precision):
            outputs = [self.student.embed(self.model, chunk.tokens, chunk.role) for chunk in chunks]
        found = self._pushed(batch, _joined(chunks, outputs), counts, progress)
        return found

    def _groups(self, batch: Batch, costs: np.ndarray, counts: dict[str, int], progress: float) -> _Found:
        """Whole queries with their own documents, as many as the budget holds, one group after another."""
        budget = min(self.max_tokens, int(np.ceil(costs.sum() / self.workers.count)))
        found = _Found(dict.fromkeys(self.losses, 0.0), {}, {})
        for group in self.workers.mine(list(batch.split(costs, budget))):
            part = self._group(group, self.items(group), counts, progress)
            for name, value in part.parts.items():
                found.parts[name] += value
            _join(found.observed, part.observed)
        every: Observed = {}
        for observed in self.workers.everyones(found.observed):
            _join(every, observed)
        return _Found(self.workers.add_values(found.parts), found.weights, every)

    def _across(
        self, batch: Batch, items: Mapping[str, Tokens], counts: dict[str, int], progress: float, *, keep: bool
    ) -> _Found:
        """Vectors, the loss's gradient at the vectors, then back through each chunk: its graph kept, or made again."""
        together = tokens_a_batch(self.device)
        chunks = list(_chunks(items, together if keep else min(together, self.max_tokens)))
        mine = self.workers.mine(range(len(chunks)))
        outputs: dict[int, Embedded] = {}
        states: dict[int, Tensor] = {}
        with torch.set_grad_enabled(keep), autocast(self.device, self.precision):
            for number in mine:
                states[number] = self._random_state()
                outputs[number] = self.student.embed(self.model, chunks[number].tokens, chunks[number].role)
        leaves = [output.leaf() for output in self.workers.gather(outputs, len(chunks), self.device)]
        found = self._pushed(batch, _joined(chunks, leaves), counts, progress)
        for number in mine:
            gradient = leaves[number].values.grad
            if gradient is None:
                continue
            output = outputs[number] if keep else self._again(chunks[number], states[number])
            if output.values.requires_grad:  # not so where a role's vectors are fixed
                output.values.backward(gradient)
        return found

    def _again(self, chunk: _Chunk, state: Tensor) -> Embedded:
        """Embed a chunk once more, with its graph and the dropout of the first time."""
        devices = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices), autocast(self.device, self.precision):
            if devices:
                torch.cuda.set_rng_state(state, self.device)
            else:
                torch.set_rng_state(state)
            return self.student.embed(self.model, chunk.tokens, chunk.role)

    def _random_state(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device) if self.device.startswith("cuda") else torch.get_rng_state()

    def _counts(self, batch: Batch) -> dict[str, int]:
        """How many queries each loss has anything to learn from; no student is needed to know it."""
        empty = score_batch(batch, torch.zeros(batch.own.shape))
        return {name: int(loss.by_query(empty)[1].sum()) for name, loss in self.losses.items()}

    def _pushed(
        self, batch: Batch, embedded: Mapping[str, Embedded], counts: dict[str, int], progress: float
    ) -> _Found:
        """What is found of what was embedded, and the gradient of the sum sent back through it."""
        total, found = self._losses(batch, embedded, counts, progress)
        self.scaled(total).backward()
        return found

    def _losses(
        self, batch: Batch, embedded: Mapping[str, Embedded], counts: dict[str, int], progress: float
    ) -> tuple[Tensor, _Found]:
        views = [
            (weight, score_batch(batch, scores)) for weight, scores in self.student.all_scores(embedded, batch.own)
        ]
        total, found = views[0][1].student.sum() * 0.0, _Found({}, {}, {})
        for role, rows in (("query", batch.queries), ("document", batch.documents)):
            for name, numbers in (self.student.observe(embedded[role], role) if role in embedded else {}).items():
                found.observed[name] = dict(zip(rows.tolist(), numbers.tolist(), strict=True))
        for name, loss in self.losses.items():
            value = torch.stack([weight * _sum(loss, scores) for weight, scores in views]).sum() / max(1, counts[name])
            total = total + loss.weight_at(progress) * found.add(name, value)
        for penalty in self.student.penalties(embedded, progress):
            total = total + penalty.weight * found.add(penalty.name, penalty.value)
            found.weights[penalty.name] = penalty.weight
        return total, found


@dataclass(frozen=True)
class _Found:
    """What a batch gave.

    Attributes:
        parts: losses and penalties by name.
        weights: of the penalties.
        observed: by name what the student observed of each text, the text by its row.
    """

    parts: dict[str, float]
    weights: dict[str, float]
    observed: Observed

    def add(self, name: str, value: Tensor) -> Tensor:
        self.parts[name] = float(value.detach())
        if not np.isfinite(self.parts[name]):
            raise InputError(
                f"loss {name} is {self.parts[name]}; a lower train.learning_rate, train.precision=fp32 or a higher "
                "temperature may help. The last checkpoint is kept"
            )
        return value


def _join(into: Observed, observed: Observed) -> None:
    """Add what was observed of some texts to that of others; a text that is in both counts once."""
    for name, numbers in observed.items():
        into.setdefault(name, {}).update(numbers)


def _sum(loss: Loss, scores: ScoreBatch) -> Tensor:
    """Over the queries that have a loss."""
    values, counted = loss.by_query(scores)
    return torch.where(counted, values, 0.0).sum()


def _chunks(items: Mapping[str, Tokens], budget: int) -> Iterator[_Chunk]:
    """Items of like length, each chunk within so many tokens unless one item is more."""
    for role, tokens in items.items():
        for rows in token_batches([item.shape[-1] for item in tokens], budget):
            yield _Chunk(role, torch.from_numpy(rows), [tokens[row] for row in rows])


def _joined(chunks: Sequence[_Chunk], outputs: Sequence[Embedded]) -> dict[str, Embedded]:
    """Chunks by role, each item at its row."""
    return {
        role: Embedded.join(
            [output for chunk, output in zip(chunks, outputs, strict=True) if chunk.role == role],
            torch.cat([chunk.rows for chunk in chunks if chunk.role == role]),
        )
        for role in dict.fromkeys(chunk.role for chunk in chunks)
    }


def score_batch(batch: Batch, student: Tensor) -> ScoreBatch:
    """Put a batch's labels and judgements beside the student's scores, on the student's device."""

    def tensor(array: Any) -> Tensor:
        return torch.from_numpy(array).to(student.device)

    weights = None if batch.weights is None else tensor(batch.weights)
    teacher, valid = tensor(batch.teacher), tensor(batch.valid)
    judged = ~torch.isnan(teacher)
    return ScoreBatch(
        student=student,
        teacher=teacher.masked_fill(~judged, 0.0),
        judged=judged,
        positive=tensor(batch.positive),
        grades=tensor(batch.grades),
        own=tensor(batch.own),
        valid=valid if weights is None else valid & (weights > 0),
        preferences=None if batch.preferences is None else tensor(batch.preferences),
        weights=weights,
        certainty=None if batch.certainty is None else tensor(batch.certainty),
        whole=None if batch.whole is None else tensor(batch.whole),
    )


def _names(losses: Sequence[Loss]) -> list[str]:
    """A name for each loss in logs: its kind, numbered where several share it."""
    kinds = [loss.kind for loss in losses]
    return [
        kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: place + 1].count(kind)}"
        for place, kind in enumerate(kinds)
    ]
