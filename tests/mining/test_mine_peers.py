"""The same negatives as sentence-transformers' mine_hard_negatives, for the same options and vectors."""

import numpy as np
import pytest

from retrodistill import mining
from retrodistill.mining.margins import Margin, ScoreWindow
from retrodistill.mining.samplers import Window
from retrodistill.retrieval.given import GivenVectors


@pytest.fixture(scope="module")
def vectors(tiny_model, collection, tmp_path_factory):
    from sentence_transformers import SentenceTransformer

    model, folder = SentenceTransformer(str(tiny_model), device="cpu"), tmp_path_factory.mktemp("vectors")
    np.save(folder / "documents.npy", model.encode_document(collection.corpus.texts(), normalize_embeddings=True))
    np.save(folder / "queries.npy", model.encode_query(collection.queries.texts(), normalize_embeddings=True))
    return model, folder


def theirs(model, collection, **options):
    """(query, document) of every negative."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    qrels = collection.qrels("train")
    pairs = [
        (query, doc) for query in collection.query_ids("train") for doc, grade in qrels[query].items() if grade > 0
    ]
    dataset = Dataset.from_dict(
        {
            "query": [collection.queries.text(query) for query, _ in pairs],
            "positive": [collection.corpus.text(doc) for _, doc in pairs],
        }
    )
    mined = mine_hard_negatives(dataset, model, corpus=collection.corpus.texts(), verbose=False, **options)
    queries = {text: query for query, text in zip(collection.queries.ids, collection.queries.texts(), strict=True)}
    documents = {text: doc for doc, text in zip(collection.corpus.ids, collection.corpus.texts(), strict=True)}
    return {(queries[row["query"]], documents[row["negative"]]) for row in mined}


def ours(folder, collection, n, skip, last, margins, window):
    filters = ([ScoreWindow(**window)] if window else []) + ([Margin(**margins)] if margins else [])
    most = max(sum(grade > 0 for grade in grades.values()) for grades in collection.qrels("train").values())
    candidates, account = mining.mine(
        collection,
        "train",
        [GivenVectors(path=folder)],
        depth=last + most,
        sampler=Window(n=n, skip=skip, last=last),
        filters=filters,
        positives=False,
    )
    table = candidates.table.to_pydict()
    rows = zip(table["query_id"], table["doc_id"], table["label"], strict=True)
    return {(query, doc) for query, doc, label in rows if label is None}, account


@pytest.mark.parametrize("faiss", [False, True])
@pytest.mark.parametrize(
    ("n", "skip", "last", "margins", "window"),
    [
        (3, 0, 10, {}, {}),
        (3, 2, 8, {}, {}),
        (5, 0, 22, {"absolute": 0.02}, {}),
        (5, 1, 15, {"relative": 0.03}, {}),
        (4, 0, 20, {"absolute": 0.01, "relative": 0.05}, {}),
        (4, 0, 22, {}, {"max": 0.79}),
        (4, 3, 22, {}, {"min": 0.72, "max": 0.81}),
        (6, 1, 22, {"absolute": 0.0}, {"min": 0.7, "max": 0.8}),
    ],
)
def test_the_same_negatives(n, skip, last, margins, window, faiss, vectors, collection):
    model, folder = vectors
    options = {f"{name}_margin": value for name, value in margins.items()}
    options |= {f"{name}_score": value for name, value in window.items()}
    expected = theirs(
        model, collection, num_negatives=n, range_min=skip, range_max=last, sampling_strategy="top", use_faiss=faiss,
        **options,
    )  # fmt: skip
    found, account = ours(folder, collection, n, skip, last, margins, window)
    assert found == expected
    assert found
    if margins or window:
        assert sum(count for reason, count in account.dropped.items() if reason.startswith("filter")) > 0
