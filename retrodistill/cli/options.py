"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path

import click

data = click.option("--data", required=True, help="A BEIR-format folder, a BEIR name such as scifact, or builtin/pydocs.")
store = click.option(
    "--store", type=click.Path(path_type=Path), default=Path("scores"), show_default=True, help="The score store."
)
seed = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every draw.")
settings = click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")


def split(default: str) -> click.Option:
    """Whose queries and judgements count."""
    return click.option("--split", default=default, show_default=True, help="The split, as in qrels/SPLIT.tsv.")  # type: ignore[return-value]


def out(what: str) -> click.Option:
    """Where to write."""
    return click.option("--out", type=click.Path(path_type=Path), required=True, help=what)  # type: ignore[return-value]
