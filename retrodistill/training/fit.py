"""Whether a student, its losses and what they learn from fit each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrodistill import console
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from retrodistill.losses.batch import Loss
    from retrodistill.students.student import Student
    from retrodistill.training.lists import Lists


def check(student: Student, losses: Sequence[Loss], lists: Lists) -> None:
    """Refuse to train on nothing, or by what the student does not give.

    Raises:
        InputError: naming the loss, and the stop that writes what it misses.
    """
    for loss in losses:
        if said := misfit(student, loss):
            raise InputError(said)
        if loss.asks_teachers:
            if lists.whole is None:
                raise InputError(f"loss {loss.kind} asks teachers about whole batches, and there is none to ask")
        elif loss.needs_teacher and not lists.judged:
            raise InputError(
                f"loss {loss.kind} learns from a teacher, but none of the {len(lists.candidates)} candidates has a "
                "score that is asked for; score them first (retrodistill score), and name the teachers here as there, "
                "options and all"
            )
        if loss.needs_labels and not lists.positives:
            raise InputError(
                f"loss {loss.kind} needs labelled positives, but no candidate is labelled relevant; "
                "mine with positives, or train with kl alone"
            )
    unmoved = [loss.kind for loss in losses if not loss.weighs]
    if unmoved and lists.candidates.weights is not None:
        console.say(f"note: the candidates have weights, which {', '.join(unmoved)} does not look at")
    unheeding = [loss.kind for loss in losses if loss.needs_teacher and not loss.heeds]
    if unheeding and lists.certainty is not None:
        console.say(f"note: the teachers' scores are weighed, which {', '.join(unheeding)} does not heed")


def misfit(student: Student, loss: Loss) -> str | None:
    """Why a student cannot learn from a loss; None where it can."""
    if student.scores_all_pairs or not loss.in_batch:
        return None
    own = "; set in_batch_negatives: false" if hasattr(loss, "in_batch_negatives") else "; choose another loss"
    return f"{loss.kind} looks at other queries' documents, which a {student.kind} student does not score{own}"
