"""SPLADE's head without its logits: tokens are pooled chunk by chunk, so that no tensor is texts x tokens x terms."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Pooling = Literal["max", "sum"]

# Logits at once, and terms at once: what a CPU's cache holds beside the weights, what keeps a GPU busy.
CELLS = {"cpu": 2**20, "cuda": 2**26}
TERMS = {"cpu": 2**11, "cuda": 2**15}
_LOGS = {"relu": 1, "log1p_relu": 2}


def pooled(
    hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, pooling: Pooling = "max", logs: int = 1
) -> Tensor:
    """Term weights of texts: `log(1 + relu(hidden @ weight.T + bias))`, pooled over the tokens that count.

    The logarithm and relu rise with the logit, and the bias is the same for all tokens: the maximum of the products is
    taken first and everything else done once a term. The sum is computed in chunks, and again in the backward pass.

    Args:
        hidden: what the model has before its projection to terms, (texts, tokens, width).
        mask: true where a token counts, (texts, tokens).
        weight: of the projection, (terms, width).
        bias: of the projection, (terms,).
        pooling: `max` (Formal et al. 2021, "SPLADE v2") or `sum` (Formal et al. 2021, "SPLADE").
        logs: how often log(1 + x) is taken; 2 in OpenSearch's models.

    Returns:
        float32 (texts, terms); 0 for a text of which no token counts.
    """
    mask = mask.bool()
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if pooling == "sum":
        return _sums(hidden, mask, weight, bias, logs)
    if not mask.all():
        # a copy of a token that counts cannot change the maximum, and its gradient goes to that token
        first = hidden[torch.arange(len(hidden), device=hidden.device), mask.int().argmax(1)]
        hidden = torch.where(mask[..., None], hidden, first[:, None])
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (hidden, weight, bias)):
        peaks = _Peaks.apply(hidden, weight, bias)
    else:
        peaks, _ = _peaks(hidden, weight, bias, keep_places=False)
    return saturated(peaks, logs) * mask.any(1, keepdim=True)


def saturated(logits: Tensor, logs: int) -> Tensor:
    """Relu, and log(1 + x) of it as often as said."""
    weights = logits.relu()
    for _ in range(logs):
        weights = weights.log1p()
    return weights


def _chunks(hidden: Tensor, weight: Tensor) -> tuple[int, int]:
    """How many texts and how many terms to multiply at once."""
    where, length = "cuda" if hidden.is_cuda else "cpu", max(1, hidden.shape[1])
    terms = max(1, min(len(weight), TERMS[where], CELLS[where] // length))
    return max(1, CELLS[where] // (length * terms)), terms


def _slices(total: int, size: int) -> Iterator[slice]:
    yield from (slice(start, start + size) for start in range(0, total, size))


def _peaks(hidden: Tensor, weight: Tensor, bias: Tensor, *, keep_places: bool) -> tuple[Tensor, Tensor | None]:
    """The largest logit of each term in each text, float32 (texts, terms), and the token that has it, int32."""
    values = torch.empty((len(hidden), len(weight)), device=hidden.device)
    places = torch.empty(values.shape, dtype=torch.int32, device=hidden.device) if keep_places else None
    if torch.is_autocast_enabled(hidden.device.type):  # which does not see products that are told where to go
        hidden, weight = (tensor.to(torch.get_autocast_dtype(hidden.device.type)) for tensor in (hidden, weight))
    texts_at_once, terms_at_once = _chunks(hidden, weight)
    # one block for all chunks: fresh ones cost a page fault every 4 KB
    block = hidden.new_empty(terms_at_once * min(texts_at_once, len(hidden)) * hidden.shape[1])
    for terms in _slices(len(weight), terms_at_once):
        for texts in _slices(len(hidden), texts_at_once):
            # tokens last, where a maximum reads memory in order: (terms, texts, tokens)
            left, right = weight[terms], hidden[texts].flatten(0, 1).T
            product = torch.mm(left, right, out=block[: len(left) * right.shape[1]].view(len(left), -1))
            logits = product.unflatten(1, (-1, hidden.shape[1]))
            if places is None:
                values[texts, terms] = logits.amax(-1).T.float()
            else:
                best = logits.max(-1)
                values[texts, terms], places[texts, terms] = best.values.T.float(), best.indices.T.int()
    return values.add_(bias.float()), places


class _Peaks(torch.autograd.Function):
    """`_peaks` with a gradient that touches nothing but the tokens that had a maximum."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values, places = _peaks(hidden, weight, bias, keep_places=True)
        ctx.save_for_backward(hidden, weight, places)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        hidden, weight, places = ctx.saved_tensors
        texts, terms = gradient.nonzero(as_tuple=True)
        amounts = gradient[texts, terms]
        tokens = texts * hidden.shape[1] + places[texts, terms]
        flat = hidden.flatten(0, 1).float()
        to_hidden = _csr(tokens, terms, amounts, (len(flat), len(weight))) @ weight.float()
        to_weight = None
        if ctx.needs_input_grad[1]:  # not where adapters alone learn
            to_weight = (_csr(terms, tokens, amounts, (len(weight), len(flat))) @ flat).to(weight.dtype)
        return to_hidden.view(hidden.shape).to(hidden.dtype), to_weight, gradient.sum(0)


