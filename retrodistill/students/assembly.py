"""Makes a bi-encoder of any transformer: how texts are read, pooled and compared, all saved with the model."""

from __future__ import annotations

from typing import Any, Literal

from retrodistill import models
from retrodistill.encoders.common import quiet_libraries
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


def sparse_decoder(name: str, device: str) -> Any:
    """A SparseEncoder whose terms a causal language model finds: its logits at every token, pooled as SPLADE does.

    Raises:
        InputError: the model cannot be loaded.
    """
    quiet_libraries()
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    folder = models.locate(name)
    try:
        transformer = Transformer(
            str(folder),
            transformer_task="text-generation",
            modality_config={"text": {"method": "forward", "method_output_name": "logits"}},
            module_output_name="token_embeddings",
            processing_kwargs={"text": {"logits_to_keep": 0}},  # those of every token
            model_kwargs={"use_safetensors": True, "local_files_only": True, "trust_remote_code": False},
        )
    except Exception as error:  # whatever the library meets in a broken folder, the user needs the folder's name
        raise InputError(f"model {name!r} cannot be loaded from {folder}: {type(error).__name__}: {error}") from error
    model = SparseEncoder(modules=[transformer, SpladePooling()], device=device, similarity_fn_name="dot")
    read_plainly(model)
    return model.float().eval()


def echo(model: Any, name: str) -> None:
    """Have a model read every text twice, so that each of its tokens is seen after all of them.

    The tokenizer does it, and so does whatever loads it later. Texts are cut before they are repeated: a length of L
    has 2 L tokens read. Both readings count for the pooling, as nothing in a saved model tells them apart.

    Source: Springer et al. 2024, "Repetition Improves Language Model Embeddings"; for SPLADE, Doshi et al. 2024,
    "Mistral-SPLADE: LLMs for better Learned Sparse Retrieval".

    Raises:
        InputError: the tokenizer cannot be told to.
    """
    from tokenizers.processors import TemplateProcessing

    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"echo: the tokenizer of {name!r} is not one of the tokenizers library; leave echo out")
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    read = tokenizer("a")["input_ids"]
    start = next((n for n in range(len(read)) if read[n : n + len(text)] == text), None)
    if start is None or read.count(text[0]) > 1:
        raise InputError(f"echo: the tokenizer of {name!r} does more to a text than to put tokens around it")
    before, after = read[:start], read[start + len(text) :]
    around = [(token, tokenizer.convert_ids_to_tokens(token)) for token in dict.fromkeys([*before, *after])]
    named = dict(around)
    pieces = [*(named[token] for token in before), "$A", "$A", *(named[token] for token in after)]
    backend.post_processor = TemplateProcessing(
        single=pieces, special_tokens=[(piece, token) for token, piece in around]
    )
