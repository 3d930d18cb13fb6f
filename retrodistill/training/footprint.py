"""How much memory a training step takes: small ones are tried, and the rest is a straight line through them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill.encoders.sizes import distinct, width
from retrodistill.memory import forget_peak, peak

if TYPE_CHECKING:
    from retrodistill.losses.batch import Loss
    from retrodistill.students.student import Student
    from retrodistill.training.lists import Batch
    from retrodistill.training.objective import Objective
    from retrodistill.training.options import TrainOptions

# Tokens of the steps that are tried. The first two are not counted: they make room for what stays, as Adam's averages.
# Steps of one size tell what each new shape of batch leaves behind, the last one what tokens take.
_SMALL, _LARGE, _REPEATED = 2_048, 6_144, 8
_QUERIES = 64  # whose tokens are counted
_STEPS = 32  # whose sizes of batches are counted
# What oneDNN keeps at most: three primitives, forward and for two gradients, for each shape of weights.
_PRIMITIVES = 1_024


@dataclass(frozen=True)
class Footprint:
    """What training a student takes.

    Attributes:
        held: bytes of the process whatever a step reads: what it held before, the weights, their gradients and both of
            Adam's averages, and what a step takes anyway.
        token: bytes of what a token leaves for the backward pass.
        query: tokens of a query with its documents, or of its pairs with them, on the average.
        deviation: of that, from query to query.
        chunk: tokens that are embedded together; 0 where a batch that is too large goes in groups of queries instead.
        size: bytes that each new size of what is embedded together leaves behind, up to `sizes` of them.
        sizes: how many stay.
        tried: how many are in `held`.
        met: the sizes of some steps.
    """

    held: int
    token: int
    query: float
    deviation: float = 0.0
    chunk: int = 0
    size: int = 0
    sizes: int = 0
    tried: int = 0
    met: tuple[set[Any], ...] = ()

    def tokens(self, batch_size: int, max_tokens: int) -> int:
        """Tokens that hold gradients at once in the largest of some thousand batches of so many queries.

        A batch is a sum of queries: three of its deviations above its mean are passed by one in a thousand. What is
        more than `max_tokens` is computed in groups of at most so many, or, where a loss looks across the batch, chunk
        by chunk.
        """
        whole = math.ceil(batch_size * self.query + 3 * self.deviation * math.sqrt(batch_size))
        return whole if whole <= max_tokens else self.chunk or max_tokens

    def step(self, tokens: int) -> int:
        """Bytes of the process at the height of a step in which so many tokens hold gradients."""
        return self.held + self.token * tokens

    def kept(self, steps: float) -> int:
        """Bytes that are kept of the sizes that so many steps meet, beyond those in `held`."""
        return int(self.size * max(0.0, min(self.sizes, distinct(self.met, steps)) - self.tried))


def tried(
    student: Student, losses: Sequence[Loss], options: TrainOptions, queries: Sequence[str], documents: Sequence[str]
) -> Footprint:
    """Take a student's steps on queries and documents drawn by chance, as training would, in this very process.

    Args:
        student: what learns.
        losses: what is summed.
        options: of the training.
        queries: texts like those that it will learn from.
        documents: likewise.

    Raises:
        InputError: the student cannot be loaded.
    """
    import torch

    from retrodistill.encoders.common import device_of, tokens_a_batch
    from retrodistill.training import trainer  # what it imports stays in memory
    from retrodistill.training.objective import Objective
    from retrodistill.training.train import prepare, resolve_precision

    assert trainer
    device = device_of("cpu")
    model = student.load(device).train()
    prepare(model, options.model_copy(update={"compile": False}))  # a compiled step takes minutes to begin
    texts = {role: student.tokenize(model, some, role) for role, some in (("query", queries), ("document", documents))}
    objective = Objective(
        student,
        model,
        losses,
        lambda role, rows: [texts[role][row] for row in rows],
        precision=resolve_precision(options.precision.replace("fp16", "bf16"), device),  # of the same size
        max_tokens=2 * _LARGE + options.documents * 2**20,  # whatever a batch has is held at once
    )
    draw = _Draw(len(queries), len(documents))
    costs = _costs(objective, draw.batch(min(_QUERIES, len(queries)), options.documents))
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=0.0, fused=True)
    read, most, seen, sizes = [], [], set[Any](), []
    for batch in _batches(objective, draw, float(costs.mean()), options.documents):
        forget_peak()
        objective.backward(batch)
        optimizer.step()
        optimizer.zero_grad()
        read.append(_tokens(objective, batch))
        most.append(peak())
        seen |= _sizes(objective, batch)
        sizes.append(len(seen))
    met = tuple(_sizes(objective, draw.batch(options.batch_size, options.documents)) for _ in range(_STEPS))
    shapes = {module.weight.shape for module in model.modules() if isinstance(module, torch.nn.Linear)}
    # the line goes from the last of the small steps to the large one; what is between the small ones are new sizes
    token = max(0, most[-1] - most[-2]) // max(1, read[-1] - read[-2])
    grown, new = most[-2] - most[1] - token * (read[-2] - read[1]), sizes[-2] - sizes[1]
    return Footprint(
        held=most[-2] - token * read[-2],
        token=token,
        query=float(costs.mean()),
        deviation=float(costs.std()),
        chunk=min(tokens_a_batch(device), options.max_tokens) if objective.looks_across else 0,
        size=max(0, grown) // new if new else 0,
        tried=sizes[-2],
        sizes=_PRIMITIVES // max(1, 3 * len(shapes)),
        met=met,
    )


def _costs(objective: Objective, batch: Batch) -> np.ndarray:
    """Tokens that each query needs with its documents."""
    return objective.student.costs(objective.items(batch), batch.own)


def _tokens(objective: Objective, batch: Batch) -> int:
    """That hold gradients at once."""
    return sum(item.shape[-1] for items in objective.items(batch).values() for item in items)


def _sizes(objective: Objective, batch: Batch) -> set[Any]:
    """Rows and tokens of what is embedded together, by role."""
    from retrodistill.encoders.common import token_batches, tokens_a_batch

    found = set()
    for role, items in objective.items(batch).items():
        lengths = [item.shape[-1] for item in items]
        for rows in token_batches(lengths, tokens_a_batch(objective.device)):
            found.add((role, len(rows), width(lengths[rows[0]])))
    return found


def _batches(objective: Objective, draw: _Draw, query: float, documents: int) -> Iterator[Batch]:
    """Batches of about the tokens that are tried: a few queries, or one with fewer documents."""
    for size in (*[_SMALL] * _REPEATED, _LARGE):
        kept = max(2, min(documents, int(documents * size / query)))
        yield draw.batch(max(1, round(size / (query * kept / documents))), kept)


class _Draw:
    """Batches of rows drawn by chance."""

    def __init__(self, queries: int, documents: int) -> None:
        self._counts = queries, documents
        self._generator = np.random.default_rng(0)

    def batch(self, queries: int, documents: int) -> Batch:
        """So many queries with so many documents each, the first of them relevant; every one judged."""
        from retrodistill.training.lists import Batch

        known, shape = self._generator, (queries, queries * documents)
        own = np.kron(np.eye(queries, dtype=bool), np.ones((1, documents), dtype=bool)).astype(bool)
        grades = np.zeros(shape, dtype=np.float32)
        grades[np.arange(queries), np.arange(queries) * documents] = 1.0
        return Batch(
            queries=known.integers(self._counts[0], size=queries),
            documents=known.integers(self._counts[1], size=shape[1]),
            teacher=cast(np.ndarray, known.standard_normal(shape, dtype=np.float32)),
            grades=grades,
            own=own,
            valid=np.ones(shape, dtype=bool),
        )
