"""Trains a student with transformers' Trainer; after a crash it goes on, and ends with the same weights."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill import console
from retrodistill.encoders import TrainPrecision, device_of, quiet_libraries
from retrodistill.errors import InputError
from retrodistill.files import atomic_folder, digest_of, refuse_to_replace, write_json, write_text
from retrodistill.models import read_json
from retrodistill.registry import code_of
from retrodistill.rounding import is_quicker
from retrodistill.training.card import CARD, card
from retrodistill.training.fit import check
from retrodistill.training.labels import unsaid
from retrodistill.training.lists import Lists
from retrodistill.training.options import TrainOptions
from retrodistill.training.workers import Workers

if TYPE_CHECKING:
    from retrodistill.candidates import Candidates
    from retrodistill.collections import Collection
    from retrodistill.losses.batch import Loss
    from retrodistill.registry import Part
    from retrodistill.scores.preferences import Preferences
    from retrodistill.students.student import Student
    from retrodistill.training.dev import Dev
    from retrodistill.training.whole import WholeBatch


def train(
    student: Part,
    losses: Sequence[Part],
    candidates: Candidates,
    collection: Collection,
    out: Path,
    *,
    teacher: np.ndarray | None = None,
    options: TrainOptions | None = None,
    seed: int = 0,
    dev: str | None = None,
    preferences: Preferences | None = None,
    certainty: np.ndarray | None = None,
    whole: WholeBatch | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a student and write it to `out`, a folder that plain sentence-transformers loads.

    Checkpoints lie beside it in `OUT.partial/` until it is done. Called again after a crash with the same arguments,
    training goes on from the last one. Started by torchrun, its processes share every batch, and end with the weights
    that one would have had, up to the order of sums.

    Args:
        student: what learns.
        losses: what is summed.
        candidates: what mining found.
        collection: where texts are.
        out: the model's folder; replaced only when training is done.
        teacher: combined scores, float32 (candidates,), NaN where missing.
        options: of the loop.
        seed: of order, draws and dropout.
        dev: the split that `options.evaluate_every` measures on.
        preferences: what a teacher that compares says of the candidates.
        certainty: how much each of the combined scores counts, float32 (candidates,), above 0; all alike where None.
        whole: asks the teachers about all pairs of a batch, for losses that learn from these.
        extra: what else the manifest says.

    Returns:
        The manifest that lies in `out` as manifest.json.

    Raises:
        InputError: fp16 is asked for without a GPU, a loss needs labels or judgements and there are none, or scores
            that the student does not give, a loss is not finite, there is not one score a candidate, a logger is not
            installed, there is no such dev split or a query of it is trained on, or `out` holds something that is no
            model of ours.
    """
    refuse_to_replace(out)
    if dev is not None:
        collection.query_ids(dev)
    options = options or TrainOptions()
    for logger in options.report_to:
        if find_spec(logger) is None:
            raise InputError(f"train.report_to: {logger} is not installed; pip install {logger}, or leave it out")
    lists = Lists(
        candidates,
        teacher,
        collection,
        documents=options.documents,
        pick=options.pick,
        batch_size=options.batch_size,
        seed=seed,
        batches=options.batches,
        preferences=preferences,
        certainty=certainty,
        whole=whole,
    )
    parts = cast("Sequence[Loss]", losses)
    learner = cast("Student", student)
    check(learner, parts, lists)
    asked = describe(
        student,
        losses,
        candidates,
        collection,
        teacher=teacher,
        options=options,
        seed=seed,
        dev=dev,
        preferences=preferences,
        certainty=certainty,
        whole=whole,
    )
    device = device_of(None)
    resolve_precision(options.precision, device)
    measured = _dev(learner, lists, options, dev) if options.evaluate_every else None
    workers = Workers.start(device)
    with workers.first() as first:
        partial = _partial(out, digest_of(asked)) if first else _partial_name(out)
    began = time.perf_counter()
    model, facts = _run(learner, parts, lists, options, seed, partial, measured, workers, device)
    manifest = {
        "artefact": "model",
        "student": student.model_dump(),
        "options": options.model_dump(),
        "seed": seed,
        "collection": collection.name,
        "fingerprint": digest_of(asked),
        "inputs": asked,
        **(extra or {}),
        "queries": len(lists.queries),
        "pairs": len(candidates),
        "judged": lists.judged,
        "positives": lists.positives,
        **facts,
        "seconds": round(time.perf_counter() - began, 1),
    }
    with workers.first() as first:
        if first:
            _write(learner, model, out, partial, manifest)
    return manifest


def _write(student: Student, model: Any, out: Path, partial: Path, manifest: dict[str, Any]) -> None:
    with atomic_folder(out) as folder:
        student.save(model, folder)
        write_text(folder / CARD, card(student, manifest))
        if (partial / "runs").is_dir():  # what loggers such as TensorBoard wrote
            shutil.copytree(partial / "runs", folder / "logs")
        write_json(folder / "manifest.json", manifest)
    shutil.rmtree(partial)


