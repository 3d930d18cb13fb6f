"""Verbs on recipes: run, audit, validate, ls."""

from __future__ import annotations

from pathlib import Path

import click

from retrodistill import console
from retrodistill.cli import options


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@options.settings
def run(recipe: Path, settings: tuple[str, ...]) -> None:
    """Walk the whole road of RECIPE: mine, score, train, index, search, evaluate, report.

    KEY=VALUE overrides the recipe. What is there already is skipped; a run that was killed goes on.

    \b
    Example:
      retrodistill run recipes/scifact.yaml data.path=DIR train.epochs=1
    """
    from retrodistill import pipeline
    from retrodistill import recipe as recipes
    from retrodistill.evaluation.report import markdown

    evaluations = pipeline.run(recipes.load(recipe, settings))
    if console.speaks():
        click.echo(markdown(list(evaluations.values())))


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@options.settings
def validate(recipe: Path, settings: tuple[str, ...]) -> None:
    """Judge RECIPE without running it: every mistake at once, each with its line.

    \b
    Example:
      retrodistill validate recipes/scifact.yaml train.epochs=2
    """
    from retrodistill import pipeline
    from retrodistill import recipe as recipes
    from retrodistill.collections.opening import is_at_hand

    loaded = recipes.load(recipe, settings)
    data = loaded.data
    if is_at_hand(data.path):  # a collection that would be downloaded is judged when it is there
        collection = pipeline.opened(loaded, made=False)  # making queries may cost
        asked = [data.train, data.test, *([data.measured_on] if data.measured_on else [])]
        for split in asked[1:] if data.queries and data.train not in collection.splits else asked:
            collection.qrels(split)
    click.echo(loaded.dump(), nl=False)
    click.echo(f"{recipe}: no mistake found", err=True)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--probe",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="Judgements that each teacher makes now, to be timed; 0 for none, and no memory is tried.",
)
@options.settings
def plan(recipe: Path, probe: int, settings: tuple[str, ...]) -> None:
    """Say what RECIPE's teachers will be asked, how much of it the store has, and what the rest takes.

    Judgements, tokens, time, and the cost of a teacher with a price. Exact where the round was mined, a bound before.
    What mining, scoring, training and indexing take of memory is tried in a process of its own, a few batches of each.

    \b
    Example:
      retrodistill plan recipes/scifact.yaml data.path=DIR
    """
    from retrodistill import plan as plans
    from retrodistill import recipe as recipes

    click.echo(plans.plan(recipes.load(recipe, settings), probe=probe).table())


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--queries", type=click.IntRange(min=1), default=200, show_default=True, help="At most so many.")
@options.settings
def audit(recipe: Path, queries: int, settings: tuple[str, ...]) -> None:
    """Ask whether RECIPE's teachers know more than its students and sources, before anything is trained.

    \b
    Example:
      retrodistill audit recipes/scifact.yaml data.path=DIR
    """
    from retrodistill import audit as audits
    from retrodistill import recipe as recipes

    click.echo(audits.audit(recipes.load(recipe, settings), queries).table())


@click.command()
@click.argument("what", required=False)
@click.argument("name", required=False)
def ls(what: str | None, name: str | None) -> None:
    """List what there is: parts by family, collections, recipes, or the options of one part.

    \b
    Examples:
      retrodistill ls
      retrodistill ls loss
      retrodistill ls loss kl
      retrodistill ls collections
      retrodistill ls recipes
    """
    from retrodistill.cli.listing import listing

    click.echo(listing(what, name))
