"""Verbs that make what training wants of a corpus: queries, and tables for those that no encoder reads."""

from __future__ import annotations

from pathlib import Path

import click

from retrodistill import console
from retrodistill.cli import options
from retrodistill.errors import InputError


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
    from retrodistill.querying import made_by
    from retrodistill.recipe import part

    refuse_to_replace(out)
    parts = [part("queries", maker) for maker in makers]
    for maker in parts:
        if "source" in maker.model_fields_set and maker.source != "relevant":
            raise InputError(
                f"{maker.label}: source: {maker.source} cannot be told by a folder's judgements, by which the document "
                "that a query is made of is relevant; leave it out, or make queries by data.queries of a recipe"
            )
    collection = open_collection(data)
    made = made_by(parts, collection, seed)
    relevant = [query._replace(role="relevant") for queries in made for query in queries]
    write_collection(collection.with_queries(relevant, split), out)
    for maker, queries in zip(parts, made, strict=True):
        click.echo(f"{maker.label}: {len(queries):,} queries of {len({query.source for query in queries}):,} documents")
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
