"""Pools as mining makes them, from ranks and scores alone."""

from __future__ import annotations

import numpy as np

from retrodistill.collections import Collection, Texts
from retrodistill.mining.pool import Pool, key_of

POSITIVES = ("p0", "p1")


def pool_of(ranks=None, scores=None, *, judge=None, positives=(), places=None, spaces=None, texts=None, query="what"):
    """Documents d0, d1, ... at ranks 1, 2, ... or at those given; `positives` are the judge's scores of p0, p1, ..."""
    if ranks is None:
        ranks = np.arange(1, len(scores) + 1) if scores is not None else []
    names = [f"d{row}" for row in range(len(ranks))]
    relevant = [f"p{row}" for row in range(len(positives))]
    texts = texts or {}
    corpus = Texts.documents(
        "toy", [(doc, "", texts.get(doc, doc)) for doc in dict.fromkeys([*names, *relevant, *texts])]
    )
    collection = Collection("toy", corpus, Texts.queries("toy", [("q", query)]), {})
    known = {} if scores is None else dict(zip(names, scores, strict=True))
    known |= dict(zip(relevant, positives, strict=True))
    return Pool(
        query="q",
        documents=names,
        ranks=np.array(ranks, dtype=np.int64),
        positives=relevant,
        collection=collection,
        found={
            source: {doc: -float(rank) for doc, rank in sorted(ranks.items(), key=lambda item: item[1])}
            for source, ranks in (places or {}).items()
        },
        scores_by={key_of(judge): known},
        spaces={} if spaces is None else {key_of(part): space for part, space in spaces.items()},
    )


def frequencies(sampler, pool, draws=4_000):
    """How often each document is drawn, int64, shape (documents,)."""
    counts = np.zeros(len(pool), dtype=np.int64)
    for seed in range(draws):
        counts[sampler.choose(pool, np.random.default_rng(seed))] += 1
    return counts


def follows(counts, expected):
    """Whether counts of single draws are as a distribution has them: chi-square below its 0.999 quantile.

    Cells that expect fewer than 5 are counted as one with the least of the others.
    """
    from scipy.stats import chi2

    expected = np.asarray(expected, dtype=float)
    assert counts[expected == 0].sum() == 0
    order = np.argsort(expected)
    counts, mean = counts[order], (expected / expected.sum() * counts.sum())[order]
    rare = int((mean < 5).sum())
    cells = np.concatenate([[0], np.arange(rare + 1, len(mean))])
    counts, mean = np.add.reduceat(counts, cells), np.add.reduceat(mean, cells)
    return float(((counts - mean) ** 2 / mean).sum()) < chi2.ppf(0.999, len(counts) - 1)
