"""Between files of judged lists and candidates of a collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrodistill.candidates import Candidate, Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.formats.format import Format, JudgedList, Listed

# What becomes of a file's rows that are not candidates as they stood.
REPEATED = "documents stood in a query's list again; their first score and highest label count"
SHARED = "times a text was named that several have in the collection, and no id; the first of them is meant"
EMPTY = "queries have no document"


class Imported(NamedTuple):
    """What a file held of a collection.

    Attributes:
        candidates: its lists, a document once a query, in the order of the file.
        scores: float32 (candidates,), NaN where the file has none.
        told: what is not as it stood in the file, by what happened to it.
    """

    candidates: Candidates
    scores: np.ndarray
    told: Counter[str]


def imported(form: Format, path: Path, collection: Collection) -> Imported:
    """Read a file's lists as candidates of a collection.

    Raises:
        InputError: the file is broken, or names a query or document that the collection has not.
    """
    told: Counter[str] = Counter()
    queries = _Known(form, collection.queries, f"{path}: query", collection.name, told)
    documents = _Known(form, collection.corpus, f"{path}: document", collection.name, told)
    lists: dict[str, dict[str, Listed]] = {}
    for found in form.read(path):
        mine = lists.setdefault(queries.id_of(found.query, found.name), {})
        for doc in found.documents:
            name = documents.id_of(doc.document, doc.name)
            told[REPEATED] += name in mine
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
    told[EMPTY] += len(lists) - len(rows)
    candidates = Candidates.of(rows)
    return Imported(candidates, candidates.scores.astype(np.float32), +told)


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
                doc if form.texts else None,
            )
            for doc, value, label in zip(
                candidates.doc_ids[start:stop], values[start:stop].tolist(), labels[start:stop].tolist(), strict=True
            )
        )
        if form.texts:
            yield JudgedList(collection.queries.text(query), documents, query)
        else:
            yield JudgedList(query, documents)


class _Known:
    """The queries or documents of a collection, by what a format calls them."""

    def __init__(self, form: Format, texts: Texts, where: str, collection: str, told: Counter[str]) -> None:
        self.texts, self.where, self.collection, self.told = texts, where, collection, told
        self._ids: dict[str, str] = {}
        self._shared: set[str] = set()
        for key, text in zip(texts.ids, texts.texts(), strict=True) if form.texts else ():
            if self._ids.setdefault(text.strip(), key) != key:
                self._shared.add(text.strip())
        self._by_text = form.texts

    def id_of(self, said: str, name: str | None) -> str:
        """The id behind a text, or behind an id; which of several texts is meant, the file's own id may tell.

        Raises:
            InputError: there is no such thing.
        """
        bare = said.strip()
        if not self._by_text:
            found = next((key for key in (said, bare) if key in self.texts), None)
        elif name is not None and name in self.texts and self.texts.text(name).strip() == bare:
            found = name
        else:
            found = self._ids.get(bare)
            self.told[SHARED] += bare in self._shared
        if found is None:
            shown = said if len(said) <= 60 else said[:60] + "..."
            raise InputError(f"{self.where} {shown!r} is not in {self.collection}; is it of another collection?")
        return found
