"""What every maker of queries shares: how many there may be, and what becomes of the document a query is made of."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, cast

from pydantic import Field

from retrodistill.collections import Collection, MadeQuery, Texts
from retrodistill.errors import InputError
from retrodistill.registry import Part

Role = Literal["relevant", "unlabelled", "barred"]


class QueryMaker(Part):
    """A rule that makes queries of documents.

    Attributes:
        limit: at most so many of the corpus, the same ones whatever else there is.
        source: what the document that a query is made of is to it: `relevant`, as if a label said so; `unlabelled`, so
            that teachers alone speak of it; or `barred` from the query's candidates, as it is found too easily.
    """

    limit: int | None = Field(None, ge=1, description="at most so many queries, drawn by seed")
    source: Role = Field("relevant", description="what the document that a query is made of is to it")

    @abstractmethod
    def make(self, corpus: Texts, seed: int) -> Iterator[MadeQuery]:
        """All queries of a corpus, document by document; a document's are drawn by its own id and the seed."""


def make_queries(makers: Sequence[Part], collection: Collection, seed: int) -> list[MadeQuery]:
    """The queries of several makers on a collection's corpus, in their order, without empty ones.

    Raises:
        InputError: a maker makes none of this corpus.
    """
    made: list[MadeQuery] = []
    for part in makers:
        maker = cast(QueryMaker, part)
        found = [query for query in maker.make(collection.corpus, seed) if query.text.strip()]
        if not found:
            raise InputError(f"queries {maker.label}: makes none of the documents of {collection.name}; leave it out")
        if maker.limit is not None and len(found) > maker.limit:
            kept = sorted(found, key=lambda query: draw(seed, query.id))[: maker.limit]
            chosen = {query.id for query in kept}
            found = [query for query in found if query.id in chosen]
        made += [query._replace(role=maker.source) for query in found]
    return made


def draw(seed: int, name: str) -> int:
    """A number below 2^64 that seed and name alone decide."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
