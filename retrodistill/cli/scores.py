"""Verbs on the score store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from retrodistill.cli import options
from retrodistill.console import markdown_table
from retrodistill.errors import InputError


@click.group()
def store() -> None:
    """Look into the score store, find damage, make its files few, hold teachers against each other."""


@store.command()
@options.store
def info(store: Path) -> None:
    """Whose judgements the store has, how many, and how large they are, and what the cache holds that can go."""
    from retrodistill.cache import passing
    from retrodistill.scores.store import ScoreStore

    rows = [
        [
            found["fingerprint"],
            _told(found["identity"]),
            f"{found['rows']:,}",
            f"{found['orders']:,}",
            f"{found['parts']:,}",
            f"{found['bytes'] / 1e6:,.1f}",
        ]
        for found in ScoreStore(store).teachers()
    ]
    click.echo(markdown_table(["teacher", "what it is", "scores", "orders", "parts", "MB"], rows, numbers=False))
    for name, (entries, size) in passing().items():
        click.echo(f"cache, {name}: {entries:,} entries, {size / 1e6:,.1f} MB; `store compact --caches` drops them")


def _is_there(store: Path) -> None:
    """Refuse a folder without a teacher: one that is named by mistake is not well."""
    if not any(store.glob("*/teacher.json")) and not any(store.glob("*/*.parquet")):
        raise InputError(f"{store}: there is no score store, a folder with one of each teacher; name another --store")


def _told(identity: dict[str, Any]) -> str:
    """The kind, and the options that are short enough to be read: no digests, no templates."""
    rest = {key: value for key, value in identity.items() if key != "kind" and isinstance(value, str | int | float)}
    return ", ".join([str(identity.get("kind", "?")), *(f"{k} {v}" for k, v in rest.items() if len(str(v)) <= 30)])


@store.command()
@options.store
def verify(store: Path) -> None:
    """Read everything and name what is damaged; the exit status says whether anything is."""
    from retrodistill.scores.store import ScoreStore

    _is_there(store)
    damaged = ScoreStore(store).verify()
    for line in damaged:
        click.echo(line)
    click.echo(f"{len(damaged)} damaged" if damaged else "all is well")
    if damaged:
        sys.exit(1)


@store.command()
@options.store
@click.option(
    "--caches",
    is_flag=True,
    help="Also drop cached candidates, queries, tokens and combined scores, of all stores, to be made again if needed.",
)
def compact(store: Path, caches: bool) -> None:
    """Make few parts of many. Others may read and write meanwhile; killed, nothing is lost.

    With --caches, what was combined of scores, queries made of documents, tokens that students read, and candidates as
    they are mapped or were found to be measured, go from the cache folder too. Judgements and a
    server's answers never do.
    """
    from retrodistill.cache import drop_passing
    from retrodistill.scores.compact import compact as compacted
    from retrodistill.scores.store import ScoreStore

    if not caches:
        _is_there(store)
    for fingerprint, before, after in compacted(ScoreStore(store)):
        click.echo(f"{fingerprint}: {before:,} parts -> {after:,}")
    if caches:
        for name, (entries, size) in drop_passing().items():
            click.echo(f"cache, {name}: {entries:,} entries dropped, {size / 1e6:,.1f} MB")


@store.command()
@click.argument("first")
@click.argument("second")
@options.store
@click.option("--other", type=click.Path(path_type=Path), help="The store that the second teacher is in.")
def diff(first: str, second: str, store: Path, other: Path | None) -> None:
    """Hold the scores of two teachers, by fingerprint, against each other.

    \b
    Example:
      retrodistill store diff 0f3a9b2c11d4e5f6 a7c7120be9931d02 --store scores/
    """
    from retrodistill.scores.compact import compare
    from retrodistill.scores.store import ScoreStore

    found = compare(ScoreStore(store), first, ScoreStore(other or store), second)
    for line in found.differences:
        click.echo(line)
    rows = [
        ["pairs of the first alone", f"{found.first_only:,}"],
        ["pairs of the second alone", f"{found.second_only:,}"],
        ["pairs of both", f"{found.both:,}"],
        ["equal scores", f"{found.equal:,}"],
        ["Pearson's r", f"{found.pearson:.4f}"],
        ["Kendall's tau, mean of queries", f"{found.tau:.4f}"],
        ["largest difference", f"{found.largest:.4g}"],
    ]
    click.echo(markdown_table(["scores", ""], rows))
