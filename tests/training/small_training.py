"""A training problem small enough for a test: candidates and teacher scores over the collection of topics."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from retrodistill.candidates import Candidates
from retrodistill.training.lists import Lists

NAN = float("nan")


def candidates_over(collection, split="train", depth=10, labels=True):
    """Each query's relevant documents, then others in an order of its own, `depth` in all."""
    generator = np.random.default_rng(0)
    rows = {}
    for query in collection.query_ids(split):
        grades = collection.qrels(split)[query]
        others = [doc for doc in generator.permutation(collection.corpus.ids).tolist() if doc not in grades]
        found = [*grades, *others][:depth]
        rows[query] = [
            (doc, "bm25", rank, float(-rank), grades.get(doc) if labels else None)
            for rank, doc in enumerate(found, start=1)
        ]
    return Candidates.of(rows)


def teacher_over(candidates):
    """Scores that know a query's topic, float32 (candidates,); every seventh is missing."""
    topics = [query.removeprefix("q-")[:-1] for query in candidates.query_ids]
    same = np.array([doc.startswith(topic) for doc, topic in zip(candidates.doc_ids, topics, strict=True)])
    scores = (
        np.where(same, 4.0, 0.0) + np.nan_to_num(candidates.labels) + np.random.default_rng(1).normal(0, 0.3, len(same))
    )
    scores[::7] = np.nan
    return scores.astype(np.float32)


def lists_over(collection, **options):
    candidates = candidates_over(collection)
    options = {"documents": 6, "pick": "uniform", "batch_size": 4, "seed": 0, **options}
    return Lists(candidates, teacher_over(candidates), collection, **options)


class Listed(NamedTuple):
    """A list of documents for one query: id, label and teacher's score."""

    doc: str
    label: int | None = None
    teacher: float = NAN


def lists_of(rows, ranks=None, judgements=None, **options):
    """Lists over a collection made of just these: query -> its `Listed` documents, whose texts are "text of ID".

    `judgements` are the collection's, by split; none where left out.
    """
    from retrodistill.collections import Collection
    from retrodistill.collections.texts import Texts

    docs = dict.fromkeys(row.doc for listed in rows.values() for row in listed)
    collection = Collection(
        "made",
        Texts.documents("made", [(doc, "", f"text of {doc}") for doc in docs]),
        Texts.queries("made", [(query, f"text of {query}") for query in rows]),
        judgements or {},
    )
    candidates = Candidates.of(
        {
            query: [
                (row.doc, "bm25", ranks[place] if ranks else place + 1, 0.0, row.label)
                for place, row in enumerate(listed)
            ]
            for query, listed in rows.items()
        }
    )
    teacher = np.array([row.teacher for listed in rows.values() for row in listed], dtype=np.float32)
    options = {"documents": 4, "pick": "uniform", "batch_size": 2, "seed": 0, **options}
    return Lists(candidates, teacher, collection, **options)


def read(lists, number):
    """A batch with the texts in place of their rows."""
    batch, collection = lists.batch(number), lists.collection
    queries, documents = collection.queries.texts(batch.queries), collection.corpus.texts(batch.documents)
    return replace(batch, queries=np.array(queries, dtype=object), documents=np.array(documents, dtype=object))


def by_id(batch, matrix):
    """A batch's matrix as {(query, document): value}, by the ids that stand in the texts of `lists_of`."""
    return {
        (query.removeprefix("text of "), document.removeprefix("text of ")): getattr(batch, matrix)[row, column].item()
        for row, query in enumerate(batch.queries)
        for column, document in enumerate(batch.documents)
    }
