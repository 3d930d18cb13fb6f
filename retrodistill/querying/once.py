"""Keeps the queries that are made of a corpus, so that a run that starts again loads no model and searches nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from retrodistill import console
from retrodistill.cache import cache_folder
from retrodistill.collections import Collection, MadeQuery
from retrodistill.errors import InputError
from retrodistill.files import atomic_file, digest_of
from retrodistill.querying.maker import FAILED, QueryMaker
from retrodistill.registry import Part

# Of what all makers share: drawing, the round trip, the limit. Raised when it takes other queries than before.
VERSION = 1


def make_queries(makers: Sequence[Part], collection: Collection, seed: int) -> list[MadeQuery]:
    """The queries of several makers on a collection's corpus, in their order, without empty ones: `made_by`, as one.

    Raises:
        InputError: a maker makes none of this corpus.
    """
    return [query for made in made_by(makers, collection, seed) for query in made]


def made_by(makers: Sequence[Part], collection: Collection, seed: int) -> list[list[MadeQuery]]:
    """The queries of each maker.

    They are kept in the cache folder, by everything that decides them. They are not where an answer of a model failed,
    so that it is asked for again. What an earlier maker made as well, of the same document, is there once; another
    query that would be called as one of an earlier maker gets the maker's place, from 1, behind its name.

    Raises:
        InputError: a maker makes none of this corpus.
    """
    names, known = set[str](), set[tuple[str, str]]()
    made: list[list[MadeQuery]] = []
    for place, part in enumerate(makers, start=1):
        maker = cast(QueryMaker, part)
        found = _made_once(maker, collection, seed)
        new = [query for query in found if (query.source, query.text) not in known]
        if len(new) < len(found):
            console.say(f"{maker.label}: {len(found) - len(new):,} queries left out, which an earlier maker made")
        made.append(
            [
                query._replace(id=f"{query.id}~{place}" if query.id in names else query.id, role=maker.source)
                for query in new
            ]
        )
        names.update(query.id for query in made[-1])
        known.update((query.source, query.text) for query in new)
    return made


def _made_once(maker: QueryMaker, collection: Collection, seed: int) -> list[MadeQuery]:
    if vars(type(maker)).get("version") is None:  # one that is inherited says nothing of what the class does itself
        return _made(maker, collection, seed, Counter())
    path = cache_folder("queries") / f"{digest_of(_described(maker, collection, seed))[:32]}.json"
    kept = _read(path)
    if kept is not None:
        console.say(f"{maker.label}: {len(kept):,} queries, unchanged, skipped ({path})")
        return kept
    dropped: Counter[str] = Counter()
    made = _made(maker, collection, seed, dropped)
    if not dropped[FAILED]:
        _write(path, made)
    return made


def _described(maker: QueryMaker, collection: Collection, seed: int) -> dict[str, Any]:
    """Everything that decides which queries a maker makes; not what their documents are to them."""
    kind = type(maker)
    return {
        "version": VERSION,
        "maker": [kind.__module__, kind.__qualname__, kind.version],
        "corpus": [collection.corpus.digest, collection.corpus.titles_digest],
        "seed": seed,
        "limit": maker.limit,
        "made": maker.decided_by(collection, seed),
        "round_trip": maker.round_trip and maker.round_trip.decided_by(collection),
    }


def _made(maker: QueryMaker, collection: Collection, seed: int, dropped: Counter[str]) -> list[MadeQuery]:
    rows = {doc: row for row, doc in enumerate(collection.corpus.ids)}
    asked = (query for query in maker.stream(collection, seed, dropped) if query.text.strip())
    kept = asked if maker.round_trip is None else maker.round_trip.kept(asked, collection, maker.label)
    made = list(islice(kept, maker.limit))
    if dropped:
        told = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        console.say(f"{maker.label}: dropped {told}")
    if not made:
        raise InputError(f"queries {maker.label}: makes none of the documents of {collection.name}; leave it out")
    return sorted(made, key=lambda query: (rows[query.source], query.id))


def _read(path: Path) -> list[MadeQuery] | None:
    """What was kept; None where nothing was, or it is damaged, so that it is made again."""
    try:
        kept = json.loads(path.read_bytes())
        if kept["digest"] == digest_of(json.dumps(kept["queries"])):
            return [MadeQuery(name, text, source) for name, text, source in kept["queries"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(path: Path, made: Sequence[MadeQuery]) -> None:
    rows = [[query.id, query.text, query.source] for query in made]
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"digest": digest_of(json.dumps(rows)), "queries": rows}), encoding="ascii")
