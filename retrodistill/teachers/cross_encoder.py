"""Cross-encoders: query and document read together, one logit a pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from retrodistill import models
from retrodistill.encoders import (
    TOKENS_A_BATCH,
    Precision,
    autocast,
    device_of,
    quiet_libraries,
    set_max_length,
    token_batches,
)
from retrodistill.errors import InputError
from retrodistill.teachers.golden import ABSURD_DOCUMENT, GOLDEN_DOCUMENT, GOLDEN_QUERY, expect_better
from retrodistill.teachers.teacher import Teacher

if TYPE_CHECKING:
    from torch import Tensor

    from retrodistill.collections import Collection
    from retrodistill.packed.classifier import PackedClassifier
    from retrodistill.packed.tokens import Tokens


class CrossEncoder(Teacher):
    """A sentence-transformers CrossEncoder, or any sequence classifier.

    Of several outputs, as monoBERT has them, `output` says which is that of a relevant document; the score is its
    log-odds against the others. Before some hundred judgements for the store, the golden pair is judged.
    """

    argument: ClassVar[str | None] = "model"
    kind: Literal["cross_encoder"] = "cross_encoder"
    model: str
    max_length: int | None = Field(None, ge=4)
    precision: Precision = "fp32"
    output: int | None = Field(None, ge=0, description="which of several outputs a relevant document has, from 0")
    golden: bool = Field(True, description="refuse to judge much where an absurd document is preferred")

    def check(self) -> None:
        """Find the model."""
        models.expect_type(self.model, "CrossEncoder")

    def open(self, collection: Collection) -> CrossEncoderJudge:
        """Find the model; its weights are loaded when first needed."""
        self.check()
        return CrossEncoderJudge(self, collection)


class CrossEncoderJudge:
    """A cross-encoder on one collection."""

    pairs_a_part = 512

    def __init__(self, options: CrossEncoder, collection: Collection) -> None:
        self.options = options
        self.collection = collection

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Weights, length and precision, and which output is read; always raw logits."""
        output = self.options.output
        return {
            "kind": "cross_encoder",
            "weights": models.digest(self.options.model),
            "max_length": self.options.max_length,
            "precision": self.options.precision,
            "activation": "none",
            **({} if output is None else {"output": output}),
        }

    @cached_property
    def model(self) -> Any:
        """The CrossEncoder itself.

        Raises:
            InputError: it cannot be loaded, is asked for more tokens than it has positions, for an output that it has
                not, or for none where it has several.
        """
        quiet_libraries()
        import sentence_transformers

        options, folder = self.options, models.locate(self.options.model)
        try:
            model = sentence_transformers.CrossEncoder(
                str(folder),
                device=device_of(None),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # whatever the library meets in a broken folder, the user needs the folder's name
            raise InputError(
                f"model {options.model!r} cannot be loaded from {folder}: {type(error).__name__}: {error}"
            ) from error
        if (model.num_labels == 1) != (options.output is None) or (options.output or 0) >= model.num_labels:
            raise InputError(
                f"model {options.model!r} has {model.num_labels} outputs, {_named(model)}; name that of a relevant "
                "document as output: N, from 0"
                if model.num_labels > 1
                else f"model {options.model!r} has one output; leave out output: {options.output}"
            )
        set_max_length(model, options.max_length, options.model)
        return model.float()  # weights saved in 16 bits would be computed with in 16

    @cached_property
    def packed(self) -> PackedClassifier | None:
        """The model without padding, where that is known to give the same logits."""
        from retrodistill.packed.classifier import PackedClassifier

        return PackedClassifier.of(self.model, self.options.precision)

    def query_text(self, query_id: str) -> str:
        """What stands in the first segment."""
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id: str) -> str:
        """What stands in the second segment."""
        return self.collection.corpus.text(doc_id)

    def be_sure(self) -> None:
        """Judge the golden pair, before a long run.

        Raises:
            InputError: the absurd document is preferred.
        """
        if not self.options.golden:
            return
        better, worse = self._logits([(GOLDEN_QUERY, GOLDEN_DOCUMENT), (GOLDEN_QUERY, ABSURD_DOCUMENT)])
        expect_better(self.options.label, better, worse, "it is no reranker, or one of another language")

    def score(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """Raw logits, float32, shape (pairs,)."""
        pairs = zip(map(self.query_text, query_ids), map(self.document_text, doc_ids), strict=True)
        return self._logits(list(pairs))

    def _logits(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        import torch

        device = str(self.model.device)
        result = np.empty(len(pairs), dtype=np.float32)
        with torch.inference_mode():
            for rows, logits in self._scored(pairs, TOKENS_A_BATCH["cuda" if device.startswith("cuda") else "cpu"]):
                result[rows] = self._read(logits.float()).cpu().numpy()
        return result

    def _read(self, logits: Tensor) -> Tensor:
        """A number a pair, (pairs,), of (pairs, outputs) or (pairs,)."""
        if self.options.output is None:
            return logits.reshape(len(logits))
        others = [place for place in range(logits.shape[1]) if place != self.options.output]
        return logits[:, self.options.output] - logits[:, others].logsumexp(dim=1)

    def _scored(self, pairs: list[tuple[str, str]], budget: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Logits of some rows of the pairs at a time."""
        from retrodistill.packed.parallel import each

        packed, tokens = self.packed, self.tokens(pairs)
        batches = token_batches(tokens.lengths, budget)
        if packed is None:
            return ((rows, self._padded([pairs[row] for row in rows])) for rows in batches)
        return each(lambda rows: packed.logits(tokens.take(rows)), batches, str(self.model.device))

    def tokens(self, pairs: Sequence[tuple[str, str]]) -> Tokens:
        """What the model reads of pairs."""
        from retrodistill.packed.tokens import Tokens

        queries, documents = [query for query, _ in pairs], [document for _, document in pairs]
        return Tokens.of(self.model.tokenizer, queries, documents, max_length=self.model.max_seq_length or 512)

    def _padded(self, pairs: list[tuple[str, str]]) -> Tensor:
        import torch

        with autocast(str(self.model.device), self.options.precision):
            # the library's default would put a sigmoid on a model with one output
            return self.model.predict(
                pairs,
                batch_size=len(pairs),
                activation_fn=torch.nn.Identity(),
                convert_to_tensor=True,
                show_progress_bar=False,
            )


def _named(model: Any) -> str:
    """The outputs of a model, by the names that it gives them."""
    names = getattr(model.config, "id2label", None) or {}
    return ", ".join(f"{number} {names.get(number, '')}".strip() for number in range(model.num_labels))


TEACHERS = {"cross_encoder": CrossEncoder}
