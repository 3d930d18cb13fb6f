"""What a user did wrong, told once: what was got, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """A mistake in what the user brought; the command line prints it and exits with 2, without a traceback."""


class Problems(InputError):  # noqa: N818 - what it holds, not what it is
    """Several mistakes found together, told together."""

    def __init__(self, heading: str, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join([heading, *(f"  - {problem}" for problem in self.problems)]))


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the choices for a word that is none of them, the nearest first.

    Returns:
        `did you mean 'depth'?` where one is near, else `choose from a, b, c`.
    """
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(choices)}" if choices else "there is nothing to choose from"