def _csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    order = torch.argsort(rows, stable=True)
    starts = torch.zeros(shape[0] + 1, dtype=torch.int64, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the format is in beta
        return torch.sparse_csr_tensor(starts, columns[order], values[order], size=shape)


def _sums(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, logs: int) -> Tensor:
    def part(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        logits = functional.linear(hidden, weight, bias).float()
        return (saturated(logits, logs) * mask[..., None]).sum(1)

    texts_at_once, terms_at_once = _chunks(hidden, weight)
    texts = list(zip(hidden.split(texts_at_once), mask.split(texts_at_once), strict=True))
    columns = [
        torch.cat([checkpoint(part, *text, *terms, use_reentrant=False, preserve_rng_state=False) for text in texts])
        for terms in zip(weight.split(terms_at_once), bias.split(terms_at_once), strict=True)
    ]
    return torch.cat(columns, dim=1)


def fuse(model: nn.Module) -> bool:
    """Have a SparseEncoder compute its heads without their logits, wherever it has them, behind a Router too.

    Its modules stay what they are, and are saved as before: the projection to terms hands its input on, and the
    pooling does the work of both. A head that does anything else to its logits shows on a probe and is left alone.

    Args:
        model: a SparseEncoder in evaluation mode; changed in place.

    Returns:
        Whether every SPLADE head of the model is computed so.
    """
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    heads = [
        (first, second)
        for modules in model.modules()
        if isinstance(modules, nn.Sequential)
        for first, second in pairwise(modules.children())
        if isinstance(second, SpladePooling)
    ]
    shared = len({id(encoder) for encoder, _ in heads}) < len(heads)
    return bool(heads) and not shared and all(_fuse(encoder, pooling) for encoder, pooling in heads)


def _fuse(encoder: Any, pooling: Any) -> bool:
    from sentence_transformers.base.modules.dense import Dense

    if type(encoder) is Dense:
        return _fuse_dense(encoder, pooling)
    network: Any = getattr(encoder, "auto_model", None)
    projection = network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None
    if not isinstance(projection, nn.Linear) or pooling.activation_function not in _LOGS:
        return False
    read = encoder.preprocess(["the head of a sparse encoder", "a probe"])
    device = projection.weight.device
    probe = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in read.items()}
    with torch.inference_mode():
        expected = pooling(encoder(dict(probe)))["sentence_embedding"]
        projection.forward = _handed_on  # type: ignore[method-assign, assignment]
        pooling.forward = partial(_pool, pooling, projection)
        try:
            found = pooling(encoder(dict(probe)))["sentence_embedding"]
            same = found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
        except RuntimeError:  # what comes before the projection is of another shape
            same = False
    if not same:
        del projection.forward, pooling.forward
    return same


def fused(pooling: Any) -> int:
    """How often a pooling that `fuse` has changed takes log(1 + x); 0 where it was left alone."""
    forward = vars(pooling).get("forward")
    changed = isinstance(forward, partial) and forward.func is _pool
    return _LOGS[pooling.activation_function] if changed else 0


def _fuse_dense(dense: Any, pooling: Any) -> bool:
    """As `_fuse`, of a projection that is a module of its own: there is nothing in it that would have to be tried."""
    plain = isinstance(dense.activation_function, nn.Identity) and not dense.use_residual
    of_tokens = dense.module_input_name == dense.module_output_name == "token_embeddings"
    if not plain or not of_tokens or pooling.activation_function not in _LOGS:
        return False
    dense.forward = _handed_on
    pooling.forward = partial(_pool, pooling, dense.linear)
    return True


def _handed_on(hidden: Any) -> Any:
    return hidden


def _pool(pooling: Any, projection: nn.Linear, features: dict[str, Any]) -> dict[str, Any]:
    features["sentence_embedding"] = pooled(
        features["token_embeddings"],
        features["attention_mask"],
        projection.weight,
        projection.bias,
        pooling.pooling_strategy,
        _LOGS[pooling.activation_function],
    )
    pooling.embedding_dimension = len(projection.weight)
    return features
