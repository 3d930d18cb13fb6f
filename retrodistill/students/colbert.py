"""ColBERT students: a vector a token, compared by MaxSim."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from retrodistill import models
from retrodistill.emissions import Emission
from retrodistill.encoders import check_length, load_model
from retrodistill.encoders.token_vectors import late_interaction, module_of, skip_punctuation
from retrodistill.encoders.tokens import features
from retrodistill.errors import InputError
from retrodistill.students.backbone import check_shape, quicken, set_dropout
from retrodistill.students.embedded import Embedded
from retrodistill.students.maxsim import maxsim
from retrodistill.students.student import Student, Tokens

if TYPE_CHECKING:
    from torch import Tensor

_QUERY_LENGTH = 32  # ColBERT's


class ColBERTStudent(Student):
    """A MultiVectorEncoder, by PyLate or Stanford's ColBERT too; or one made here from an encoder.

    An encoder or SentenceTransformer gives up its pooling for a vector a token, of unit length. Options that are left
    out stay as the model has them; a new one has no projection, expansion, prefixes or skip list.

    Source: Khattab and Zaharia 2020, "ColBERT"; Clavié, Chaffin and Adams 2024, "Reducing the Footprint of
    Multi-Vector Retrieval" (token pooling).
    """

    emits: ClassVar[Emission] = "multi"
    kind: Literal["colbert"] = "colbert"
    dimensions: int | None = Field(
        None, ge=1, description="project the vectors of a new one to this width; 128 in ColBERT"
    )
    seed: int = Field(0, ge=0, description="of a new projection and new prefix tokens")
    expansion: Literal["fixed", "min", "none"] | None = Field(
        None, description="[MASK] fills short queries up to query_length; fixed cuts longer ones, min does not"
    )
    query_length: int | None = Field(None, ge=2, description="tokens of a query")
    document_length: int | None = Field(None, ge=2, description="tokens kept of a document")
    query_prefix: str | None = Field(None, pattern=r"^\S+$", description="a token before queries, such as [unused0]")
    document_prefix: str | None = Field(None, pattern=r"^\S+$", description="a token before documents")
    skip_punctuation: bool | None = Field(None, description="punctuation of documents has no vectors")
    pooling: float | None = Field(None, ge=1, description="merge a document's like vectors, leaving one in so many")
    dropout: float | None = Field(None, ge=0, lt=1)

    def check(self) -> None:
        """Find the model."""
        found = models.model_type(self.model)
        if found not in ("MultiVectorEncoder", "SentenceTransformer"):
            raise InputError(
                f"model {self.model!r} is a {found}, expected a MultiVectorEncoder, or a SentenceTransformer or an "
                "encoder to make one of"
            )
        check_shape(self.model, lengths={"query_length": self.query_length, "document_length": self.document_length})

    def load(self, device: str) -> Any:
        """The MultiVectorEncoder, with the asked options.

        Raises:
            InputError: the model is none and none can be made of it, or it cannot be had with an option.
        """
        self.check()
        if models.model_type(self.model) == "MultiVectorEncoder":
            model = load_model(self.model, "MultiVectorEncoder", None, device)
            width = model.get_embedding_dimension()
            if self.dimensions not in (None, width):
                raise InputError(f"dimensions: {self.model!r} has vectors of {width} already; leave it out")
        else:
            model = late_interaction(self.model, device, self.dimensions, self.seed)
        self._set_lengths(model)
        self._set_prefixes(model)
        if self.skip_punctuation is not None:
            skip_punctuation(model, self.model, self.skip_punctuation)
        if self.pooling is not None:
            _set_pooling(model, self.pooling)
        if self.dropout is not None:
            set_dropout(model, self.dropout)
        quicken(model)
        return model

    def embed(self, model: Any, tokens: Tokens, role: str) -> Embedded:
        """The vectors of the tokens that count, packed; as many as the model's own scoring mask keeps."""
        read = model(features(model, tokens, role), task=role)
        mask = read["attention_mask"].bool()
        values, lengths = read["token_embeddings"][mask].float(), mask.sum(dim=1)
        if role == "query" and model.similarity_fn_name == "meanmaxsim":
            values = values / lengths.repeat_interleave(lengths)[:, None]
        return Embedded(values, lengths)

    def score(self, queries: Embedded, documents: Embedded) -> Tensor:
        """MaxSim."""
        return maxsim(queries, documents)

    def save(self, model: Any, folder: Path) -> None:
        """Modules, tokenizer, lengths, prefixes and skip list."""
        model.save_pretrained(str(folder), safe_serialization=True)

    def _set_lengths(self, model: Any) -> None:
        for name in ("query_length", "document_length"):
            asked = getattr(self, name)
            if asked is not None:
                check_length(model, asked, self.model, name)
        if self.document_length is not None:
            model[0].document_length = self.document_length
        if self.expansion is None and self.query_length is None:
            return
        known = model[0].query_expansion
        strategy = self.expansion or (known["strategy"] if known else "none")
        length = self.query_length or (known["length"] if known else model[0].query_length or _QUERY_LENGTH)
        model[0].query_expansion = None
        model[0].query_length = length if strategy == "none" else None
        if strategy != "none":
            module_of(model, "MultiVectorMask", self.model)
            if model.tokenizer.mask_token is None:
                raise InputError(f"expansion: the tokenizer of {self.model!r} has no [MASK]; use expansion: none")
            attend = bool(known and known["attend"])
            model[0].query_expansion = {"strategy": strategy, "attend": attend, "length": length}

    def _set_prefixes(self, model: Any) -> None:
        """Prefixes are prompts of one token each, which joins the vocabulary where it is not in it."""
        import torch
        from transformers import AddedToken

        asked = {"query": self.query_prefix, "document": self.document_prefix}
        prefixes = {role: prefix for role, prefix in asked.items() if prefix is not None}
        tokenizer = model.tokenizer
        new = [prefix for prefix in prefixes.values() if tokenizer.tokenize(prefix) != [prefix]]
        if new:
            tokens = [AddedToken(prefix, normalized=False, special=True) for prefix in new]
            tokenizer.add_tokens(tokens, special_tokens=True)
        encoder = model[0].auto_model
        if new and len(tokenizer) > encoder.get_input_embeddings().num_embeddings:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                encoder.resize_token_embeddings(len(tokenizer))
        model.prompts |= {role: f"{prefix} " for role, prefix in prefixes.items()}


def _set_pooling(model: Any, factor: float) -> None:
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

    for module in model:
        if isinstance(module, HierarchicalTokenPooling):
            module.pool_factor = factor
            return
    model.append(HierarchicalTokenPooling(factor))


STUDENTS = {"colbert": ColBERTStudent}
