"""Keeps what sources find for a split that is measured, so that nobody searches again to know what it would cost."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from retrodistill.cache import cache_folder
from retrodistill.candidates import Candidates
from retrodistill.collections import Collection
from retrodistill.errors import InputError
from retrodistill.files import digest_of
from retrodistill.mining.mine import mine
from retrodistill.registry import Part, code_of

# Of what mining makes of a search that drops and adds nothing. Raised when it makes other candidates than before.
VERSION = 1


def found_once(collection: Collection, split: str, sources: Sequence[Part], depth: int) -> Candidates:
    """What sources find for the queries of a split, nothing added and nothing dropped, from the cache folder if there.

    Args:
        collection: where to search.
        split: whose queries to search for.
        sources: retrievers.
        depth: how many documents each source gives a query.

    Raises:
        InputError: as `mine` does.
    """
    kept = kept_once(collection, split, sources, depth)
    if kept is not None:
        return kept
    candidates, _ = mine(collection, split, sources, depth=depth, positives=False)
    candidates.write(_path(collection, split, sources, depth))
    return candidates


def kept_once(collection: Collection, split: str, sources: Sequence[Part], depth: int) -> Candidates | None:
    """What `found_once` gives, where it is kept; None where it would have to search.

    Raises:
        InputError: a source cannot be opened.
    """
    path = _path(collection, split, sources, depth)
    if path.exists():
        with contextlib.suppress(InputError):  # damaged: it is made again
            return Candidates.read(path)
    return None


def _path(collection: Collection, split: str, sources: Sequence[Part], depth: int) -> Path:
    qrels = collection.qrels(split)
    made_of = {
        "version": VERSION,
        "texts": collection.digest,
        "queries": [[query, sorted(collection.barred(query))] for query in qrels],
        "judgements": qrels,  # their grades stand beside the candidates
        "sources": [[source.label, cast(Any, source).open(collection).identity] for source in sources],
        **code_of(sources),
        "depth": depth,
    }
    return cache_folder("candidates") / f"{digest_of(made_of)[:32]}.parquet"
