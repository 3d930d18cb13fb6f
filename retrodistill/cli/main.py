"""The group of verbs, and how mistakes are told: one message, exit code 2, no traceback."""

from __future__ import annotations

import sys
from typing import Any

import click

from retrodistill.cli import exchange, queries, recipes, results, scores, stops
from retrodistill.errors import InputError


class _Road(click.Group):
    """Verbs in the order of the road, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            _fail(str(error))
        except OSError as error:
            if error.filename is None and error.errno is None:
                raise
            where = f"{error.filename}: " if error.filename else ""
            _fail(
                f"{where}{error.strerror or error}; nothing half-written is left. Run the same command again after that"
            )
        except KeyboardInterrupt:
            click.echo("stopped; run the same command again to go on", err=True)
            sys.exit(130)


def _fail(message: str) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(2)


@click.group(cls=_Road, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="retrodistill")
def main() -> None:
    """Distil rerankers into retrievers.

    One verb a stop: mine candidates, score them with teachers, train a student, index, search and evaluate it;
    `run` walks the whole road of a recipe.

    \b
    Three things to come for:
      retrodistill mine --data DIR --source bm25 --out candidates.parquet
      retrodistill run recipes/quickstart.yaml
      retrodistill evaluate sentence-transformers/all-MiniLM-L6-v2 --data DIR --out runs/minilm
    """


for verb in (
    recipes.run,
    queries.queries,
    queries.idf,
    stops.mine,
    stops.score,
    stops.train,
    stops.index,
    stops.search,
    results.evaluate,
    results.report,
    recipes.plan,
    recipes.audit,
    scores.store,
    exchange.import_,
    exchange.export,
    recipes.validate,
    recipes.ls,
):
    main.add_command(verb)
