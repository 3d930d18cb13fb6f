"""Loads sentence-transformers models safely: safetensors, float32, no code from the model, no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrodistill import models
from retrodistill.encoders.common import quiet_libraries
from retrodistill.errors import InputError


def load_model(name: str, expected: str, max_length: int | None, device: str, **options: Any) -> Any:
    """A sentence-transformers model in float32, whatever it was saved in.

    Args:
        name: a folder or a Hub name.
        expected: the class it is of: SentenceTransformer, SparseEncoder, MultiVectorEncoder or CrossEncoder.
        max_length: tokens kept of a text; the model's own where None.
        device: where it goes.
        options: for the class itself.

    Raises:
        InputError: the folder cannot be loaded, or `max_length` is longer than the model's positions.
    """
    quiet_libraries()
    import sentence_transformers

    folder = models.locate(name)
    try:
        model = getattr(sentence_transformers, expected)(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
            **options,
        )
    except Exception as error:  # whatever the library meets in a broken folder, the user needs the folder's name
        raise InputError(f"model {name!r} cannot be loaded from {folder}: {type(error).__name__}: {error}") from error
    set_max_length(model, max_length, name)
    return model.float().eval()


def set_max_length(model: Any, max_length: int | None, name: str) -> None:
    """Have a sentence-transformers model read so many tokens of a text; its own number where None.

    Late-interaction models read queries at a length of their own, which stays.

    Raises:
        InputError: the model does not know so many positions.
    """
    if max_length is None:
        return
    check_length(model, max_length, name)
    model.max_seq_length = max_length
    first = next(model.children())
    if getattr(first, "document_length", None) is not None:
        first.document_length = max_length


def check_length(model: Any, length: int, name: str, option: str = "max_length") -> None:
    """Refuse to have a model read more tokens than it knows positions.

    Raises:
        InputError: with the option's name.
    """
    positions = _positions(model)
    if positions is not None and length > positions:
        raise InputError(f"{option}: {length} is longer than the {positions} positions of {name!r}; use <= {positions}")


def _positions(model: Any) -> int | None:
    for module_name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind that of the padding.
        if module_name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings - module.padding_idx - 1)
    return getattr(model.config, "max_position_embeddings", None) if model.config is not None else None


def token_lengths(model: Any, texts: Sequence[str]) -> list[int]:
    """How many tokens a sentence-transformers model reads of each text, truncation included."""
    if not callable(model.tokenizer):  # a static embedding's, which cuts nothing off
        return [len(found.ids) for found in model.tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    found: list[int] = []
    for start in range(0, len(texts), 4_096):
        part = list(texts[start : start + 4_096])
        encoded = model.tokenizer(part, truncation=True, max_length=model.max_seq_length, return_attention_mask=False)
        found += map(len, encoded["input_ids"])
    return found
