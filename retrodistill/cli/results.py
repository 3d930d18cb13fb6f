"""Verbs that measure and show: evaluate, report."""

from __future__ import annotations

from pathlib import Path

import click

from retrodistill import console
from retrodistill.cli import options


@click.command()
@click.argument("system")
@options.data
@options.split("test")
@click.option("--qrels", type=click.Path(path_type=Path), help="Judgements to use instead of the collection's own.")
@click.option("--metric", "metrics", multiple=True, help="An ir_measures name, such as nDCG@10; several may be given.")
@click.option("--depth", type=click.IntRange(min=1), help="Documents a query; enough for the metrics where left out.")
@options.out("A folder for run.trec, results.json and per_query.parquet.")
@options.settings
def evaluate(
    system: str,
    data: str,
    split: str,
    qrels: Path | None,
    metrics: tuple[str, ...],
    depth: int | None,
    out: Path,
    settings: tuple[str, ...],
) -> None:
    """Measure SYSTEM on a collection by BEIR's protocol.

    SYSTEM is a model's folder or name, bm25, index:FOLDER, run:FILE, random or {kind: rerank, ...}. KEY=VALUE sets
    its options.

    \b
    Examples:
      retrodistill evaluate sentence-transformers/all-MiniLM-L6-v2 --data DIR --out runs/minilm
      retrodistill evaluate bm25 --data DIR --out runs/bm25 k1=0.9 b=0.4
      retrodistill evaluate run:FILE.trec --data DIR --qrels FILE --out runs/x
      retrodistill evaluate '{kind: rerank, teacher: "cross_encoder:MODEL"}' --data DIR --out runs/x
    """
    from retrodistill import steps
    from retrodistill.collections import open_collection, read_qrels
    from retrodistill.evaluation.metrics import parse_metrics
    from retrodistill.evaluation.protocol import DEFAULT_METRICS, refuse_others
    from retrodistill.evaluation.report import markdown
    from retrodistill.recipe import part

    names = [metric.name for metric in parse_metrics(metrics or DEFAULT_METRICS)]
    spec = system if system.lstrip().startswith("{") else steps.retriever_spec(system)
    retriever = part("retriever", spec, settings)
    refuse_others(out)
    collection = open_collection(data)
    collection.refuse_spaces()
    judgements = read_qrels(qrels) if qrels else None
    evaluation, run = steps.evaluate(retriever, collection, split, metrics=names, qrels=judgements, depth=depth)
    steps.save_evaluation(out, evaluation, run)
    click.echo(markdown([evaluation]))
    console.say(f"wrote {out}/run.trec, {out}/results.json and {out}/per_query.parquet")


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.out("A .md or .html file; printed where left out.", file=True, required=False)
def report(folders: tuple[Path, ...], out: Path | None) -> None:
    """Compare what `evaluate` wrote into FOLDERS; the first is the baseline.

    \b
    Example:
      retrodistill report runs/bm25 runs/minilm --out report.md
    """
    from retrodistill.evaluation.protocol import load
    from retrodistill.evaluation.report import markdown, write_report

    evaluations = [load(folder) for folder in folders]
    if out is None:
        click.echo(markdown(evaluations))
        return
    write_report(out, evaluations)
    console.say(f"wrote {out}")
