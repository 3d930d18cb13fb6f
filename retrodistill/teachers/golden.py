"""The golden pair: what a teacher must get right before it judges much."""

from __future__ import annotations

from retrodistill.errors import InputError

GOLDEN_QUERY = "How long does a common cold usually last?"
GOLDEN_DOCUMENT = "A common cold usually lasts seven to ten days. Symptoms are at their worst after two or three days."
ABSURD_DOCUMENT = "The town council voted to repaint the railings of the old harbour bridge in dark green next spring."


def expect_better(label: str, better: float, worse: float, cause: str) -> None:
    """Stop a teacher that does not prefer the document that answers.

    Args:
        label: the teacher's.
        better: what it gives the document that answers.
        worse: what it gives the absurd one.
        cause: what may be wrong.

    Raises:
        InputError: it does not prefer it.
    """
    if not better > worse:
        raise InputError(
            f"teacher {label}: asked {GOLDEN_QUERY!r}, it gives {better:.3f} to a document that answers and "
            f"{worse:.3f} to one about the railings of a bridge; {cause}. Nothing was judged; `golden: false` goes on "
            "all the same"
        )
