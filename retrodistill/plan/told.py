"""What a plan says: who is asked what, and what each step takes of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retrodistill import console
from retrodistill.memory import shown

# What a judgement takes in the store: 20 bytes of keys and score and some of Parquet's own, as measured by
# benchmarks/score_store.py; a window's order takes more, by the documents in it.
_BYTES = 24


@dataclass(frozen=True)
class Line:
    """What one teacher is asked in one place.

    Attributes:
        where: the round, and whether it is to train on or to be measured.
        teacher: its short form.
        unit: pairs, comparisons or windows.
        asked: how many judgements.
        stored: how many of them the store has.
        bound: both are bounds, as it is not known yet what is found: at most so many are asked, and none is known to be
            there.
        tokens: of a judgement, on the average of a sample; None for a teacher that does not read tokens.
        seconds: of a judgement, measured; None where nothing was.
        cost: of a judgement, in the currency of the teacher's price; None without a price.
        weights: bytes that its model takes on disk.
    """

    where: str
    teacher: str
    unit: str
    asked: int
    stored: int
    bound: bool = False
    tokens: float | None = None
    seconds: float | None = None
    cost: float | None = None
    weights: int = 0

    @property
    def missing(self) -> int:
        """How many will be paid for."""
        return self.asked - self.stored


@dataclass(frozen=True)
class Step:
    """What a step of a run takes of memory.

    Attributes:
        name: the step and who works in it, such as `training dense:MODEL`.
        memory: bytes of the process at its height.
        remedy: what to do where that is too much.
        tokens: that hold gradients at once; 0 where none do.
    """

    name: str
    memory: int
    remedy: str
    tokens: int = 0

    def __str__(self) -> str:
        """A line of the plan."""
        tokens = f", {self.tokens:,} tokens hold gradients at once" if self.tokens else ""
        return f"memory of {self.name}: about {shown(self.memory)}{tokens}"


@dataclass(frozen=True)
class Plan:
    """What a recipe asks of its teachers and of the machine.

    Attributes:
        lines: what is asked.
        steps: what each step takes, in the order of the run, of those that were tried.
        untried: what was not tried, and why.
        machine: bytes of memory that the machine has; 0 where it does not tell.
    """

    lines: list[Line]
    steps: tuple[Step, ...] = ()
    untried: tuple[str, ...] = ()
    machine: int = 0

    @property
    def largest(self) -> Step | None:
        """The step that takes the most memory; None where none was tried."""
        return max(self.steps, key=lambda step: step.memory, default=None)

    def table(self) -> str:
        """For the person who decides."""
        header = ["teacher", "for", "asked", "in the store", "to judge", "tokens, about", "time, about", "cost, about"]
        rows = []
        for line in self.lines:
            most = "at most " if line.bound else ""
            rows.append(
                [
                    line.teacher,
                    line.where,
                    f"{most}{line.asked:,} {line.unit}",
                    "not known" if line.bound else f"{line.stored:,}",
                    f"{most}{line.missing:,}",
                    _times(line.tokens, line.missing, lambda total: f"{total:,.0f}"),
                    _times(line.seconds, line.missing, _duration),
                    _times(line.cost, line.missing, lambda total: f"{total:,.2f}"),
                ]
            )
        told = [console.markdown_table(header, rows, numbers=False), "", *self._notes()]
        return "\n".join(told)

    def _notes(self) -> list[str]:
        told = []
        if self.lines:
            exact = [line for line in self.lines if not line.bound]
            which = "all" if len(exact) == len(self.lines) else "none" if not exact else "those without `at most`"
            told.append(f"counts that are exact: {which}; tokens, time and cost are a sample's, times the count")
        told.append(f"disk: {sum(line.missing for line in self.lines) * _BYTES / 1e6:,.1f} MB of judgements")
        told += map(str, self.steps)
        told += [f"memory is not known of {what}" for what in self.untried]
        if not self.steps:
            weights = max((line.weights for line in self.lines), default=0)
            return [*told, f"memory: no step was tried; {shown(weights)} for the largest teacher's weights"]
        most = max(self.steps, key=lambda step: step.memory)
        told.append(f"the most memory is taken by {most.name}: about {shown(most.memory)}")
        if 0 < self.machine < most.memory:
            told.append(f"that is more than the {shown(self.machine)} of this machine: {most.remedy}")
        return told


def _times(each: float | None, count: int, shown: Any) -> str:
    return "-" if each is None else str(shown(each * count))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
