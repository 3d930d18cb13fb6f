"""The processes of a training, as torchrun starts them: who computes what, and how their gradients become one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from retrodistill.files import alone_in
from retrodistill.students.embedded import Embedded

T = TypeVar("T")


class Workers:
    """All processes of a training; one where torchrun started none.

    Every process makes the same batches and sees the same score matrix; they share the work of embedding. A value or a
    gradient of the whole is the sum over the processes, and `count` processes end with the weights of one.
    """

    @classmethod
    def start(cls, device: str) -> Workers:
        """Join the processes that torchrun started; alone where it started none."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            # a process may wait for another to mine, score or evaluate: as long as it takes
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=timedelta(days=7))
        return cls()

    def __init__(self) -> None:
        there = dist.is_available() and dist.is_initialized()
        self.count = dist.get_world_size() if there else 1
        self.rank = dist.get_rank() if there else 0

    @contextmanager
    def first(self) -> Iterator[bool]:
        """Have one process do the block before the others, which then find done what need not be done again."""
        if self.rank > 0:
            dist.barrier()
        yield self.rank == 0
        if self.count > 1 and self.rank == 0:
            dist.barrier()

    def alone_in(self, folder: Path) -> AbstractContextManager[None]:
        """Keep other runs out of a folder that these processes share: the first of them holds it."""
        return alone_in(folder) if self.rank == 0 else nullcontext()

    def agree(self, find: Callable[[], T]) -> T:
        """What one process finds, for all of them."""
        found = [find() if self.rank == 0 else None]
        if self.count > 1:
            dist.broadcast_object_list(found, src=0)
        return cast(T, found[0])

    def mine(self, work: Sequence[T]) -> Sequence[T]:
        """This process's share; neighbours, which are of like size, go to different processes."""
        return work[self.rank :: self.count]

    def gather(self, mine: Mapping[int, Embedded], total: int, device: str) -> list[Embedded]:
        """All chunks, each from the process that has it; without gradients where it came from another.

        Args:
            mine: this process's chunks by number; chunk n is with process n modulo the count.
            total: how many chunks there are in all.
            device: where they go.
        """
        if self.count == 1:
            return [mine[number] for number in range(total)]
        shapes: list[Any] = [None] * self.count
        about = {
            number: (tuple(chunk.values.shape), None if chunk.lengths is None else len(chunk.lengths))
            for number, chunk in mine.items()
        }
        dist.all_gather_object(shapes, about)
        found = []
        for number in range(total):
            owner = number % self.count
            shape, texts = shapes[owner][number]
            chunk = mine.get(number)
            values = torch.empty(shape, device=device) if chunk is None else chunk.values.detach().contiguous()
            dist.broadcast(values, src=owner)
            lengths: Tensor | None = None
            if texts is not None:
                known = None if chunk is None else chunk.lengths
                lengths = torch.empty(texts, dtype=torch.int64, device=device) if known is None else known
                dist.broadcast(lengths, src=owner)
            found.append(Embedded(values, lengths))
        return found

    def add_gradients(self, model: torch.nn.Module) -> None:
        """Have every process hold the sum of all processes' gradients."""
        if self.count == 1:
            return
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        reached = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
        reached = reached.to(weights[0].device)
        dist.all_reduce(reached, op=dist.ReduceOp.MAX)
        for weight, somewhere in zip(weights, reached.tolist(), strict=True):
            if somewhere:  # a weight that no process reached keeps no gradient, as with one process
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                dist.all_reduce(weight.grad)

    def add_values(self, values: dict[str, float]) -> dict[str, float]:
        """The sums of all processes' numbers, by name."""
        if self.count == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        return dict(zip(values, torch.stack(self.everyones(numbers)).sum(0).tolist(), strict=True))

    def everyones(self, mine: T) -> list[T]:
        """What each process has, in the order of the processes."""
        shared: list[Any] = [mine] * self.count
        if self.count > 1:
            dist.all_gather_object(shared, mine)
        return shared
