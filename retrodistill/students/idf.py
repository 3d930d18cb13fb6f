"""Inverse document frequencies of a model's tokens: what queries weigh that no encoder reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from retrodistill import console

if TYPE_CHECKING:
    from retrodistill.collections import Texts

_TEXTS_AT_ONCE = 1_000


def inverse_document_frequencies(tokenizer: Any, corpus: Texts) -> dict[str, float]:
    """How rare each token is in a corpus: `log(1 + (N - n + 1/2) / (n + 1/2))` of the n of N texts that have it.

    Special tokens are left out. Tokens that no text has weigh the most: a query that has one asks for what is rare.

    Source: BM25's (Robertson and Zaragoza 2009), with the 1 that keeps it positive; as a table for queries, Geng et al.
    2024, "Towards Competitive Search Relevance For Inference-Free Learned Sparse Retrievers".
    """
    counts, total = np.zeros(len(tokenizer), dtype=np.int64), len(corpus)
    with console.progress(total, "idf", "documents") as bar:
        for start in range(0, total, _TEXTS_AT_ONCE):
            texts = corpus.texts(slice(start, start + _TEXTS_AT_ONCE))
            for tokens in tokenizer(texts, add_special_tokens=False, truncation=False)["input_ids"]:
                counts[np.unique(np.array(tokens, dtype=np.int64))] += 1
            bar.update(len(texts))
    weights = np.log1p((total - counts + 0.5) / (counts + 0.5))
    special = set(tokenizer.all_special_ids)
    return {token: round(float(weights[row]), 6) for token, row in tokenizer.get_vocab().items() if row not in special}
