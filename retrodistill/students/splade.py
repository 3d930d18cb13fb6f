"""Learned sparse students: a masked language model's head says which terms a text has, and how much of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from retrodistill import models
from retrodistill.emissions import Emission
from retrodistill.encoders import load_model
from retrodistill.encoders.loading import set_max_length
from retrodistill.encoders.tokens import features
from retrodistill.errors import InputError
from retrodistill.files import digest_of_file
from retrodistill.students import assembly
from retrodistill.students.backbone import check_shape, quicken, set_dropout
from retrodistill.students.embedded import Embedded
from retrodistill.students.lora import Lora, merge
from retrodistill.students.student import Penalty, Student, Tokens
from retrodistill.students.term_bias import freeze_weights, with_bias

if TYPE_CHECKING:
    from torch import Tensor

# A student whose texts have almost every term once its penalties are at their height has not merely yet to become
# sparse: at the earliest after half of the training, and in its last tenth in any case.
_DENSE, _EARLIEST, _LATEST = 0.9, 0.5, 0.9


class Sparsity(BaseModel):
    """The weights of a penalty on term weights, for queries and for documents.

    They rise with the square of the progress over the first `warmup` of the training, as Formal et al. 2021 ("SPLADE")
    do it: a student that is pushed at once loses its terms before it has learnt which to keep.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    query: float = Field(0.0, ge=0)
    document: float = Field(0.0, ge=0)
    warmup: float = Field(0.33, ge=0, le=1)

    def weight_at(self, role: str, progress: float) -> float:
        """The weight for a role at a share of the training, 0 to 1."""
        risen = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return getattr(self, role) * risen**2


class Flops(Sparsity):
    """The same with weights to begin with; what is not named keeps its own, and 0 takes one away."""

    query: float = Field(3e-4, ge=0)
    document: float = Field(1e-4, ge=0)


