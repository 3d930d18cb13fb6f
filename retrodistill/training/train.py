"""Trains a student with transformers' Trainer; after a crash it goes on, and ends with the same weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrodistill import console
from retrodistill.encoders import Precision, device_of, quiet_libraries
from retrodistill.errors import InputError
from retrodistill.files import atomic_folder, digest_of, refuse_to_replace, write_json, write_text
from retrodistill.models import read_json
from retrodistill.training.card import CARD, card
from retrodistill.training.lists import Lists
from retrodistill.training.options import TrainOptions

if TYPE_CHECKING:
    from retrodistill.candidates import Candidates
    from retrodistill.collections import Collection
    from retrodistill.losses.batch import Loss
    from retrodistill.registry import Part
    from retrodistill.students.student import Student


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
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a student and write it to `out`, a folder that plain sentence-transformers loads.

    Checkpoints lie beside it in `OUT.partial/` until it is done. Called again after a crash with the same arguments,
    training goes on from the last one.

    Args:
        student: what learns.
        losses: what is summed.
        candidates: what mining found.
        collection: where texts are.
        out: the model's folder; replaced only when training is done.
        teacher: combined scores, float32 (candidates,), NaN where missing.
        options: of the loop.
        seed: of order, draws and dropout.
        extra: what else the manifest says.

    Returns:
        The manifest that lies in `out` as manifest.json.

    Raises:
        InputError: a loss needs labels or judgements and there are none, or scores that the student does not give; a
            loss is not finite, there is not one score a candidate, a logger is not installed, or `out` holds something
            that is no model of ours.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("training in several processes is not supported yet; start it without torchrun")
    refuse_to_replace(out)
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
    )
    parts = cast("Sequence[Loss]", losses)
    for loss in parts:
        if said := misfit(cast("Student", student), loss):
            raise InputError(said)
    check(parts, lists)
    asked = describe(student, losses, candidates, collection, teacher=teacher, options=options, seed=seed)
    partial = _partial(out, digest_of(asked))
    began = time.perf_counter()
    model, facts = _run(cast("Student", student), parts, lists, options, seed, partial)
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
    with atomic_folder(out) as folder:
        cast("Student", student).save(model, folder)
        write_text(folder / CARD, card(cast("Student", student), manifest))
        if (partial / "runs").is_dir():  # what loggers such as TensorBoard wrote
            shutil.copytree(partial / "runs", folder / "logs")
        write_json(folder / "manifest.json", manifest)
    shutil.rmtree(partial)
    return manifest


def describe(
    student: Part,
    losses: Sequence[Part],
    candidates: Candidates,
    collection: Collection,
    *,
    teacher: np.ndarray | None,
    options: TrainOptions,
    seed: int,
) -> dict[str, Any]:
    """Everything that decides the trained weights; how often they are saved and who is told do not.

    `max_tokens` does, in the last bits and through dropout's draws, although not in what is computed.
    """
    return {
        "student": cast("Student", student).identity,
        "losses": [loss.model_dump() for loss in losses],
        "options": options.model_dump(exclude={"checkpoint_every", "report_to"}),
        "candidates": candidates.digest,
        "teacher": None if teacher is None else hashlib.sha256(teacher.tobytes()).hexdigest(),
        "texts": collection.digest,
        "seed": seed,
    }


def check(losses: Sequence[Loss], lists: Lists) -> None:
    """Refuse to train on nothing.

    Raises:
        InputError: naming the loss and the stop that writes what it misses.
    """
    for loss in losses:
        if loss.needs_teacher and not lists.judged:
            raise InputError(
                f"loss {loss.kind} learns from a teacher, but none of the {len(lists.candidates)} candidates has a "
                "score; score them first: retrodistill score"
            )
        if loss.needs_labels and not lists.positives:
            raise InputError(
                f"loss {loss.kind} needs labelled positives, but no candidate is labelled relevant; "
                "mine with positives, or train with kl alone"
            )


def misfit(student: Student, loss: Loss) -> str | None:
    """Why a student cannot learn from a loss; None where it can."""
    if student.scores_all_pairs or not loss.in_batch:
        return None
    own = "; set in_batch_negatives: false" if hasattr(loss, "in_batch_negatives") else "; choose another loss"
    return f"{loss.kind} looks at other queries' documents, which a {student.kind} student does not score{own}"


def resolve_precision(asked: str, device: str) -> Precision:
    """`auto` is bf16 where the processor multiplies it natively."""
    import torch

    if asked != "auto":
        return cast(Precision, asked)
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "fp32"


def loss_line(log: Sequence[Mapping[str, float]]) -> str:
    """How the loss went, in words: the mean of the first fifth of the logged steps against that of the last."""
    count = max(1, len(log) // 5)
    first, last = (sum(line["loss"] for line in part) / count for part in (log[:count], log[-count:]))
    return f"loss {first:.4f} in the first fifth, {last:.4f} in the last"


def _partial(out: Path, fingerprint: str) -> Path:
    """The folder of checkpoints, emptied where it belongs to another training."""
    partial = out.with_name(out.name + ".partial")
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
    student: Student, losses: Sequence[Loss], lists: Lists, options: TrainOptions, seed: int, partial: Path
) -> tuple[Any, dict[str, Any]]:
    quiet_libraries()
    import transformers

    from retrodistill.training.objective import Objective
    from retrodistill.training.tokens import TokenCache
    from retrodistill.training.trainer import StudentTrainer, last_checkpoint

    device = device_of(None)
    precision = resolve_precision(options.precision, device)
    transformers.set_seed(seed)
    model = student.load(device)
    tokens = TokenCache(student, model, lists.collection, lists.queries, lists.document_rows)
    objective = Objective(student, model, losses, tokens, precision=precision, max_tokens=options.max_tokens)
    steps = lists.batches_an_epoch * options.epochs
    steps = min(steps, options.max_steps) if options.max_steps else steps
    trainer = StudentTrainer(model, objective, lists, steps, options, seed, partial)
    resumed = last_checkpoint(partial)
    if resumed:
        console.say(f"train     goes on from step {resumed.name.rpartition('-')[2]} of {steps}")
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    return model.eval(), {
        "steps": steps,
        "device": device,
        "precision": precision,
        "log": [line for line in trainer.state.log_history if "loss" in line],
    }
