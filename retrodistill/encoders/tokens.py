"""Tokens of texts apart from the model's run over them, so that a text is tokenised once and embedded often."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodistill.encoders.sizes import width
from retrodistill.files import digest_of

if TYPE_CHECKING:
    from torch import Tensor

_TEXTS_AT_ONCE = 256


def prompt_of(model: Any, role: str) -> str | None:
    """What a sentence-transformers model puts before a query or a document; None where nothing."""
    names = ("query",) if role == "query" else ("document", "passage", "corpus")
    name = next((name for name in names if name in model.prompts), model.default_prompt_name)
    return model.prompts.get(name) or None


def reading(model: Any) -> dict[str, Any]:
    """Everything that decides the tokens of a text: tokenizer, lengths, expansion of queries and prompts."""
    return {
        "tokenizer": rules_of(model.tokenizer),
        "max_length": str(model.max_seq_length),
        "prompts": {role: prompt_of(model, role) for role in ("query", "document")},
        **{name: getattr(model[0], name, None) for name in ("query_length", "document_length", "query_expansion")},
    }


def rules_of(tokenizer: Any) -> str:
    """A digest of how a tokenizer reads; not of the lengths that it last cut and padded to, which each call sets."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    rules = {key: value for key, value in json.loads(backend.to_str()).items() if key not in ("truncation", "padding")}
    return digest_of([rules, getattr(tokenizer, "truncation_side", None)])


def tokenize(model: Any, texts: Sequence[str], role: str, prompt: str | None = None) -> list[np.ndarray]:
    """The tokens that a sentence-transformers model reads of each text, int32 (tokens,), as in its own `encode`.

    Before a text stands `prompt`, or the model's own for the role where None.

    A token that expands a query, as ColBERT's [MASK] does, stands as its complement `~id`: it is scored like any other,
    but the others do not see it.
    """
    found: list[np.ndarray] = []
    prompt = prompt_of(model, role) if prompt is None else prompt
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        read = model.preprocess(list(texts[start : start + _TEXTS_AT_ONCE]), prompt=prompt, task=role)
        ids = read["input_ids"].numpy().astype(np.int32)
        if "offsets" in read:  # a static embedding's, one text after another
            found += np.split(ids, read["offsets"].numpy()[1:])
        else:
            mask = read["attention_mask"].numpy().astype(bool)
            if "query_expansion_positions" in read:
                expanded = read["query_expansion_positions"].numpy().astype(bool)
                ids, mask = np.where(expanded, ~ids, ids), mask | expanded
            found += [row[kept] for row, kept in zip(ids, mask, strict=True)]
    return found


def features(model: Any, tokens: Sequence[np.ndarray], role: str) -> dict[str, Tensor]:
    """What a sentence-transformers model's `forward` takes, padded on the right, on the model's device."""
    import torch

    device = model.device
    if not callable(model.tokenizer):
        starts = np.cumsum([0, *(len(ids) for ids in tokens[:-1])])
        ids = torch.from_numpy(np.concatenate([*tokens, np.empty(0, np.int32)]).astype(np.int64))
        return {"input_ids": ids.to(device), "offsets": torch.from_numpy(starts).to(device)}
    lengths = np.array([len(ids) for ids in tokens])
    mask = np.arange(width(lengths.max(initial=1), model.max_seq_length)) < lengths[:, None]
    block = np.full(mask.shape, model.tokenizer.pad_token_id or 0, dtype=np.int64)
    block[mask] = np.concatenate(tokens)
    expanded = block < 0
    seen = mask if expanded.any() and model[0].query_expansion["attend"] else mask & ~expanded
    read = {
        "input_ids": torch.from_numpy(np.where(expanded, ~block, block)).to(device),
        "attention_mask": torch.from_numpy(seen.astype(np.int64)).to(device),
    }
    if expanded.any():
        read["query_expansion_positions"] = torch.from_numpy(expanded).to(device)
    prompt = prompt_of(model, role)
    if prompt is not None:
        length = model.preprocess([""], prompt=prompt, task=role).get("prompt_length")
        read |= {} if length is None else {"prompt_length": length}
    return read
