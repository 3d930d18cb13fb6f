"""Verbs that make an artefact each: mine, score, train, index, search."""

from __future__ import annotations

from pathlib import Path

import click

from retrodistill import console
from retrodistill.cli import options
from retrodistill.errors import InputError
from retrodistill.files import write_json


@click.command()
@options.data
@options.split("train")
@click.option(
    "--source",
    "sources",
    multiple=True,
    required=True,
    help="bm25, lucene, dense:MODEL, splade:MODEL, colbert:MODEL, vectors:FOLDER, index:FOLDER, run:FILE, random, "
    "labelled, other_positives or {kind: ...}.",
)
@click.option(
    "--depth", type=click.IntRange(min=1), default=100, show_default=True, help="Documents a source gives a query."
)
@click.option(
    "--sampler",
    help="Keeps some of them, such as top:30, log_uniform:30 or '{kind: simans, n: 30}'. All where left out.",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    help="Drops likely positives, such as duplicates or '{kind: margin, teacher: cross_encoder:MODEL}'; in this order.",
)
@click.option(
    "--refill/--no-refill",
    default=False,
    show_default=True,
    help="Make up what the sampler lacks from the next in rank; without, queries that are short are told.",
)
@click.option("--weigh", help="How much each counts in training, such as cet:TEACHER. All alike where left out.")
@click.option(
    "--positives/--no-positives", default=True, show_default=True, help="Add labelled positives that no source found."
)
@click.option(
    "--labels/--no-labels", default=True, show_default=True, help="Say which are labelled; without, as if none were."
)
@click.option("--memory", help="What mining may take as a whole, such as 2GB: dense vectors stay on disk. Unbounded.")
@options.store
@options.seed
@options.out("The candidates, a Parquet file; OUT.json beside it tells what was kept and dropped.", file=True)
def mine(
    data: str,
    split: str,
    sources: tuple[str, ...],
    depth: int,
    sampler: str | None,
    filters: tuple[str, ...],
    refill: bool,
    weigh: str | None,
    positives: bool,
    labels: bool,
    memory: str | None,
    store: Path,
    seed: int,
    out: Path,
) -> None:
    """Mine the documents that stand against each query.

    \b
    Example:
      retrodistill mine --data DIR --split train --source bm25 \\
        --source dense:sentence-transformers/all-MiniLM-L6-v2 --depth 100 --out candidates.parquet
    """
    from retrodistill import mining
    from retrodistill.collections import open_collection
    from retrodistill.manifests import circumstances
    from retrodistill.memory import granted
    from retrodistill.recipe import part
    from retrodistill.scores.store import ScoreStore

    parts = [part("retriever", source) for source in sources]
    chosen = part("sampler", sampler) if sampler else None
    rules = [part("filter", rule) for rule in filters]
    weigher = part("weigher", weigh) if weigh else None
    collection = open_collection(data)
    candidates, account = mining.mine(
        collection,
        split,
        parts,
        depth=depth,
        sampler=chosen,
        filters=rules,
        refill=refill,
        weigh=weigher,
        positives=positives,
        labels=labels,
        store=ScoreStore(store),
        memory=granted(memory),
        seed=seed,
    )
    asked = {
        "collection": collection.name,
        "split": split,
        "sources": [source.model_dump(mode="json") for source in parts],
        "depth": depth,
        "sampler": chosen and chosen.model_dump(mode="json"),
        "filters": [rule.model_dump(mode="json") for rule in rules],
        "refill": refill,
        **({"weigh": weigher.model_dump(mode="json")} if weigher else {}),
        "positives": positives,
        "labels": labels,
        "seed": seed,
    }
    about = {"artefact": "mine", "candidates": candidates.digest, "options": asked, **account.as_dict()}
    candidates.write(out)
    write_json(out.with_name(f"{out.name}.json"), {**about, **circumstances()})
    click.echo(account.table())
    console.say(f"wrote {out}: {len(candidates):,} candidates of {len(candidates.queries):,} queries")


@click.command()
@click.argument("candidates", type=click.Path(path_type=Path))
@options.data
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    required=True,
    help="cross_encoder:MODEL, dense:MODEL, splade:MODEL, colbert:MODEL, bm25, ...",
)
@click.option("--budget", type=click.IntRange(min=1), help="So many judgements by each teacher, not all of them.")
@click.option(
    "--spend",
    "rule",
    show_default="coverage; of comparisons and windows uncertainty",
    help="Which ones: coverage, every query's best-ranked first; uncertainty, disagreement, random.",
)
@click.option("--hint", "hints", multiple=True, help="A cheap teacher, such as bm25, that judges all for the rule.")
@options.store
@options.seed
def score(
    candidates: Path,
    data: str,
    teachers: tuple[str, ...],
    budget: int | None,
    rule: str | None,
    hints: tuple[str, ...],
    store: Path,
    seed: int,
) -> None:
    """Have teachers score CANDIDATES into the score store; what it has already is not scored again.

    With a budget the judgements go where a rule sends them, slice by slice, each with the nDCG@10 it bought on labelled
    queries; stop it when that no longer rises. What is left out is masked in training.

    \b
    Examples:
      retrodistill score candidates.parquet --data DIR --teacher cross_encoder:MODEL --teacher bm25 --store scores/
      retrodistill score candidates.parquet --data DIR --teacher cross_encoder:MODEL --budget 5000 --hint bm25
    """
    from retrodistill import steps
    from retrodistill.candidates import Candidates
    from retrodistill.collections import open_collection
    from retrodistill.recipe import part
    from retrodistill.scores.store import ScoreStore
    from retrodistill.sections import NOTHING_TO_SPEND, Score

    if budget is None and (rule or hints):
        raise InputError(NOTHING_TO_SPEND)
    section = Score(
        teachers=tuple(part("teacher", teacher) for teacher in teachers),
        budget=budget,
        spend=part("spending", rule) if rule else None,
        hints=tuple(part("teacher", hint) for hint in hints),
    )
    steps.score(section, Candidates.read(candidates), open_collection(data), ScoreStore(store), seed, click.echo)


