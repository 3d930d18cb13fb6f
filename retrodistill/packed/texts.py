"""What a packed model reads: texts behind the prompt of their role, as a model of sentence-transformers reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retrodistill.encoders.tokens import prompt_of
from retrodistill.packed.tokens import Tokens

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.modules import Transformer

    from retrodistill.encoders import Role


def tokens_of(model: Any, texts: Sequence[str], role: Role, prompt: str | None) -> Tokens:
    """Tokens of texts behind a prompt: this one, or the model's own for the role where None."""
    prompt = prompt_of(model, role) if prompt is None else prompt
    if prompt:
        texts = [prompt + text for text in texts]
    return Tokens.of(model.tokenizer, texts, max_length=model.max_seq_length)


def reads_plain_text(transformer: Transformer, output: str) -> bool:
    """Whether a module of sentence-transformers does no more than tokenise texts and call its model's forward."""
    tokenizer = transformer.tokenizer
    return (
        transformer.backend == "torch"
        and transformer.module_output_name == output
        and set(transformer.modality_config) == {"text"}
        and transformer.modality_config["text"]["method"] == "forward"
        and transformer.modality_config["text"]["method_output_name"] in ("last_hidden_state", "logits")
        and not transformer.processing_kwargs
        and transformer.query_length is transformer.document_length is transformer.query_expansion is None
        and getattr(tokenizer, "padding_side", None) == "right"  # padding on the left moves positions
        and bool(tokenizer("")["input_ids"])  # an empty text has its special tokens
    )
