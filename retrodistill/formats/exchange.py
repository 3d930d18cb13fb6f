"""Between files of judged lists and candidates of a collection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrodistill.candidates import Candidate, Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.formats.format import Format, JudgedList, Listed


class Imported(NamedTuple):
    """What a file held of a collection.

    Attributes:
        candidates: its lists, a document once a query, in the order of the file.
        scores: float32 (candidates,), NaN where the file has none.
        repeated: documents that stood in a query's list again; their first score and their highest label count.
    """

    candidates: Candidates
    scores: np.ndarray
    repeated: int


def imported(form: Format, path: Path, collection: Collection) -> Imported:
    """Read a file's lists as candidates of a collection.

    Raises:
        InputError: the file is broken, or names a query or document that the collection has not.
    """
    queries, documents = _names(form, collection.queries), _names(form, collection.corpus)
    lists: dict[str, dict[str, Listed]] = {}
    repeated = 0
    for found in form.read(path):
        query = _id_of(found.query, queries, "query", path, collection)
        mine = lists.setdefault(query, {})
        for doc in found.documents:
            name = _id_of(doc.document, documents, "document", path, collection)
            repeated += name in mine
            kept = mine.setdefault(name, doc)
            if doc.label is not None and (kept.label is None or doc.label > kept.label):
                mine[name] = kept._replace(label=doc.label)
    if not lists:
        raise InputError(f"{path}: there is no list in it; expected {form.kind}")
    rows = {
        query: [
            Candidate(doc, f"import:{form.kind}", rank, float("nan") if row.score is None else row.score, row.label)
            for rank, (doc, row) in enumerate(mine.items(), start=1)
        ]
        for query, mine in lists.items()
        if mine
    }
    candidates = Candidates.of(rows)
    return Imported(candidates, candidates.scores.astype(np.float32), repeated)


def lists_of(
    form: Format, candidates: Candidates, scores: np.ndarray | None, collection: Collection
) -> Iterator[JudgedList]:
    """Candidates as a format has them: by id or by text, labels as 1 and 0, unlabelled ones as 0.

    Args:
        form: which of the two.
        candidates: what mining found.
        scores: float32 (candidates,), NaN where there is none; None without a teacher.
        collection: where texts are.
    """
    labels = np.nan_to_num(candidates.labels, nan=0.0) > 0
    values = np.full(len(candidates), np.nan) if scores is None else scores
    for query, start, stop in zip(candidates.queries, candidates.offsets[:-1], candidates.offsets[1:], strict=True):
        documents = tuple(
            Listed(
                collection.corpus.text(doc) if form.texts else doc,
                None if np.isnan(value) else float(value),
                int(label),
            )
            for doc, value, label in zip(
                candidates.doc_ids[start:stop], values[start:stop].tolist(), labels[start:stop].tolist(), strict=True
            )
        )
        yield JudgedList(collection.queries.text(query) if form.texts else query, documents)


def _names(form: Format, texts: Texts) -> dict[str, str]:
    """By what the format calls them, the ids of queries or documents."""
    if not form.texts:
        return {key: key for key in texts.ids}
    # of several with one text the first is meant
    return dict(zip(reversed([text.strip() for text in texts.texts()]), reversed(texts.ids), strict=True))


def _id_of(name: str, known: dict[str, str], what: str, path: Path, collection: Collection) -> str:
    found = known.get(name) or known.get(name.strip())
    if found is None:
        shown = name if len(name) <= 60 else name[:60] + "..."
        raise InputError(f"{path}: {what} {shown!r} is not in {collection.name}; is it of another collection?")
    return found
