"""The keys of a recipe: a section a stop of the road, and the rounds that walk it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from retrodistill.encoders import Precision
from retrodistill.errors import InputError
from retrodistill.evaluation.metrics import parse_metric
from retrodistill.evaluation.protocol import DEFAULT_METRICS
from retrodistill.memory import Size
from retrodistill.mining.pool import misfit
from retrodistill.registry import Part, of
from retrodistill.spending import Rule, usual_rule
from retrodistill.training.options import TrainOptions

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Section(BaseModel):
    """A stop's options: names are checked, values do not change once read."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Data(Section):
    """The collection and its splits."""

    path: str
    train: str = "train"
    dev: str | None = Field(None, description="what the best weights are chosen by")
    test: str = "test"
    hold_out: float | None = Field(None, gt=0, lt=1, description="share of the train queries that become the dev split")
    queries: tuple[of("queries"), ...] = Field(  # type: ignore[valid-type]
        (), description="made of the corpus, to be trained on beside the split's own"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _dev_is_named_once(self) -> Data:
        if self.hold_out is not None and self.dev is not None:
            raise ValueError(f"hold_out makes a dev split, and dev names {self.dev!r}; keep one of them")
        return self

    @property
    def measured_on(self) -> str | None:
        """The split that the best weights are chosen by."""
        return "dev" if self.hold_out is not None else self.dev


class Mine(Section):
    """Where candidates come from."""

    sources: tuple[of("retriever"), ...] = Field(("bm25",), min_length=1)  # type: ignore[valid-type]
    depth: int = Field(100, ge=1)
    sampler: of("sampler") | None = None  # type: ignore[valid-type]
    filters: tuple[of("filter"), ...] = ()  # type: ignore[valid-type]
    weigh: of("weigher") | None = Field(None, description="how much each counts in training; all alike")  # type: ignore[valid-type]
    refill: bool = Field(False, description="true: what a sampler lacks is made up from the next in rank")
    memory: Size | None = Field(None, gt=0, description="that mining may take, such as 2GB; unbounded where left out")
    labels: bool = Field(True, description="false: nothing that is learnt looks at a label of the train split")

    @property
    def searching(self) -> tuple[Part, ...]:
        """The sources that can be asked about queries that are measured: those that look at no label."""
        return tuple(source for source in self.sources if not source.reads_labels)

    @model_validator(mode="after")
    def _rules_can_work(self) -> Mine:
        unfit = misfit((self.sampler, *self.filters, self.weigh), self.sources, self.labels)
        if unfit is not None:
            raise ValueError(unfit)
        if not self.searching:
            raise ValueError(
                f"{self.sources[0].label} finds nothing for queries that are measured, whose labels nobody may look "
                "at; name a source that searches beside it, such as bm25"
            )
        if self.refill and self.sampler is None:
            raise ValueError("refill makes up for what a sampler lacks, and there is no sampler; name one")
        return self


NOTHING_TO_SPEND = "a rule of spending or a hint is named, and no budget; name a budget, or leave them out"
# Of what numpy, transformers and numba take as a seed.
LARGEST_SEED = 2**32 - 1


class Score(Section):
    """Who judges them, and how several judges become one."""

    teachers: tuple[of("teacher"), ...] = ()  # type: ignore[valid-type]
    combine: of("combination") | None = None  # type: ignore[valid-type]
    budget: int | None = Field(
        None,
        ge=1,
        description="judgements of train candidates by each teacher that is no hint: pairs, comparisons or windows",
    )
    spend: of("spending") | None = Field(  # type: ignore[valid-type]
        None, description="which ones; where not named by coverage, of comparisons and windows by uncertainty"
    )
    hints: tuple[of("teacher"), ...] = Field((), description="cheap teachers that judge all, for rules to look at")  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _something_is_spent(self) -> Score:
        if self.budget is None and (self.spend is not None or self.hints):
            raise ValueError(NOTHING_TO_SPEND)
        return self

    def bought_by(self, teacher: Part) -> Rule | None:
        """The rule by which a teacher's judgements are bought; None where it judges everything."""
        if self.budget is None or teacher in self.hints:
            return None
        return cast(Rule | None, self.spend) or usual_rule(teacher)

    @property
    def looked_at(self) -> tuple[Part, ...]:
        """Teachers of train candidates that the combination reads and that are no part of it."""
        asked = cast(Any, self.combine).looks_at if self.combine else ()
        return tuple(teacher for teacher in asked if teacher not in self.teachers)


class Train(TrainOptions):
    """Who learns, through what, for how long."""

    name: str | None = Field(None, pattern=NAME, description="its folder, where several students learn")
    student: of("student")  # type: ignore[valid-type]
    losses: tuple[of("loss"), ...] = Field(min_length=1)  # type: ignore[valid-type]
    folds: int | None = Field(
        None,
        ge=2,
        description="cross-fitting: as many models, each without a part of the labels, to teach a later round",
    )

    @property
    def options(self) -> TrainOptions:
        """The loop's own options."""
        return TrainOptions(**{name: getattr(self, name) for name in TrainOptions.model_fields})


class Evaluate(Section):
    """What is measured, and what the student is held against."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    baselines: tuple[of("retriever"), ...] = Field(("bm25",))  # type: ignore[valid-type]
    before: bool = True
    teacher: bool = True
    teacher_budget: int | None = Field(
        None,
        ge=0,
        description="the teachers' own numbers are left out where one that is no hint would be asked for more "
        "judgements of test candidates; none where score.budget is set, else any number",
    )
    precision: Precision = Field("fp32", description="that students encode in; bf16 is faster where there is any")

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(parse_metric(name).name for name in names)
        except InputError as error:
            raise ValueError(str(error)) from error

    def allowed(self, score: Score) -> int | None:
        """Judgements of test candidates that a teacher may be asked for; None: any number."""
        return 0 if self.teacher_budget is None and score.budget is not None else self.teacher_budget


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


class Round(Section):
    """One time down the road; what it leaves out is as the recipe has it.

    A later round names this one's student as `@NAME`, or `@NAME/STUDENT` where several learn.
    """

    name: str = Field(pattern=NAME)
    mine: Mine | None = None
    score: Score | None = None
    train: tuple[Train, ...] | None = Field(None, min_length=1)

    @field_validator("train", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return value if value is None else _listed(value)


@dataclass(frozen=True)
class Stage:
    """A round as it is walked: nothing left out, and the folder that all of it goes to.

    Attributes:
        name: the round's, empty where the recipe has no rounds.
        folder: where its artefacts lie.
        mine: where candidates come from.
        score: who judges them.
        students: who learns, by name; the one student of a round is called `student`.
    """

    name: str
    folder: Path
    mine: Mine
    score: Score
    students: dict[str, Train]

    @property
    def searched(self) -> dict[str, Train]:
        """The students that are one model each; those of folds only teach."""
        return {name: train for name, train in self.students.items() if not train.folds}

    def place(self, stop: str, student: str) -> Path:
        """The folder of a student's artefact."""
        return self.folder / stop / student if len(self.students) > 1 else self.folder / stop


class Recipe(Section):
    """The whole road, from a collection to its numbers."""

    name: str = Field(pattern=NAME)
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    runs: Path = Path("runs")
    store: Path = Path("scores")
    data: Data
    mine: Mine = Mine()
    score: Score = Score()
    train: tuple[Train, ...] = Field(min_length=1)
    rounds: tuple[Round, ...] = ()
    index: of("index") | None = Field(None, description="exact search where left out")  # type: ignore[valid-type]
    evaluate: Evaluate = Evaluate()

    @field_validator("train", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return _listed(value)

    @model_validator(mode="after")
    def _named_apart(self) -> Recipe:
        for what, names in self._names():
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{what}: {twice!r} stands twice; give each a `name:` of its own")
            taken = next((name for name in names if name == "teacher" or name.startswith("before")), None)
            if taken is not None:
                raise ValueError(f"{what}: the report calls another system {taken!r}; choose another name")
        return self

    def _names(self) -> Iterator[tuple[str, list[str]]]:
        yield "rounds", [part.name for part in self.rounds]
        owners: tuple[Recipe | Round, ...] = (self, *self.rounds)
        for part in owners:
            if part.train is not None:
                yield "train", [_called(train) for train in part.train]

    @property
    def folder(self) -> Path:
        """Where everything the run makes lies."""
        return self.runs / self.name

    @property
    def stages(self) -> list[Stage]:
        """The rounds to walk, in their order; one where the recipe names none."""
        if not self.rounds:
            return [Stage("", self.folder, self.mine, self.score, _students(self.train))]
        return [
            Stage(
                part.name,
                self.folder / part.name,
                part.mine or self.mine,
                part.score or self.score,
                _students(part.train or self.train),
            )
            for part in self.rounds
        ]

    def dump(self) -> str:
        """The resolved recipe as YAML, to lie beside what it made."""
        written = self.model_dump(mode="json")
        for section in (written, *written["rounds"]):
            if section["train"] and len(section["train"]) == 1:
                section["train"] = section["train"][0]
        return yaml.safe_dump(written, sort_keys=False, allow_unicode=True)


def _students(trains: tuple[Train, ...]) -> dict[str, Train]:
    return {"student": trains[0]} if len(trains) == 1 else {_called(train): train for train in trains}


def _called(train: Train) -> str:
    return train.name or str(cast(Any, train.student).kind)