class SpladeStudent(Student):
    """A SparseEncoder with SPLADE heads, or one made of any *ForMaskedLM or *ForCausalLM checkpoint.

    Penalties: `flops` (Paria et al. 2020, "Minimizing FLOPs to Learn Efficient Sparse Representations") evens out and
    thins the postings, `l1` thins each text, `anti_zero` keeps a text from losing its last term. `top_k` keeps the
    heaviest terms of each text, in training and in the model that is saved.

    `query: idf` takes the encoder away from queries: a query has the tokens it is written in, each weighted by a table
    (Geng et al. 2024, "Towards Competitive Search Relevance For Inference-Free Learned Sparse Retrievers"). The table
    starts from the JSON file `idf`, such as `retrodistill idf` writes, or at 1; `train_idf: false` leaves it there.

    A decoder sees nothing behind a token: `echo` has it read every text twice. `lora` trains adapters in place of its
    weights, which they are merged into when the model is saved. Its terms get a bias each, which `start` says the
    beginning of, and which learns with adapters too: without it a text has every term of the vocabulary.
    """

    emits: ClassVar[Emission] = "sparse"
    kind: Literal["splade"] = "splade"
    max_length: int | None = Field(None, ge=2, description="tokens of a text; with echo twice as many are read")
    echo: bool = Field(False, description="read every text twice, for decoders")
    start: int | None = Field(
        64, ge=1, description="terms of a text before training, for decoders; null keeps the decoder's own logits"
    )
    lora: Lora | None = None
    dropout: float | None = Field(None, ge=0, lt=1)
    pooling: Literal["max", "sum"] | None = None
    top_k: int | None = Field(None, ge=1)
    query: Literal["encoded", "idf"] = "encoded"
    idf: Path | None = None
    train_idf: bool = True
    flops: Flops = Flops()
    l1: Sparsity = Sparsity()
    anti_zero: Sparsity = Sparsity()

    def check(self) -> None:
        """Find the model and the table."""
        found = models.model_type(self.model)
        if found != "SparseEncoder" and not self._decodes:
            raise InputError(
                f"model {self.model!r} is a {found} without a language-model head; a SPLADE student starts from a "
                "SparseEncoder, or from a *ForMaskedLM or *ForCausalLM checkpoint"
            )
        if self.echo and not self._decodes:
            raise InputError(f"echo is for decoders, which see nothing behind a token; {self.model!r} is none")
        if self.start != type(self).model_fields["start"].default and not self._decodes:
            raise InputError(f"start is for decoders, of whose terms most are above 0; {self.model!r} is none")
        length = self.max_length * 2 if self.echo and self.max_length is not None else self.max_length
        check_shape(self.model, lengths={"max_length": length})
        if self.lora is not None:
            self.lora.check()
        if self.query == "encoded" and (self.idf is not None or not self.train_idf):
            raise InputError("idf and train_idf are about queries that are not encoded; add `query: idf`")
        if self.idf is not None:
            models.read_json(self.idf)

    @property
    def _decodes(self) -> bool:
        return models.is_bare_decoder(self.model)

    @property
    def identity(self) -> dict[str, Any]:
        """Weights, table and options."""
        table = None if self.idf is None else digest_of_file(self.idf)
        return {**super().identity, "idf": table}

    def load(self, device: str) -> Any:
        """The SparseEncoder, its heads computed without their logits.

        Raises:
            InputError: the model has no SPLADE head, or one that does more to its logits than SPLADE.
        """
        from retrodistill.encoders.splade_head import fuse

        self.check()
        if self._decodes:
            model = assembly.sparse_decoder(self.model, device)
            set_max_length(model, self.max_length, self.model)
            if self.echo:
                assembly.echo(model, self.model)
        else:
            model = load_model(self.model, "SparseEncoder", self.max_length, device)
        model = self._routed(model)
        for module in model.modules():
            if self.pooling is not None and hasattr(module, "pooling_strategy"):
                module.pooling_strategy = self.pooling
        fused = fuse(model)
        if fused and self._decodes and self.start is not None:
            model = with_bias(model, self.start)
            fused = fuse(model)
        if not fused:
            raise InputError(
                f"model {self.model!r} has no SPLADE head that is known here: a linear projection of token states to "
                "terms, then SpladePooling; start from a *ForMaskedLM or *ForCausalLM checkpoint"
            )
        if self.lora is not None:
            self.lora.add(model)
            freeze_weights(model)
        if self.top_k is not None:
            model.max_active_dims = self.top_k
        if self.dropout is not None:
            set_dropout(model, self.dropout)
        quicken(model, model.transformers_model)
        return model

    def _routed(self, model: Any) -> Any:
        """The model with its queries as asked for: a table in place of the encoder where it has none yet."""
        table = _table(model)
        if self.query == "encoded":
            if table is not None:
                raise InputError(f"model {self.model!r} does not encode its queries; add `query: idf`")
            return model
        from sentence_transformers import SparseEncoder
        from sentence_transformers.sparse_encoder.modules import Router, SparseStaticEmbedding

        if table is None:
            table = SparseStaticEmbedding(model.tokenizer)
            router = Router.for_query_document(query_modules=[table], document_modules=list(model.children()))
            model = SparseEncoder(
                modules=[router], device=str(model.device), prompts=model.prompts, similarity_fn_name="dot"
            ).eval()
        if self.idf is not None:
            _fill(table, self.idf)
        self.settle(model)
        table.frozen = not self.train_idf
        table.weight.requires_grad_(self.train_idf)
        return model

    def reading(self, model: Any) -> dict[str, Any]:
        """Tokenizer, length and prompts; the special tokens of encoded queries."""
        return {**super().reading(model), "query": self.query}

    def embed(self, model: Any, tokens: Tokens, role: str) -> Embedded:
        """Term weights, shape (texts, terms), at least 0."""
        weights = model(features(model, tokens, role), task=role)["sentence_embedding"].float()
        if self.query == "idf" and role == "query":
            weights = weights.relu()  # a token that weighs nothing learns nothing, such as one that `idf` does not name
        limit = model.max_active_dims
        if limit is not None and limit < weights.shape[1]:
            best = weights.topk(limit, dim=1)
            weights = weights.new_zeros(weights.shape).scatter(1, best.indices, best.values)
        return Embedded(weights)

    def score(self, queries: Embedded, documents: Embedded) -> Tensor:
        """Inner products."""
        return queries.values @ documents.values.T

    def settle(self, model: Any) -> None:
        """No weight of a table is below 0, in training as in the model that is saved: an index takes none."""
        table = _table(model)
        if table is not None:
            table.weight.data.clamp_(min=0)

    def save(self, model: Any, folder: Path) -> None:
        """Modules, tokenizer, prompts and how many terms are kept."""
        self.settle(model)
        merge(model)
        model.save_pretrained(str(folder), safe_serialization=True)

    def _wanted(self) -> list[tuple[str, str, Sparsity]]:
        """Each penalty with the role that it weighs on; a table's queries are as sparse as they are written."""
        roles = ("query", "document") if self.query == "encoded" else ("document",)
        every = [(name, role, getattr(self, name)) for name in _PENALTIES for role in roles]
        return [(name, role, sparsity) for name, role, sparsity in every if getattr(sparsity, role) > 0]

    @property
    def looks_across(self) -> bool:
        """Penalties are of the batch."""
        return bool(self._wanted())

    def penalties(self, embedded: Mapping[str, Embedded], progress: float) -> Sequence[Penalty]:
        """Those that have a weight, by name and role."""
        return [
            Penalty(f"{name}_{role}", _PENALTIES[name](embedded[role].values), sparsity.weight_at(role, progress))
            for name, role, sparsity in self._wanted()
        ]

    def observe(self, embedded: Embedded, role: str) -> dict[str, Tensor]:
        """The terms of each text, and which share of all terms they are."""
        terms = (embedded.values > 0).sum(1)
        return {f"{role}_active": terms, f"{role}_share": terms / embedded.values.shape[1]}

    def watch(self, observed: Mapping[str, Sequence[float]], progress: float) -> dict[str, float]:
        """Terms of a query and of a document, on the average.

        Raises:
            InputError: no text of the step has a term left, from where no gradient leads back; or well after its start
                the student still gives texts nearly every term.
        """
        means = super().watch(observed, progress)
        risen = max(_EARLIEST, min(_LATEST, max(self.flops.warmup, self.l1.warmup)))
        for role in ("query", "document"):
            share = means.pop(f"{role}_share")
            if share == 0 and len(observed[f"{role}_share"]) > 1:
                raise InputError(
                    f"the student has collapsed: no {role} of the batch has a term left; a lower student.flops.{role} "
                    "or train.learning_rate, or a longer warmup of the penalty may help"
                )
            if share > _DENSE and progress >= risen:
                raise InputError(
                    f"the student has collapsed: a {role} has {share:.0%} of all terms, and no index is made for "
                    f"that; a higher student.flops.{role} or a lower train.learning_rate may help"
                )
        return means


