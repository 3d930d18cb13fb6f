"""Late interaction without training: the vectors that an encoder has for tokens, before it pools them."""

from __future__ import annotations

import string
from typing import Any

from retrodistill.encoders.loading import load_model
from retrodistill.errors import InputError


def late_interaction(name: str, device: str, dimensions: int | None = None, seed: int = 0) -> Any:
    """A MultiVectorEncoder of an encoder: its token vectors, projected where asked for, at unit length.

    Args:
        name: a SentenceTransformer or an encoder, a folder or a Hub name.
        device: where it goes.
        dimensions: width of a new projection; none where None.
        seed: of that projection.

    Raises:
        InputError: it cannot be loaded, or it is no transformer.
    """
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    base = load_model(name, "SentenceTransformer", None, device)
    encoder, heads = base[0], [module for module in base if isinstance(module, Dense)]
    if not isinstance(encoder, Transformer):
        raise InputError(
            f"model {name!r} begins with a {type(encoder).__name__}, which has no vector a token in its context; a "
            "ColBERT is made of a transformer"
        )
    for head in heads:  # a projection of the whole text's vector becomes one of each token's
        head.module_input_name = head.module_output_name = "token_embeddings"
    width = heads[-1].out_features if heads else encoder.get_embedding_dimension()
    if dimensions is not None:
        # rows at right angles: the angles between vectors, which MaxSim sees, change least
        start = torch.empty(dimensions, width)
        torch.nn.init.orthogonal_(start, generator=torch.Generator().manual_seed(seed))
        heads.append(
            Dense(
                width,
                dimensions,
                bias=False,
                activation_function=torch.nn.Identity(),
                init_weight=start,
                module_input_name="token_embeddings",
            )
        )
    modules = [encoder, *heads, MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    prompts = {role: prompt for role, prompt in base.prompts.items() if prompt}
    return MultiVectorEncoder(modules=modules, device=device, prompts=prompts).float().eval()


def skip_punctuation(model: Any, name: str, skipped: bool = True) -> None:
    """Leave a document's punctuation without vectors, as ColBERT does, or give them back.

    Raises:
        InputError: the model has no list of tokens to skip.
    """
    mask = module_of(model, "MultiVectorMask", name)
    mask.skiplist_words = list(string.punctuation) if skipped else []
    mask.resolve_with_tokenizer(model.tokenizer)


def module_of(model: Any, kind: str, name: str) -> Any:
    """The first module of a class.

    Raises:
        InputError: there is none.
    """
    found = next((module for module in model if type(module).__name__ == kind), None)
    if found is None:
        raise InputError(f"model {name!r} has no {kind}, which expansion and skip_punctuation need; leave them out")
    return found
