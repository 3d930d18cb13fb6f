"""Cross-encoder students: query and document read together, one logit a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from retrodistill import models
from retrodistill.emissions import Emission
from retrodistill.encoders import load_model
from retrodistill.encoders.pairs import PairTemplate
from retrodistill.encoders.sizes import width
from retrodistill.encoders.tokens import rules_of
from retrodistill.errors import InputError
from retrodistill.students import assembly, cutting
from retrodistill.students.backbone import check_shape, quicken, set_dropout
from retrodistill.students.embedded import Embedded
from retrodistill.students.lora import Lora, merge
from retrodistill.students.student import Student, Tokens

if TYPE_CHECKING:
    from torch import Tensor


class CrossEncoderStudent(Student):
    """A CrossEncoder with one output, or one made of any encoder by a fresh head, drawn by `seed`.

    A causal language model scores a pair by its logit of "yes" less that of "no" behind the bare texts. What is saved
    gives logits as they were trained: its activation is the identity, where sentence-transformers would put a sigmoid.

    Source: Nogueira and Cho 2019, "Passage Re-ranking with BERT".
    """

    emits: ClassVar[Emission] = "pairs"
    scores_all_pairs: ClassVar[bool] = False
    kind: Literal["cross_encoder"] = "cross_encoder"
    layers: cutting.Layers | None = None
    max_length: int | None = Field(None, ge=4, description="tokens kept of a pair")
    dropout: float | None = Field(None, ge=0, lt=1)
    lora: Lora | None = Field(None, description="learn in low-rank adapters and the head; merged when done")
    seed: int = Field(0, ge=0, description="of a fresh head")

    _checked_layers = field_validator("layers")(cutting.checked)

    def check(self) -> None:
        """Find the model, and what the options need."""
        check_shape(self.model, lengths={"max_length": self.max_length}, layers=self.layers)
        if self.lora is not None:
            self.lora.check()

    def load(self, device: str) -> Any:
        """The CrossEncoder, with the asked options.

        Raises:
            InputError: none can be made of the model, it has several outputs, puts pairs into a chat, or cannot be had
                with an option.
        """
        import torch

        self.check()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = load_model(self.model, "CrossEncoder", self.max_length, device)
        if model.num_labels != 1:
            raise InputError(
                f"model {self.model!r} has {model.num_labels} outputs; a cross_encoder student has one logit a pair"
            )
        if "message" in model[0].modality_config and models.model_type(self.model) == "CrossEncoder":
            raise InputError(
                f"model {self.model!r} puts pairs into a chat template, which cannot be made of texts read apart; "
                "start from the language model itself"
            )
        assembly.read_plainly(model)
        model.activation_fn = torch.nn.Identity()
        transformer = model[0].model
        if self.layers is not None:
            cutting.cut(transformer, self.layers, self.model)
        if self.dropout is not None:
            set_dropout(model, self.dropout)
        quicken(model)
        if self.lora is not None:
            self.lora.add(model, [] if _is_causal(model) else _heads(transformer))
        return model

    def reading(self, model: Any) -> dict[str, Any]:
        """Tokenizer and prompt; a pair is cut when it is put together."""
        return {"tokenizer": rules_of(model.tokenizer), "before_queries": _prompt(model)}

    def tokenize(self, model: Any, texts: Sequence[str], role: str) -> list[np.ndarray]:
        """The tokens of each text by itself, whole and without special ones."""
        prompt = _prompt(model) if role == "query" else ""
        read = model.tokenizer([prompt + text for text in texts], add_special_tokens=False, verbose=False)
        return [np.array(ids, dtype=np.int32) for ids in read["input_ids"]]

    def items(self, model: Any, queries: Tokens, documents: Tokens, own: np.ndarray) -> dict[str, Tokens]:
        """Pairs of each query with its own documents, int32 (2, tokens): ids and token types."""
        template = PairTemplate.of(model.tokenizer)
        return {"pair": [template.join(queries[row], documents[column]) for row, column in np.argwhere(own)]}

    def costs(self, items: Mapping[str, Tokens], own: np.ndarray) -> np.ndarray:
        """Tokens of each query's pairs, (Q,)."""
        lengths = [pair.shape[-1] for pair in items["pair"]]
        return np.bincount(np.nonzero(own)[0], weights=lengths, minlength=len(own))

    def embed(self, model: Any, tokens: Tokens, role: str) -> Embedded:
        """Logits, shape (pairs,)."""
        import torch

        causal, longest = _is_causal(model), max(pair.shape[-1] for pair in tokens)
        full = longest if causal else width(longest, model.max_seq_length)
        ids = np.full((len(tokens), full), model.tokenizer.pad_token_id or 0, dtype=np.int64)
        types, mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, pair in enumerate(tokens):
            length = pair.shape[-1]
            # a language model answers behind the last token, where sentence-transformers looks for it
            here = slice(full - length, full) if causal else slice(0, length)
            ids[row, here], types[row, here], mask[row, here] = pair[0], pair[1], 1
        read = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in model.tokenizer.model_input_names:
            read["token_type_ids"] = types
        inputs: dict[str, Any] = {name: torch.from_numpy(array).to(model.device) for name, array in read.items()}
        logits = model({**inputs, **({"logits_to_keep": 1} if causal else {})})["scores"]
        return Embedded(logits.float().squeeze(-1))

    def score(self, queries: Embedded, documents: Embedded) -> Tensor:
        """Nothing: texts that were read apart have no score here; see `scores`."""
        raise TypeError("a cross-encoder scores pairs that are read together")

    def scores(self, embedded: Mapping[str, Embedded], own: np.ndarray) -> Tensor:
        """Logits where a document is a query's own, 0 elsewhere: float32 (Q, D)."""
        import torch

        logits = embedded["pair"].values
        mask = torch.from_numpy(own).to(logits.device)
        return logits.new_zeros(own.shape).masked_scatter(mask, logits)

    def save(self, model: Any, folder: Path) -> None:
        """Modules, tokenizer and activation; adapters become part of the weights."""
        merge(model)
        model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)


def _heads(transformer: Any) -> list[str]:
    """The parts of a classifier that stand behind its encoder and have weights."""
    body = transformer.base_model
    return [name for name, part in transformer.named_children() if part is not body and list(part.parameters())]


def _is_causal(model: Any) -> bool:
    return model[0].transformer_task == "text-generation"


def _prompt(model: Any) -> str:
    """What the model puts before a query when nothing else is asked for."""
    return model.prompts.get(model.default_prompt_name) or ""


STUDENTS = {"cross_encoder": CrossEncoderStudent}
