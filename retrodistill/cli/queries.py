"""Verbs that make what training wants of a corpus: queries, and tables for those that no encoder reads."""

from __future__ import annotations

from pathlib import Path

import click

from retrodistill import console
from retrodistill.cli import options


@click.command()
@options.data
@click.option(
    "--from", "makers", multiple=True, required=True, help="title, sentence:2 or {kind: sentence, limit: 3000}."
)
@click.option("--split", default="made", show_default=True, help="The split that they go to; beside what it has.")
@options.seed
@options.out("A BEIR folder: the collection with the new queries.")
def queries(data: str, makers: tuple[str, ...], split: str, seed: int, out: Path) -> None:
    """Make queries of documents, where nobody has asked any; teachers say what answers them.

    In a folder the document that a query is made of counts as relevant, as judgements cannot bar one. A recipe's
    data.queries can.

    \b
    Example:
      retrodistill queries --data DIR --from title --from "{kind: sentence, limit: 3000}" --out made/
    """
    from retrodistill.collections import open_collection, write_collection
    from retrodistill.files import refuse_to_replace
    from retrodistill.querying import make_queries
    from retrodistill.recipe import part

    refuse_to_replace(out)
    parts = [part("queries", maker) for maker in makers]
    collection = open_collection(data)
    made = [query._replace(role="relevant") for query in make_queries(parts, collection, seed)]
    write_collection(collection.with_queries(made, split), out)
    for maker in parts:
        count = sum(query.id.startswith(f"{maker.kind}-") for query in made)
        click.echo(f"{maker.label}: {count:,} queries")
    console.say(f"wrote {out}: split {split!r} has them")


@click.command()
@options.data
@click.option("--model", required=True, help="The SPLADE student's model, whose tokens are weighed.")
@options.out("The table, a JSON file; {kind: splade, query: idf, idf: FILE} starts from it.", file=True)
def idf(data: str, model: str, out: Path) -> None:
    """Weigh a model's tokens by how rare they are in a corpus, for queries without an encoder.

    \b
    Example:
      retrodistill idf --data DIR --model MODEL --out idf.json
    """
    from retrodistill.collections import open_collection
    from retrodistill.files import write_json
    from retrodistill.recipe import part
    from retrodistill.students.idf import inverse_document_frequencies

    corpus = open_collection(data).corpus
    tokenizer = part("student", {"kind": "splade", "model": model}).load("cpu").tokenizer
    table = inverse_document_frequencies(tokenizer, corpus)
    write_json(out, table)
    click.echo(f"{out}: {len(table):,} tokens, weighed by {len(corpus):,} documents")
