"""Low-rank adapters: a large student learns in a small part of its weights, and is saved as if it had learnt in all."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from retrodistill.errors import InputError


class Lora(BaseModel):
    """What is added to each target's weight: `alpha / rank * B A`, of which A and B alone learn.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1, description="before A")
    targets: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="names of layers, as q_proj")

    def check(self) -> None:
        """Find peft."""
        if find_spec("peft") is None:
            raise InputError("lora needs the package peft; pip install 'retrodistill[lora]', or leave lora out")

    def add(self, model: Any, heads: Sequence[str] = ()) -> None:
        """Put adapters into the transformer of a sentence-transformers model, and freeze the rest.

        Args:
            model: the model.
            heads: parts of the transformer that learn in full, such as a fresh classifier.

        Raises:
            InputError: peft is absent, or the transformer has no such targets.
        """
        self.check()
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
            modules_to_save=list(heads) or None,
            exclude_modules=list(heads) or None,
        )
        try:
            model[0].model = get_peft_model(model[0].model, config)
        except ValueError as error:
            raise InputError(f"lora.targets: {self.targets!r}: {error}") from error


def merge(model: Any) -> None:
    """Have adapters, where there are any, become part of the weights: the model is plain from then on."""
    transformer: Any = getattr(model[0], "model", None)
    if hasattr(transformer, "merge_and_unload"):
        model[0].model = transformer.merge_and_unload()