@click.command()
@options.data
@click.option("--candidates", type=click.Path(path_type=Path), required=True, help="What `mine` wrote.")
@click.option(
    "--student",
    required=True,
    help="dense:MODEL, splade:MODEL, colbert:MODEL, cross_encoder:MODEL, or {kind: dense, model: MODEL, layers: 3}.",
)
@click.option(
    "--loss", "losses", multiple=True, required=True, help="kl, margin_mse, infonce or {kind: ...}; several are summed."
)
@click.option("--teacher", "teachers", multiple=True, help="Whose stored scores to learn from; as given to `score`.")
@click.option("--combine", help="How several teachers become one, such as {kind: mean, normalise: zscore}.")
@click.option(
    "--dev", help="The split that evaluate_every=N, then needed, measures on; the weights that are best there are kept."
)
@options.store
@options.seed
@options.out("The trained model's folder.")
@options.settings
def train(
    data: str,
    candidates: Path,
    student: str,
    losses: tuple[str, ...],
    teachers: tuple[str, ...],
    combine: str | None,
    dev: str | None,
    store: Path,
    seed: int,
    out: Path,
    settings: tuple[str, ...],
) -> None:
    """Train a student on candidates and stored scores. KEY=VALUE sets the loop, such as epochs=2.

    \b
    Example:
      retrodistill train --data DIR --candidates candidates.parquet --store scores/ --teacher bm25 \\
        --student dense:sentence-transformers/all-MiniLM-L6-v2 --loss kl --out model/ epochs=1 batch_size=16
    """
    from retrodistill import steps
    from retrodistill.candidates import Candidates
    from retrodistill.collections import open_collection
    from retrodistill.recipe import options_from, part
    from retrodistill.scores.store import ScoreStore
    from retrodistill.training.options import TrainOptions
    from retrodistill.training.train import loss_line
    from retrodistill.training.train import train as train_student

    learner, objectives = part("student", student), [part("loss", loss) for loss in losses]
    judges = [part("teacher", teacher) for teacher in teachers]
    rule = part("combination", combine) if combine else None
    loop = options_from(TrainOptions, settings)
    if dev is not None and loop.evaluate_every is None:
        raise InputError(f"--dev {dev}: nothing is measured on it; add evaluate_every=N, or leave --dev out")
    found, collection = Candidates.read(candidates), open_collection(data)
    taught = steps.taught(objectives, found, collection, judges, ScoreStore(store), rule)
    extra = {"teachers": [judge.label for judge in judges]}
    manifest = train_student(
        learner,
        objectives,
        found,
        collection,
        out,
        options=loop,
        seed=seed,
        dev=dev,
        **taught,
        extra=extra,
    )
    click.echo(f"{out}: {manifest['steps']} steps in {manifest['seconds']:.0f} s, {loss_line(manifest['log'])}")


@click.command()
@click.argument("model")
@options.data
@click.option("--index", "index_spec", help="The kind of index. The exact one of the model's vectors where left out.")
@options.out("The index's folder.")
@options.settings
def index(model: str, data: str, index_spec: str | None, out: Path, settings: tuple[str, ...]) -> None:
    """Encode a collection with MODEL and index it. KEY=VALUE sets the encoder, such as max_length=256.

    \b
    Example:
      retrodistill index model/ --data DIR --out index/
    """
    from retrodistill import steps
    from retrodistill.collections import open_collection
    from retrodistill.recipe import part
    from retrodistill.retrieval.encoded import EncoderRetriever
    from retrodistill.retrieval.indexed import write_index

    asked = part("index", index_spec) if index_spec is not None else None
    retriever = part("retriever", steps.retriever_spec(model), settings)
    if not isinstance(retriever, EncoderRetriever):
        raise InputError(f"{model!r} encodes no texts; give the folder or the name of a retriever's model")
    made = retriever.exact_index if asked is None else asked
    manifest = write_index(retriever, made, open_collection(data), out)
    click.echo(f"{out}: {manifest['documents']:,} documents, {manifest['details']['index_bytes'] / 1e6:,.1f} MB")


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@options.data
@options.split("test")
@click.option("--depth", type=click.IntRange(min=1), default=100, show_default=True, help="Documents a query.")
@options.out("The TREC run file.", file=True)
def search(index: Path, data: str, split: str, depth: int, out: Path) -> None:
    """Search INDEX for the queries of a split and write a TREC run file.

    \b
    Example:
      retrodistill search index/ --data DIR --split test --out run.trec
    """
    from retrodistill.collections import open_collection
    from retrodistill.retrieval.indexed import Indexed
    from retrodistill.runs import write_run

    collection = open_collection(data)
    collection.refuse_spaces()
    found = Indexed(path=index).open(collection).search(collection.query_ids(split), depth)
    write_run(out, found, index.name)
    click.echo(f"{out}: {len(found):,} queries, {sum(map(len, found.values())):,} documents")
