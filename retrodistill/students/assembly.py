"""Makes a bi-encoder of any transformer: how texts are read, pooled and compared, all saved with the model."""

from __future__ import annotations

from typing import Any, Literal

from retrodistill.errors import InputError

Pool = Literal["mean", "cls", "lasttoken", "weightedmean", "max"]
Similarity = Literal["cosine", "dot"]


def read_plainly(model: Any) -> None:
    """Have a transformer that was made for something else read bare texts: no chat around them, and padding."""
    first, tokenizer = model[0], model.tokenizer
    if "text" in first.modality_config:
        first.modality_config.pop("message", None)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token


def pool(model: Any, mode: Pool, name: str) -> None:
    """Make one vector of a text's token vectors in this way.

    Raises:
        InputError: the model does not pool, or several ways at once before a layer that wants their width.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    place = next((place for place, part in enumerate(model) if isinstance(part, Pooling)), None)
    if place is None:
        raise InputError(f"pooling: {name!r} has no token vectors to pool; leave `pooling` out")
    found = model[place]
    model[place] = Pooling(found.embedding_dimension, mode, found.include_prompt)
    if found.pooling_output_dimension != found.embedding_dimension:
        raise InputError(f"pooling: {name!r} joins {found.pooling_mode!r}; leave `pooling` out")


def compare(model: Any, similarity: Similarity) -> None:
    """Give vectors unit length, or leave them theirs, and say in the model's configuration how they are compared."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    last = len(model) - 1
    if similarity == "cosine" and not isinstance(model[last], Normalize):
        model.append(Normalize())
    if similarity == "dot" and isinstance(model[last], Normalize):
        del model[last]
    model.similarity_fn_name = similarity


def append_eos(model: Any, name: str) -> None:
    """End every text with the end-of-sequence token, cut texts too, wherever the tokenizer is used from now on.

    Raises:
        InputError: the tokenizer has no such token, or will not add it.
    """
    tokenizer = model.tokenizer
    if tokenizer.eos_token_id is None:
        raise InputError(f"append_eos: the tokenizer of {name!r} has no end-of-sequence token; leave append_eos out")
    if tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
        tokenizer.add_eos_token = True
    if tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
        raise InputError(f"append_eos: the tokenizer of {name!r} does not add its {tokenizer.eos_token!r}")
