"""The round trip: a query is worth keeping if it leads back to the document that it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from retrodistill import console
from retrodistill.collections import Collection, MadeQuery
from retrodistill.registry import of

_AT_ONCE = 256


class RoundTrip(BaseModel):
    """Keeps queries whose document one of the sources finds among the first `depth`.

    Source: Alberti et al. 2019, "Synthetic QA Corpora Generation with Roundtrip Consistency"; by retrieval, Dai et al.
    2023, "Promptagator: Few-shot Dense Retrieval From 8 Examples".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[of("retriever"), ...] = Field(("bm25",), min_length=1, validate_default=True)  # type: ignore[valid-type]
    depth: int = Field(10, ge=1)

    def decided_by(self, collection: Collection) -> dict[str, Any]:
        """What decides who leads back: depth, and the identities of the sources."""
        bare = Collection(collection.name, collection.corpus, collection.queries, {})
        return {"sources": [cast(Any, source).open(bare).identity for source in self.sources], "depth": self.depth}

    def kept(self, queries: Iterator[MadeQuery], collection: Collection, label: str) -> Iterator[MadeQuery]:
        """Those that lead back, as they come; says how many did when it is over."""
        asked = Collection(collection.name, collection.corpus, collection.queries, {})
        sources = [cast(Any, source).open(asked) for source in self.sources]
        seen = back = 0
        try:
            while some := list(islice(queries, _AT_ONCE)):
                # what was opened looks up texts in here, and keeps what it made of the corpus
                asked.queries = collection.queries.with_queries([(query.id, query.text) for query in some])
                found = self._found(some, sources)
                for query in some:
                    seen += 1
                    if query.id in found:
                        back += 1
                        yield query
        finally:
            console.say(f"{label}: {back:,} of {seen:,} queries led back to their document")

    def _found(self, queries: Sequence[MadeQuery], sources: Sequence[Any]) -> set[str]:
        """Ids of queries whose document is found."""
        made_of = {query.id: query.source for query in queries}
        found: set[str] = set()
        for source in sources:
            run = source.search([name for name in made_of if name not in found], self.depth)
            found.update(name for name, documents in run.items() if made_of[name] in documents)
        return found
