"""Logits of pairs from a cross-encoder whose head reads the first token, run without padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor

from retrodistill.packed.encoder import PackedEncoder
from retrodistill.packed.texts import reads_plain_text
from retrodistill.packed.tokens import Tokens

if TYPE_CHECKING:
    from retrodistill.encoders import Precision

    Head = Callable[[Any, Tensor], Tensor]


def _pooler(model: Any, first: Tensor) -> Tensor:
    return model.classifier(model.bert.pooler(first[:, None]))


def _classifier(model: Any, first: Tensor) -> Tensor:
    return model.classifier(first[:, None])


def _pre_classifier(model: Any, first: Tensor) -> Tensor:
    return model.classifier(model.pre_classifier(first).relu())


class PackedClassifier:
    """A CrossEncoder of one sequence classifier; its last layer is computed for first tokens only."""

    def __init__(self, model: Any, encoder: PackedEncoder, head: Head) -> None:
        self.model, self.encoder, self.head = model, encoder, head

    @classmethod
    def of(cls, model: Any, precision: Precision = "fp32") -> PackedClassifier | None:
        """The packed form of a CrossEncoder; None where it is not known to give the same logits."""
        modules = list(model.children())
        if [type(module) for module in modules] != [Transformer] or model.default_prompt_name is not None:
            return None
        if not reads_plain_text(modules[0], "scores"):
            return None
        classifier = modules[0].model
        head = HEADS.get(type(classifier).__name__)
        encoder = PackedEncoder.of(classifier, precision)
        return None if head is None or encoder is None else cls(classifier, encoder, head)

    @torch.inference_mode()
    def logits(self, tokens: Tokens) -> Tensor:
        """Raw logits of pairs, shape (pairs, labels)."""
        return self.head(self.model, self.encoder.hidden(tokens.ids, tokens.types, "first"))


HEADS: dict[str, Head] = {
    "BertForSequenceClassification": _pooler,
    "RobertaForSequenceClassification": _classifier,
    "XLMRobertaForSequenceClassification": _classifier,
    "CamembertForSequenceClassification": _classifier,
    "MPNetForSequenceClassification": _classifier,
    "DistilBertForSequenceClassification": _pre_classifier,
}