def _flops(weights: Tensor) -> Tensor:
    return weights.mean(0).square().sum()


def _l1(weights: Tensor) -> Tensor:
    return weights.sum(1).mean()


def _anti_zero(weights: Tensor) -> Tensor:
    """Near 1 for a text that has almost nothing, near 0 for any other; bounded, so that its gradient is too."""
    return (1 / (1 + weights.sum(1)).square()).mean()


_PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"flops": _flops, "l1": _l1, "anti_zero": _anti_zero}


def _table(model: Any) -> Any:
    """The static weights of a model's queries; None where it encodes them."""
    routes = getattr(next(iter(model.children())), "sub_modules", {})
    first = next(iter(routes["query"].children())) if "query" in routes else None
    return first if hasattr(first, "frozen") else None


def _fill(table: Any, path: Path) -> None:
    """Give tokens the weights of a JSON object; those that it does not name weigh nothing.

    Raises:
        InputError: it names what is no token, or a weight that is no number of at least 0.
    """
    vocabulary = table.tokenizer.get_vocab()
    weights = np.zeros(len(table.weight), dtype=np.float32)
    for token, weight in models.read_json(path).items():
        if token not in vocabulary:
            raise InputError(f"{path}: {token!r} is no token of the model; make the table with its own tokenizer")
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise InputError(
                f"{path}: the weight of {token!r} is {json.dumps(weight)}, expected a number of at least 0"
            )
        weights[vocabulary[token]] = weight
    table.weight.data.copy_(table.weight.new_tensor(weights))


STUDENTS = {"splade": SpladeStudent}
