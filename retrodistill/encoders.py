"""Turns texts into vectors with a sentence-transformers model: batches of like length, a budget of tokens each."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from retrodistill import models
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from retrodistill.packed.sentences import PackedSentences

Role = Literal["query", "document"]
Precision = Literal["fp32", "bf16"]

# On a CPU, large outputs lose speed to page faults (1,024 to 2,048 tokens were best); a GPU wants more at once.
TOKENS_A_BATCH = {"cpu": 2_048, "cuda": 65_536}


def device_of(name: str | None) -> str:
    """The device to compute on: the one asked for, else a GPU where there is one."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is not known to torch; use cpu, cuda or cuda:N") from error
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but torch sees no GPU here; use cpu")
    return name


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Run matrix products in bfloat16 where asked for; everything else stays float32."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device_type=torch.device(device).type, dtype=torch.bfloat16)


def quiet_libraries() -> None:
    """Keep the progress bars and warnings of transformers away from ours."""
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[np.ndarray]:
    """Rows in batches of like length, the longest first, each padded to at most `budget` tokens.

    The first batch is the largest in memory, so that a machine too small for the work shows it at once.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


class DenseEncoder:
    """One vector a text, by a SentenceTransformer; loaded when first used.

    Args:
        model: a folder or a Hub name.
        max_length: tokens kept of a text; the model's own where None.
        precision: `bf16` computes matrix products in bfloat16.
        query_prompt: what stands before a query; the model's own prompt where None.
        document_prompt: what stands before a document; the model's own prompt where None.
        device: where to compute; a GPU where there is one when None.
    """

    def __init__(
        self,
        model: str,
        *,
        max_length: int | None = None,
        precision: Precision = "fp32",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        device: str | None = None,
    ) -> None:
        models.expect_type(model, "SentenceTransformer")
        self.name = model
        self.max_length = max_length
        self.precision = precision
        self.prompts: dict[Role, str | None] = {"query": query_prompt, "document": document_prompt}
        self._device = device

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides a vector; the device and the batches do not."""
        return {
            "kind": "dense",
            "weights": models.digest(self.name),
            "max_length": self.max_length,
            "precision": self.precision,
            "query_prompt": self.prompts["query"],
            "document_prompt": self.prompts["document"],
        }

    @cached_property
    def device(self) -> str:
        """Where vectors are computed."""
        return device_of(self._device)

    @cached_property
    def model(self) -> Any:
        """The SentenceTransformer itself."""
        return load_sentence_transformer(self.name, self.max_length, self.device)

    @property
    def similarity(self) -> Literal["cosine", "dot"]:
        """How the model compares vectors."""
        name = self.model.similarity_fn_name
        if name not in ("cosine", "dot"):
            raise InputError(f"model {self.name!r} compares vectors by {name!r}; only cosine and dot can be searched")
        return name

    @cached_property
    def parameters(self) -> int:
        """How many weights the model has."""
        return sum(weight.numel() for weight in self.model.parameters())

    def encode(self, texts: Sequence[str], role: Role, done: Callable[[int], Any] | None = None) -> np.ndarray:
        """Vectors of texts, float32, shape (texts, dimensions), of unit length where the model compares by cosine.

        Args:
            texts: what to encode.
            role: queries and documents may have prompts of their own.
            done: called with the number of texts after each batch, for a progress bar.
        """
        import torch

        embedded = self._padded if self.packed is None else self._packed
        budget = TOKENS_A_BATCH["cuda" if self.device.startswith("cuda") else "cpu"]
        result: np.ndarray | None = None
        with torch.inference_mode():
            for rows, vectors in embedded(texts, role, budget):
                if result is None:
                    result = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
                result[rows] = vectors.float().cpu().numpy()
                if done is not None:
                    done(len(rows))
        if result is None:
            return np.empty((0, self.model.get_embedding_dimension()), dtype=np.float32)
        if not np.isfinite(result).all():
            row = int(np.flatnonzero(~np.isfinite(result).all(axis=1))[0])
            raise InputError(
                f"model {self.name!r} gives no finite vector for the {role} {texts[row][:80]!r}; "
                "its weights are damaged"
            )
        return result

    @cached_property
    def packed(self) -> PackedSentences | None:
        """The model without padding, where that is known to give the same vectors."""
        from retrodistill.packed.sentences import PackedSentences

        return PackedSentences.of(self.model, self.precision)

    def _packed(self, texts: Sequence[str], role: Role, budget: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Vectors of some rows of the texts at a time."""
        from retrodistill.packed.parallel import each

        packed = self.packed
        assert packed is not None
        tokens = packed.tokens(texts, role, self.prompts[role])
        normalize = self.similarity == "cosine"
        yield from each(
            lambda rows: packed.vectors(tokens.take(rows), normalize),
            token_batches(tokens.lengths, budget),
            self.device,
        )

    def _padded(self, texts: Sequence[str], role: Role, budget: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """The same, by sentence-transformers itself."""
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        options: dict[str, Any] = {} if self.prompts[role] is None else {"prompt": self.prompts[role]}
        for rows in token_batches(self.lengths(texts), budget):
            with autocast(self.device, self.precision):
                vectors = encode(
                    [texts[row] for row in rows],
                    batch_size=len(rows),
                    normalize_embeddings=self.similarity == "cosine",
                    convert_to_tensor=True,
                    show_progress_bar=False,
                    **options,
                )
            yield rows, vectors

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text the model reads."""
        return token_lengths(self.model, texts)


def token_lengths(model: Any, texts: Sequence[str]) -> list[int]:
    """How many tokens a SentenceTransformer reads of each text, truncation included."""
    if not callable(model.tokenizer):  # a static embedding's, which cuts nothing off
        return [len(found.ids) for found in model.tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    found: list[int] = []
    for start in range(0, len(texts), 4_096):
        part = list(texts[start : start + 4_096])
        encoded = model.tokenizer(part, truncation=True, max_length=model.max_seq_length, return_attention_mask=False)
        found += map(len, encoded["input_ids"])
    return found


def load_sentence_transformer(name: str, max_length: int | None, device: str) -> Any:
    """A SentenceTransformer from safetensors in float32, whatever they were saved in, without code from the model.

    Raises:
        InputError: the folder cannot be loaded, or `max_length` is longer than the model's positions.
    """
    quiet_libraries()
    from sentence_transformers import SentenceTransformer

    folder = models.locate(name)
    try:
        model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # whatever the library meets in a broken folder, the user needs the folder's name
        raise InputError(f"model {name!r} cannot be loaded from {folder}: {type(error).__name__}: {error}") from error
    set_max_length(model, max_length, name)
    return model.float().eval()


def set_max_length(model: Any, max_length: int | None, name: str) -> None:
    """Have a sentence-transformers model read so many tokens of a text; its own number where None.

    Raises:
        InputError: the model does not know so many positions.
    """
    if max_length is None:
        return
    positions = _positions(model)
    if positions is not None and max_length > positions:
        raise InputError(
            f"max_length: {max_length} is longer than the {positions} positions of {name!r}; use <= {positions}"
        )
    model.max_seq_length = max_length


def _positions(model: Any) -> int | None:
    for module_name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind that of the padding.
        if module_name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings - module.padding_idx - 1)
    return getattr(model.config, "max_position_embeddings", None) if model.config is not None else None
