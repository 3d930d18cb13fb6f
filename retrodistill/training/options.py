"""How a student is trained: the numbers of a recipe's `train:` that belong to no loss and no student."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from retrodistill.errors import InputError
from retrodistill.evaluation.metrics import parse_metric
from retrodistill.training.lists import Batches, Pick


class TrainOptions(BaseModel):
    """Options of the training loop."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(1, ge=1, description="how often every query is seen")
    max_steps: int | None = Field(None, ge=1, description="at most so many steps; fewer where the epochs end before")
    batch_size: int = Field(16, ge=1, description="queries a step")
    documents: int = Field(8, ge=2, description="documents a query brings to a step")
    pick: Pick = Field("uniform", description="how they are drawn from the candidates")
    batches: Batches = Field("random", description="topics: queries of a batch have candidates in common")
    learning_rate: float = Field(3e-5, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises to its full height")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, ge=0, description="0 clips nothing")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the processor has it; fp16 is for GPUs that have not"
    )
    max_tokens: int = Field(
        16_384, ge=1, description="tokens that may hold gradients at once; more are computed in turns"
    )
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints, what a crash can cost at most")
    evaluate_every: int | None = Field(
        None, ge=1, description="steps between evaluations on the dev split; the best weights are kept"
    )
    metric: str = Field("nDCG@10", description="what is best, an ir_measures name")
    patience: int | None = Field(None, ge=1, description="stop after so many evaluations without a better one")
    gradient_checkpointing: bool = Field(False, description="less memory for activations, computed twice")
    compile: bool = Field(False, description="torch.compile the encoder: slow to start, faster steps")
    report_to: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return parse_metric(name).name
        except InputError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _patient_about_something(self) -> Self:
        if self.patience is not None and self.evaluate_every is None:
            raise ValueError("patience counts evaluations; set evaluate_every too")
        return self
