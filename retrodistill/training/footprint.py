"""How much memory a training step takes: a process of its own tries two small ones, the rest is a straight line."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill.errors import InputError
from retrodistill.memory import forget_peak, peak, resident
from retrodistill.registry import Part, build

if TYPE_CHECKING:
    from retrodistill.students.student import Student

# The first is not counted: it makes room for what stays.
_SIZES = (2_048, 2_048, 6_144)
_TEXTS_A_CHUNK = 8


@dataclass(frozen=True)
class Footprint:
    """What training a student adds to the memory of a process.

    Attributes:
        model: bytes of the weights, their gradients and both of Adam's averages, and of what a step takes whatever it
            reads.
        token: bytes of what a token leaves for the backward pass.
        length: tokens of a document, on the average.
    """

    model: int
    token: int
    length: float

    def step(self, tokens: int) -> int:
        """Bytes of a step in which so many tokens hold gradients; what a loss's matrices add is not in it."""
        return self.model + self.token * tokens


def measured(student: Part, texts: Sequence[str], precision: str) -> Footprint:
    """Try a student's steps on documents, in another process, so that nothing of them stays in this one.

    Args:
        student: a bi-encoder.
        texts: documents like those that it will learn from.
        precision: of its products.

    Raises:
        InputError: the student cannot be loaded, or the process died, as where there is no memory for it.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_try, args=(there, student.model_dump(mode="json"), list(texts), precision))
    process.start()
    there.close()
    try:
        found = here.recv()
    except EOFError as error:
        process.join()
        raise InputError(f"a step of {student.label} was tried, and its process ended ({process.exitcode})") from error
    process.join()
    if isinstance(found, str):
        raise InputError(found)
    return Footprint(*found)


def _try(pipe: Any, spec: dict[str, Any], texts: list[str], precision: str) -> None:
    try:
        pipe.send(_footprint(cast("Student", build("student", spec)), texts, precision))
    except InputError as error:
        pipe.send(str(error))


def _footprint(student: Student, texts: list[str], precision: str) -> tuple[int, int, float]:
    import torch

    from retrodistill.encoders.common import autocast, device_of
    from retrodistill.training.train import resolve_precision

    device, before = device_of("cpu"), resident()
    model = student.load(device).train()
    tokens = student.tokenize(model, texts, "document")
    learnt = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    read: list[int] = []
    most: list[int] = []
    for size in _SIZES:
        taken: list[np.ndarray] = []
        count = 0
        while count < size:
            taken.append(tokens[len(taken) % len(tokens)])
            count += len(taken[-1])
        taken.sort(key=len)
        model.zero_grad(set_to_none=True)
        forget_peak()
        with autocast(device, resolve_precision(precision, device)):
            made = [
                student.embed(model, taken[start : start + _TEXTS_A_CHUNK], "document").values
                for start in range(0, len(taken), _TEXTS_A_CHUNK)
            ]
        torch.cat([each.float().flatten() for each in made]).square().sum().backward()
        read.append(count)
        most.append(peak())
    (_, few, many), (_, low, high) = read, most
    token = max(0, high - low) // (many - few)
    return low - before - token * few + 8 * learnt, token, float(np.mean([len(each) for each in tokens]))
