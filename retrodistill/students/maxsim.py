"""MaxSim for training: the score matrix of a batch and its gradient, without all token pairs in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retrodistill.encoders import token_batches
from retrodistill.students.embedded import Embedded

_SIMILARITIES_AT_ONCE = 2**24  # floats, of query tokens against document tokens: 64 MiB


def maxsim(queries: Embedded, documents: Embedded) -> Tensor:
    """Sum over a query's vectors of the greatest inner product with a vector of the document; differentiable.

    Documents go through in chunks of like length. Of each query vector and document only the place of the greatest
    product is kept, through which alone the gradient flows (where several are equal, through one of them). Expansion
    tokens of a query are vectors like any other; a query or a document without vectors scores 0.

    Source: Khattab and Zaharia 2020, "ColBERT".

    Returns:
        float32 (queries, documents).
    """
    if queries.lengths is None or documents.lengths is None:
        raise ValueError("MaxSim compares several vectors a text; these have one")
    return _MaxSim.apply(queries.values, queries.lengths, documents.values, documents.lengths)


@dataclass(frozen=True)
class _Chunk:
    """Some documents as a block.

    Attributes:
        documents: int64 (d,), their places in the batch.
        vectors: (d * longest, width), each document's padded with zeros.
        mask: bool (d, longest).
        places: int64 (vectors of these documents,), where they stand among all packed vectors.
    """

    documents: Tensor
    vectors: Tensor
    mask: Tensor
    places: Tensor


def _chunks(values: Tensor, lengths: Tensor, against: int) -> Iterator[_Chunk]:
    """Documents of like length, as many as `against` query vectors may meet at once; those without vectors left out."""
    starts = torch.cumsum(lengths, 0) - lengths
    for rows in token_batches(lengths.tolist(), max(1, _SIMILARITIES_AT_ONCE // max(1, against))):
        documents = torch.from_numpy(rows).to(values.device)
        documents = documents[lengths[documents] > 0]
        if len(documents):
            own = lengths[documents]
            steps = torch.arange(int(own.max()), device=values.device)
            mask = steps < own[:, None]
            places = (starts[documents, None] + steps)[mask]
            block = values.new_zeros((*mask.shape, values.shape[-1]))
            block[mask] = values[places]
            yield _Chunk(documents, block.flatten(0, 1), mask, places)


class _MaxSim(torch.autograd.Function):
    """Keeps, for each query vector and document, where in the document the greatest product was."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, query_lengths: Tensor, documents: Tensor, lengths: Tensor) -> Tensor:
        best = queries.new_zeros((len(queries), len(lengths)))
        where = torch.zeros(best.shape, dtype=torch.int32, device=queries.device)
        for chunk in _chunks(documents, lengths, len(queries)):
            similar = (queries @ chunk.vectors.T).unflatten(1, chunk.mask.shape)  # (query vectors, d, longest)
            found = similar.masked_fill_(~chunk.mask, -torch.inf).max(dim=-1)
            best[:, chunk.documents] = found.values
            where[:, chunk.documents] = found.indices.int()
        owner = torch.repeat_interleave(query_lengths)  # the query of each vector
        ctx.save_for_backward(queries, documents, lengths, owner, where)
        return best.new_zeros((len(query_lengths), len(lengths))).index_add_(0, owner, best)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, None]:
        queries, documents, lengths, owner, where = ctx.saved_tensors
        of_queries, of_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        for chunk in _chunks(documents, lengths, len(queries)):
            weights = queries.new_zeros((len(queries), *chunk.mask.shape))
            reached = where[:, chunk.documents, None].long()
            weights.scatter_(2, reached, gradient[owner][:, chunk.documents, None])
            flat = weights.flatten(1)  # (query vectors, d * longest): the gradient of each product
            of_queries += flat @ chunk.vectors
            of_documents[chunk.places] = (flat.T @ queries)[chunk.mask.flatten()]
        return of_queries, None, of_documents, None
