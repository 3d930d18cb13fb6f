"""What a collection's labels say beyond the rows of its candidates: what is relevant is no negative, mined or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from retrodistill.candidates import Candidates
    from retrodistill.collections import Collection
    from retrodistill.runs import Qrels


def unsaid(candidates: Candidates, collection: Collection) -> Qrels:
    """Relevant documents that no row of their query says so of: it has none for them, or one without a label.

    A row's own label is the last word on its document. Where no row has a label, nobody is to look at any, and there
    are none. A query's judgements are those of the first split that has some of it.

    Returns:
        Grades above 0 by query and document; queries without any are left out.
    """
    if not len(candidates) or bool(np.isnan(candidates.labels).all()):
        return {}
    relevant = _relevant(candidates.queries, collection)
    if not relevant:
        return {}
    documents, found = candidates.doc_rows(collection.corpus), {}
    for place, query in enumerate(candidates.queries):
        if query not in relevant:
            continue
        rows = np.arange(candidates.offsets[place], candidates.offsets[place + 1])
        labelled = set(documents[rows[~np.isnan(candidates.labels[rows])]].tolist())
        grades = {doc: grade for doc, grade in relevant[query].items() if collection.corpus.row(doc) not in labelled}
        if grades:
            found[query] = grades
    return found


def _relevant(queries: list[str], collection: Collection) -> Qrels:
    """The relevant documents that the corpus has, by query."""
    wanted, found = set(queries), {}
    for split in collection.splits:
        if not wanted:
            break
        qrels = collection.qrels(split)
        for query in wanted & qrels.keys():
            found[query] = {doc: grade for doc, grade in qrels[query].items() if grade > 0 and doc in collection.corpus}
        wanted -= found.keys()
    return found
