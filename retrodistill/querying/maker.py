"""What every maker of queries shares: how many there may be, and what becomes of the document a query is made of."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from retrodistill.collections import Collection, MadeQuery, Texts
from retrodistill.querying.round_trip import RoundTrip
from retrodistill.registry import Part

Role = Literal["relevant", "unlabelled", "barred"]

# A reason for which a query is not there this time, but may be when it is asked for again.
FAILED = "answers failed"


class QueryMaker(Part):
    """A rule that makes queries of documents.

    Attributes:
        limit: at most so many of the corpus, the same ones whatever else there is.
        source: what the document that a query is made of is to it: `relevant`, as if a label said so; `unlabelled`, so
            that teachers alone speak of it; or `barred` from the query's candidates, as it is found too easily.
        round_trip: who must find the document by the query.
        version: of the rule, raised when the same options make other queries than before. What a class without one of
            its own makes is not kept between runs, as nobody would know when to make it again.
    """

    version: ClassVar[int | None] = None
    limit: int | None = Field(None, ge=1, description="at most so many queries, drawn by seed")
    source: Role = Field("relevant", description="what the document that a query is made of is to it")
    round_trip: RoundTrip | None = Field(None, description="keep those that find their document, as {depth: 10}")

    @abstractmethod
    def make(self, corpus: Texts, seed: int) -> Iterator[MadeQuery]:
        """All queries of a corpus, document by document; a document's are drawn by its own id and the seed."""

    def decided_by(self, collection: Collection, seed: int) -> dict[str, Any]:
        """What decides the queries of a corpus besides its documents, the seed, `limit` and `round_trip`.

        Options as they stand; a maker that opens a model puts the model's identity in its place, and one whose `stream`
        looks at the collection's queries or judgements what it makes of them.
        """
        return self.model_dump(mode="json", exclude={"limit", "source", "round_trip"})

    def stream(self, collection: Collection, seed: int, dropped: Counter[str]) -> Iterator[MadeQuery]:
        """Queries in the order in which they are taken until there are enough: by chance, which ids and seed decide.

        Args:
            collection: whose documents they are made of.
            seed: of what is drawn.
            dropped: counts what is left out on the way, by reason.
        """
        yield from sorted(self.make(collection.corpus, seed), key=lambda query: draw(seed, query.id))


def draw(seed: int, name: str) -> int:
    """A number below 2^64 that seed and name alone decide."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
