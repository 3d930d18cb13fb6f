"""Weights that change while a student trains, such as SPLADE's slow start of its regularisers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from retrodistill.registry import OptionError


class Schedule(BaseModel):
    """Goes from `start` to `end` in the first `over` of the training, and stays there.

    With x the share of `over` that is done, the share of the way is x (`linear`), x squared (`quadratic`) or
    (1 - cos(pi x)) / 2 (`cosine`). SPLADE's warm-up is `{start: 0, end: LAMBDA, over: 0.3, shape: quadratic}`.

    Source: Paria et al. 2020, "Minimizing FLOPs to Learn Efficient Sparse Representations" (the quadratic one).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: float = Field(0.0, ge=0, allow_inf_nan=False)
    end: float = Field(1.0, ge=0, allow_inf_nan=False)
    over: float = Field(1.0, gt=0, le=1, description="share of the training that it takes")
    shape: Literal["linear", "quadratic", "cosine"] = "linear"

    def at(self, progress: float) -> float:
        """The value where a share `progress` of the training is done; what lies outside [0, 1] counts as its ends."""
        done = min(1.0, max(0.0, progress) / self.over)
        way = {"linear": done, "quadratic": done**2, "cosine": (1 - math.cos(math.pi * done)) / 2}[self.shape]
        return (1 - way) * self.start + way * self.end


def _number_or_schedule(given: Any) -> float | Schedule:
    if isinstance(given, Schedule):
        return given
    if isinstance(given, Mapping):
        try:
            return Schedule.model_validate(given)
        except ValidationError as error:
            raise OptionError(error, Schedule) from error
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"expected a number >= 0 or a schedule such as {{start: 0, end: 1, over: 0.3}}, got {given!r}")
    return number


Weight = Annotated[float | Schedule, BeforeValidator(_number_or_schedule)]


def weight_at(weight: float | Schedule, progress: float) -> float:
    """A weight where a share `progress` of the training, from 0 to 1, is done."""
    return weight.at(progress) if isinstance(weight, Schedule) else weight
