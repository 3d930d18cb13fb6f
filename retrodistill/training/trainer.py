"""transformers' Trainer, fed with batch numbers: the schedule is ours, so that resuming skips exactly what was done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from retrodistill import console
from retrodistill.errors import InputError
from retrodistill.files import writing

if TYPE_CHECKING:
    from retrodistill.training.dev import Dev
    from retrodistill.training.lists import Lists
    from retrodistill.training.objective import Objective
    from retrodistill.training.options import TrainOptions

WEIGHTS = "model.safetensors"
COMPLETE = "complete"
_NOT_SHOWN = ("_without_entries", "epoch", "grad_norm")


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
        dev: measures the model of the moment where `options.evaluate_every` is set; the best weights are kept.
    """

    control: TrainerControl

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        lists: Lists,
        steps: int,
        options: TrainOptions,
        seed: int,
        folder: Path,
        dev: Dev | None = None,
    ) -> None:
        evaluating: dict[str, Any] = {}
        if dev is not None:
            evaluating = {
                "eval_strategy": "steps",
                "eval_steps": options.evaluate_every,
                "load_best_model_at_end": True,
                "metric_for_best_model": f"eval_{options.metric}",
                "greater_is_better": True,
            }
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
            fp16=objective.precision == "fp16",
            use_cpu=objective.device == "cpu",
            save_steps=options.checkpoint_every if dev is None else options.evaluate_every,
            save_total_limit=2,
            logging_steps=max(1, steps // 50),
            report_to=list(options.report_to) or "none",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            **evaluating,
        )
        # With several GPUs in sight, Trainer would make one batch of several numbers; one process trains on one.
        arguments._n_gpu = min(1, arguments.n_gpu)
        callbacks: list[TrainerCallback] = [_Settled(objective), _Table(steps)]
        if dev is not None:
            callbacks.append(_Checkpoints(options.checkpoint_every))
        if options.patience is not None:
            callbacks.append(_Patience(options.patience))
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=_Numbers(steps),
            eval_dataset=None if dev is None else _Numbers(0),
            callbacks=callbacks,
        )
        # The objective itself shares the work among processes and adds their gradients up.
        self.accelerator.prepare_model = lambda model, **_: model
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if self.accelerator.scaler is not None:
            objective.scaled = self.accelerator.scaler.scale
        self.objective = objective
        self.lists = lists
        self.dev = dev
        self.metric, self.patience = options.metric, options.patience
        self._window: list[dict[str, float]] = []

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Compute one batch and its gradient."""
        model.train()
        batch = self.lists.batch(int(inputs["number"]))
        parts = self.objective.backward(batch, progress=self.state.global_step / self.state.max_steps)
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        # fp16 starts from too large a scale: a step that overflows is left out, and the scale halved
        scaler = self.accelerator.scaler
        last = scaler is None or scaler.get_scale() < 1
        if last and not torch.isfinite(nn.utils.get_total_norm(gradients)):
            raise InputError(
                f"the gradient at step {self.state.global_step + 1} is not finite although the loss is; a lower "
                "learning_rate or precision=fp32 may help. The last checkpoint is kept"
            )
        self._window.append(parts)
        return torch.tensor(parts["loss"], device=self.args.device)

    def go_on(self, checkpoint: Path) -> None:
        """Train from a checkpoint on; where patience had ended the training there, take the best weights."""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if self.patience is None or fruitless(state.log_history, f"eval_{self.metric}") < self.patience:
            self.train(resume_from_checkpoint=str(checkpoint))
        else:
            self.state = state
            self._load_best_model()

    def get_train_dataloader(self) -> DataLoader:
        """The numbers themselves: every process sees all of them."""
        return DataLoader(self.train_dataset, batch_size=1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each loss on its own, averaged since the last line."""
        if "loss" in logs and self._window:
            means = _means(self._window)
            logs = {**logs, **{name: round(value, 6) for name, value in means.items()}}
            self._window = []
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Search the dev split with the weights of the moment."""
        assert self.dev is not None
        dev, model = self.dev, self.model
        metrics = {f"eval_{dev.metric}": self.objective.workers.agree(lambda: dev(model))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.model, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        safetensors.torch.load_model(model or self.model, Path(resume_from_checkpoint) / WEIGHTS)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        assert best is not None
        safetensors.torch.load_model(self.model, Path(best) / WEIGHTS)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with writing(Path(str(self.args.output_dir))):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()


class _Settled(TrainerCallback):
    """Has the student set its model right after each step of the optimizer, before anything looks at it."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.objective.student.settle(self.objective.model)


class _Checkpoints(TrainerCallback):
    """Saves every so many steps, beside the checkpoints of evaluations, which are transformers' own."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            control.should_save = True


class _Patience(EarlyStoppingCallback):
    """Patience that a resumed run has as much of as was left."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = fruitless(state.log_history, args.metric_for_best_model)


def fruitless(history: Sequence[Mapping[str, float]], name: str) -> int:
    """How many evaluations there were since the best one, in a log."""
    best, since = float("-inf"), 0
    for value in (line[name] for line in history if name in line):
        best, since = (value, 0) if value > best else (best, since + 1)
    return since


def _means(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each number over the steps that have it: a student may begin or cease to add one."""
    values: dict[str, list[float]] = {}
    for step in steps:
        for name, value in step.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


class _Table(TrainerCallback):
    """A bar with rate and remaining time, and a row of numbers each tenth of the way."""

    def __init__(self, steps: int) -> None:
        self.every = max(1, steps // 10)
        self.bar: tqdm | None = None
        self.columns: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = console.bar(state.max_steps, "train", "steps")
        self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        evaluated = {name: value for name, value in (logs or {}).items() if name.startswith("eval_")}
        for name, value in evaluated.items():
            console.say(f"{state.global_step:>9,}  {name.removeprefix('eval_')} on dev {value:.4f}")
        if self.bar is None or self.bar.disable or not logs or "loss" not in logs or evaluated:
            return
        self.bar.set_postfix_str(f"loss {float(logs['loss']):.4f}", refresh=False)
        if state.global_step == 1 or state.global_step % self.every < args.logging_steps:
            hidden = ("epoch", "grad_norm")
            shown = {
                name: v for name, v in logs.items() if not name.endswith("_without_entries") and name not in hidden
            }
            if list(shown) != self.columns:
                self.columns = list(shown)
                console.say("     step  " + "  ".join(f"{name:>13}" for name in shown))
            console.say(f"{state.global_step:>9,}  " + "  ".join(f"{value:>13.4g}" for value in shown.values()))

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
