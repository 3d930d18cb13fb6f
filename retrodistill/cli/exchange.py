"""Verbs that read and write other tools' files."""

from __future__ import annotations

from pathlib import Path

import click

from retrodistill.cli import options
from retrodistill.errors import InputError


@click.command("import")
@click.argument("form", metavar="FORMAT")
@click.argument("file", type=click.Path(path_type=Path))
@options.data
@options.store
@options.out("The candidates, a Parquet file.", file=True)
def import_(form: str, file: Path, data: str, store: Path, out: Path) -> None:
    """Read judged lists of another tool: candidates, and its scores into the score store.

    FORMAT is one of `retrodistill ls format`, with options as {kind: triplets, query: question}. Recipes and `train`
    name the scores as {kind: imported, path: FILE, format: FORMAT}.

    \b
    Example:
      retrodistill import colbert examples.jsonl --data DIR --out candidates.parquet --store scores/
    """
    import numpy as np

    from retrodistill.collections import open_collection
    from retrodistill.formats.exchange import imported
    from retrodistill.recipe import part
    from retrodistill.scores.store import ScoreStore
    from retrodistill.teachers import judging

    layout, collection = part("format", form), open_collection(data)
    candidates, scores, told = imported(layout, file, collection)
    candidates.write(out)
    positives = int((candidates.labels > 0).sum())
    counted = f"{len(candidates):,} candidates of {len(candidates.queries):,} queries"
    click.echo(f"{out}: {counted}, {positives:,} labelled positive")
    for what, count in told.items():
        click.echo(f"{count:,} {what}")
    if not np.isnan(scores).all():
        teacher = part("teacher", {"kind": "imported", "path": str(file), "format": layout.model_dump()})
        (judged,) = judging.judge(candidates, collection, [teacher], ScoreStore(store))
        click.echo(f"{int((~np.isnan(scores)).sum()):,} scores (store {store}, fingerprint {judged.fingerprint})")


@click.command()
@click.argument("form", metavar="FORMAT")
@click.argument("candidates", type=click.Path(path_type=Path))
@options.data
@click.option("--teacher", "teachers", multiple=True, help="Whose stored scores to write; as given to `score`.")
@click.option("--combine", help="How several teachers become one, such as {kind: mean, normalise: zscore}.")
@options.store
@options.out("The file.", file=True)
def export(
    form: str, candidates: Path, data: str, teachers: tuple[str, ...], combine: str | None, store: Path, out: Path
) -> None:
    """Write CANDIDATES and their stored scores as another tool reads them.

    \b
    Example:
      retrodistill export flagembedding candidates.parquet --data DIR --teacher cross_encoder:MODEL --out train.jsonl
    """
    import numpy as np

    from retrodistill import steps
    from retrodistill.candidates import Candidates
    from retrodistill.collections import open_collection
    from retrodistill.formats.exchange import lists_of
    from retrodistill.recipe import part
    from retrodistill.scores.store import ScoreStore

    layout, rule = part("format", form), part("combination", combine) if combine else None
    judges = [part("teacher", teacher) for teacher in teachers]
    found, collection = Candidates.read(candidates), open_collection(data)
    scores = steps.teacher_scores(found, collection, judges, ScoreStore(store), rule)
    if scores is not None and len(scores) and np.isnan(scores).all():
        raise InputError(
            f"{store} has no score of these candidates by {', '.join(judge.label for judge in judges)}; nothing "
            "was written. Score them first (retrodistill score), teachers named as here, or leave --teacher out"
        )
    written = layout.write(lists_of(layout, found, scores, collection), out)
    click.echo(f"{out}: {written.lines:,} lines of {len(found):,} candidates of {len(found.queries):,} queries")
    for what, count in written.left.items():
        click.echo(f"not in it: {count:,} {what}")
