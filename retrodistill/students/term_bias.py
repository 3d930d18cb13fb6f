"""Gives a decoder's terms a sparse start: a projection of its own with a bias a term, set by what all texts share."""

from __future__ import annotations

from typing import Any

from retrodistill.encoders.tokens import features, tokenize
from retrodistill.errors import InputError

# What they are about does not count, only what a decoder says of any text: of a query's length and of a passage's.
_TEXTS = (
    "How do enzymes lower the energy that a reaction needs?",
    "symptoms of iron deficiency in adults",
    "What is the difference between a patent and a trademark?",
    "cheap flights to Lisbon in March",
    "who wrote the first novel about a submarine",
    "Statins reduce the risk of stroke in older women.",
    "def area(width, height): return width * height",
    "Whales sing at low frequencies that travel hundreds of miles.",
    "The council voted to repair the old bridge before winter. Engineers had found rust in two of its piers, and "
    "lorries have been sent around the town since May, which shopkeepers say has cost them a fifth of their "
    "trade.",
    "Mix the flour with cold butter until it looks like sand, add water by the spoon, and let the dough rest for "
    "half an hour. Roll it out on a cool table, line the tin, and bake it blind until the edges begin to brown.",
    "Interest rates rose again this quarter, and fewer families could afford a house. Banks report that "
    "applications for mortgages fell by a third, while rents in the largest cities went up faster than wages did.",
    "We observed a star whose light fades every nine days. The depth of the dip and its flat floor suggest a "
    "planet of Jupiter's size on a close orbit; radial velocities taken over two seasons agree with a mass of "
    "that order.",
    "Install the package, then restart the server to apply the settings. If the port is in use already, the "
    "process ends with an error and writes the number of the other process to its log, so that you can stop it "
    "first.",
    "In 1848 the harvest failed, and thousands left for other countries. Letters that they sent home tell of long "
    "voyages, of fevers on board, and of relatives who had found work on railways and farms along the great "
    "lakes.",
    "The goalkeeper saved two penalties, and the team reached the final for the first time in its history. Its "
    "coach, who had been a teacher until last year, said that nobody had slept on the night before the match.",
    "Tenants must give notice in writing three months before they leave. The landlord returns the deposit within "
    "thirty days, less the cost of damage that goes beyond ordinary wear, and must show receipts if asked for "
    "them.",
)


def with_bias(model: Any, terms: int) -> Any:
    """A SparseEncoder of the same decoder whose projection to terms has a bias, set for so many terms a text.

    Of any text a causal language model has most logits above 0, and a few terms high: those of frequent words. The
    projection loses its mean row, and with it what all logits of a token share. Each term is lowered by the mean, over
    texts on many matters, of its largest logit in a text; and all of them by what leaves so many terms above 0. What is
    left is measured in standard deviations of these largest logits, as scores of large ones stop the training early.

    A *ForCausalLM has no such bias. The projection is therefore a module of sentence-transformers behind the decoder,
    which any sentence-transformers loads; it is no longer tied to the word embeddings.

    Source of the scaling: "Rescaling MLM-Head for Neural Sparse Retrieval", 2026, arXiv 2606.18811. Xu et al. 2025,
    "CSPLADE", spend a phase of training on what the bias does at once.

    Args:
        model: a SparseEncoder of a *ForCausalLM, its head fused; what it is made of goes into the new one.
        terms: of a text, on the average over these.

    Raises:
        InputError: there are fewer terms in the vocabulary.
    """
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    causal, first = model[0].model, model[0]
    weight = causal.get_output_embeddings().weight.detach().float()
    if terms >= len(weight):
        raise InputError(f"start: {terms} terms, but the vocabulary of the model has {len(weight)}; use fewer")
    with torch.inference_mode():
        weight = weight - weight.mean(0)
        peaks = []
        for tokens in tokenize(model, _TEXTS, "document"):
            read = first(features(model, [tokens], "document"))
            states = read["token_embeddings"][0][read["attention_mask"][0].bool()]
            peaks.append((weight @ states.float().T).amax(1))
        highest = torch.stack(peaks)  # (texts, terms)
        above = highest - highest.mean(0)
        lowered = highest.mean(0) + above.flatten().topk(terms * len(above) + 1).values[-1]
        unit = above.std()
    projection = Dense(
        weight.shape[1],
        len(weight),
        activation_function=torch.nn.Identity(),
        init_weight=(weight / unit).clone(),
        init_bias=(-lowered / unit).clone(),
        module_input_name="token_embeddings",
    )
    first.model, first.transformer_task = causal.base_model, "feature-extraction"
    first.modality_config = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    first.processing_kwargs.pop("text", None)
    first.tokenizer.padding_side = "right"  # as encoders are padded, so that positions count from 0
    made = SparseEncoder(
        modules=[first, projection, SpladePooling()], device=str(model.device), similarity_fn_name="dot"
    )
    return made.eval()


def freeze_weights(model: Any) -> None:
    """Leave a projection's weights as they are where adapters learn; its bias learns, which is a number a term."""
    from sentence_transformers.base.modules.dense import Dense

    for module in model:
        if isinstance(module, Dense):
            module.linear.weight.requires_grad_(False)
