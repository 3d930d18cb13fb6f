"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from retrodistill.files import refuse_unwritable

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

data = click.option(
    "--data", required=True, help="A BEIR-format folder, a BEIR name such as scifact, or builtin/pydocs."
)
store = click.option(
    "--store", type=click.Path(path_type=Path), default=Path("scores"), show_default=True, help="The score store."
)
# As a recipe has it: what numpy, transformers and numba take.
seed = click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of every draw.")
settings = click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")


def split(default: str) -> Decorator:
    """Whose queries and judgements count."""
    return click.option("--split", default=default, show_default=True, help="The split, as in qrels/SPLIT.tsv.")


def out(what: str, *, file: bool = False, required: bool = True) -> Decorator:
    """Where to write, a folder or a file: refused before the work where that cannot be."""
    place = click.Path(path_type=Path, file_okay=file, dir_okay=not file)
    return click.option("--out", type=place, required=required, callback=_checked, help=what)


def _checked(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        refuse_unwritable(path)
    return path