def describe(
    student: Part,
    losses: Sequence[Part],
    candidates: Candidates,
    collection: Collection,
    *,
    teacher: np.ndarray | None,
    options: TrainOptions,
    seed: int,
    dev: str | None = None,
    preferences: Preferences | None = None,
    certainty: np.ndarray | None = None,
    whole: WholeBatch | None = None,
) -> dict[str, Any]:
    """Everything that decides the trained weights, the code of parts from elsewhere included.

    How often they are saved and who is told do not.

    `max_tokens` does, in the last bits and through dropout's draws, although not in what is computed.
    """
    known = unsaid(candidates, collection)
    return {
        "student": cast("Student", student).identity,
        "losses": [{**loss.model_dump(), **code_of(loss)} for loss in losses],
        "options": options.model_dump(exclude={"checkpoint_every", "report_to"}),
        "candidates": candidates.digest,
        **({"relevant": digest_of(known)} if known else {}),
        "teacher": None if teacher is None else _digest(teacher),
        **({} if certainty is None else {"certainty": _digest(certainty)}),
        **({} if whole is None else {"whole": whole.identity}),
        **({} if preferences is None else {"preferences": preferences.digest}),
        "texts": collection.digest,
        "seed": seed,
        **({"dev": [dev, digest_of(collection.qrels(dev))]} if dev and options.evaluate_every else {}),
    }


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def resolve_precision(asked: str, device: str) -> TrainPrecision:
    """`auto` is bf16 where the processor multiplies it natively.

    Raises:
        InputError: fp16 is asked for on a CPU, whose gradients nothing scales.
    """
    import torch

    if asked == "fp16" and not device.startswith("cuda"):
        raise InputError("train.precision: fp16 is for a GPU, and torch sees none here; use auto, bf16 or fp32")
    if asked != "auto":
        return cast(TrainPrecision, asked)
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if is_quicker() else "fp32"


def loss_line(log: Sequence[Mapping[str, float]]) -> str:
    """How the loss went, in words: the mean of the first fifth of the logged steps against that of the last."""
    count = max(1, len(log) // 5)
    first, last = (sum(line["loss"] for line in part) / count for part in (log[:count], log[-count:]))
    return f"loss {first:.4f} in the first fifth, {last:.4f} in the last"


def _partial_name(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _dev(student: Student, lists: Lists, options: TrainOptions, split: str | None) -> Dev:
    from retrodistill.training.dev import Dev

    if split is None:
        raise InputError(
            "train.evaluate_every needs a split to measure on; name one as data.dev or --dev, or leave it out"
        )
    collection = lists.collection
    trained = set(lists.candidates.queries)
    both = [query for query in collection.query_ids(split) if query in trained]
    if both:
        raise InputError(
            f"{len(both)} queries of the dev split {split!r} are trained on, such as {both[0]!r}; "
            "what is chosen by them would flatter itself: hold them back from training"
        )
    return Dev(collection, split, options.metric, student)


def _partial(out: Path, fingerprint: str) -> Path:
    """The folder of checkpoints, emptied where it belongs to another training."""
    partial = _partial_name(out)
    stamp = partial / "training.json"
    if not stamp.exists() or read_json(stamp).get("fingerprint") != fingerprint:
        stale = list(partial.glob("checkpoint-*"))
        if stale:
            console.say(f"{partial}: checkpoints of other inputs or options; starting afresh")
        # The stamp changes last: killed in between, what is left still counts as the other training's.
        for checkpoint in stale:
            shutil.rmtree(checkpoint)
        write_json(stamp, {"fingerprint": fingerprint})
    return partial


def _run(
    student: Student,
    losses: Sequence[Loss],
    lists: Lists,
    options: TrainOptions,
    seed: int,
    partial: Path,
    dev: Dev | None,
    workers: Workers,
    device: str,
) -> tuple[Any, dict[str, Any]]:
    quiet_libraries()
    import transformers

    from retrodistill.training.objective import Objective
    from retrodistill.training.tokens import TokenCache
    from retrodistill.training.trainer import StudentTrainer, last_checkpoint

    precision = resolve_precision(options.precision, device)
    transformers.set_seed(seed)
    model = student.load(device)
    with workers.first():
        if lists.whole is not None:
            lists.whole.prepare(lists.queries)
        tokens = TokenCache(student, model, lists.collection, lists.queries, lists.document_rows)
    prepare(model, options)
    objective = Objective(
        student, model, losses, tokens, precision=precision, max_tokens=options.max_tokens, workers=workers
    )
    steps = lists.batches_an_epoch * options.epochs
    steps = min(steps, options.max_steps) if options.max_steps else steps
    trainer = StudentTrainer(model, objective, lists, steps, options, seed, partial, dev)
    resumed = last_checkpoint(partial)
    if resumed:
        console.say(f"train     goes on from step {resumed.name.rpartition('-')[2]} of {steps}")
        trainer.go_on(resumed)
    else:
        trainer.train()
    log = trainer.state.log_history
    return model.eval(), {
        "steps": trainer.state.global_step,
        "device": device,
        "precision": precision,
        "processes": workers.count,
        "log": [line for line in log if "loss" in line],
        **({"dev": _chosen(trainer.state, options.metric)} if dev else {}),
    }


def _chosen(state: Any, metric: str) -> dict[str, Any]:
    """How the student did on the dev split, and which of its weights were kept."""
    name = f"eval_{metric}"
    measured = {line["step"]: line[name] for line in state.log_history if name in line}
    return {"metric": metric, "by_step": measured, "kept_step": state.best_global_step, "kept": state.best_metric}


def prepare(model: Any, options: TrainOptions) -> None:
    """Have the model's transformer forget its activations, or compile it, as asked."""
    import torch
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            if options.gradient_checkpointing:
                # transformers renamed it on the way through 5
                enable = getattr(module, "activation_checkpointing_enable", module.gradient_checkpointing_enable)
                enable({"use_reentrant": False})
            if options.compile:
                # sentence-transformers calls `forward` itself, past what `Module.compile` would put before it
                module.forward = torch.compile(module.forward, dynamic=True)
            return
    asked = [name for name in ("gradient_checkpointing", "compile") if getattr(options, name)]
    if asked:
        raise InputError(f"train.{asked[0]}: the student has no transformer to apply it to; leave it out")
