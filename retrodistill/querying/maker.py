"""What every maker of queries shares: how many there may be, and what becomes of the document a query is made of."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, cast

from pydantic import Field

from retrodistill.collections import Collection, MadeQuery, Texts
from retrodistill.errors import InputError
from retrodistill.querying.round_trip import RoundTrip
from retrodistill.registry import Part

Role = Literal["relevant", "unlabelled", "barred"]


class QueryMaker(Part):
    """A rule that makes queries of documents.

    Attributes:
        limit: at most so many of the corpus, the same ones whatever else there is.
        source: what the document that a query is made of is to it: `relevant`, as if a label said so; `unlabelled`, so
            that teachers alone speak of it; or `barred` from the query's candidates, as it is found too easily.
        round_trip: who must find the document by the query.
    """

    limit: int | None = Field(None, ge=1, description="at most so many queries, drawn by seed")
    source: Role = Field("relevant", description="what the document that a query is made of is to it")
    round_trip: RoundTrip | None = Field(None, description="keep those that find their document, as {depth: 10}")

    @abstractmethod
    def make(self, corpus: Texts, seed: int) -> Iterator[MadeQuery]:
        """All queries of a corpus, document by document; a document's are drawn by its own id and the seed."""

    def stream(self, collection: Collection, seed: int) -> Iterator[MadeQuery]:
        """Queries in the order in which they are taken until there are enough: by chance, which ids and seed decide."""
        yield from sorted(self.make(collection.corpus, seed), key=lambda query: draw(seed, query.id))


def make_queries(makers: Sequence[Part], collection: Collection, seed: int) -> list[MadeQuery]:
    """The queries of several makers on a collection's corpus, in their order, without empty ones.

    Raises:
        InputError: a maker makes none of this corpus.
    """
    made: list[MadeQuery] = []
    rows = {doc: row for row, doc in enumerate(collection.corpus.ids)}
    for part in makers:
        maker = cast(QueryMaker, part)
        asked = (query for query in maker.stream(collection, seed) if query.text.strip())
        kept = asked if maker.round_trip is None else maker.round_trip.kept(asked, collection, maker.label)
        found = list(islice(kept, maker.limit))
        if not found:
            raise InputError(f"queries {maker.label}: makes none of the documents of {collection.name}; leave it out")
        found.sort(key=lambda query: (rows[query.source], query.id))
        made += [query._replace(role=maker.source) for query in found]
    return made


def draw(seed: int, name: str) -> int:
    """A number below 2^64 that seed and name alone decide."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
