"""transformers' Trainer, fed with batch numbers: the schedule is ours, so that resuming skips exactly what was done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from retrodistill import console
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from retrodistill.training.lists import Lists
    from retrodistill.training.objective import Objective
    from retrodistill.training.options import TrainOptions

WEIGHTS = "model.safetensors"
COMPLETE = "complete"


class _Numbers(Dataset[dict[str, int]]):
    """The numbers of the batches to come, in order."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, int]:
        return {"number": number}


class StudentTrainer(Trainer):
    """Runs an objective over a schedule of batches.

    Args:
        model: the student's model.
        objective: what a step computes.
        lists: where batches come from.
        steps: how many.
        options: of the loop.
        seed: of dropout.
        folder: where checkpoints go.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        lists: Lists,
        steps: int,
        options: TrainOptions,
        seed: int,
        folder: Path,
    ) -> None:
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=1,
            max_steps=steps,
            train_sampling_strategy="sequential",
            learning_rate=options.learning_rate,
            lr_scheduler_type=options.schedule,
            warmup_steps=int(options.warmup * steps),
            weight_decay=options.weight_decay,
            max_grad_norm=options.max_grad_norm,
            seed=seed,
            use_cpu=objective.device == "cpu",
            save_steps=options.checkpoint_every,
            save_total_limit=2,
            logging_steps=max(1, steps // 50),
            report_to=list(options.report_to) or "none",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        # With several GPUs in sight, Trainer would make one batch of several numbers; one process trains on one.
        arguments._n_gpu = min(1, arguments.n_gpu)
        super().__init__(model=model, args=arguments, train_dataset=_Numbers(steps), callbacks=[_Bar()])
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.objective = objective
        self.lists = lists
        self._window: list[dict[str, float]] = []

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Compute one batch and its gradient."""
        model.train()
        self.objective.progress = self.state.global_step / self.state.max_steps
        parts = self.objective.backward(self.lists.batch(int(inputs["number"])))
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if not torch.isfinite(nn.utils.get_total_norm(gradients)):
            raise InputError(
                f"the gradient at step {self.state.global_step + 1} is not finite although the loss is; a lower "
                "learning_rate or precision=fp32 may help. The last checkpoint is kept"
            )
        self._window.append(parts)
        return torch.tensor(parts["loss"], device=self.args.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each loss on its own, averaged since the last line."""
        if "loss" in logs and self._window:
            means = {name: sum(step[name] for step in self._window) / len(self._window) for name in self._window[0]}
            logs = {**logs, **{name: round(value, 6) for name, value in means.items()}}
            self._window = []
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.model, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        safetensors.torch.load_model(model or self.model, Path(resume_from_checkpoint) / WEIGHTS)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        (Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()


class _Bar(TrainerCallback):
    """A bar with the running loss; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = console.bar(state.max_steps, "train", "steps")
        self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.4f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that was written whole; those that a crash tore are passed over."""
    numbered = [
        (int(found[1]), path)
        for path in folder.glob("checkpoint-*")
        if (found := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / COMPLETE).exists()
    ]
    return max(numbered)[1] if numbered else None
