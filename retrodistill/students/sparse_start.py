"""Gives a decoder's SPLADE head a sparse start: its logits are centred and lowered, by its output weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodistill.encoders.tokens import features, tokenize
from retrodistill.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

# Sentences of a query's length on many matters: what they are about does not count, only how many terms they get.
_SENTENCES = (
    "How do enzymes lower the energy that a chemical reaction needs?",
    "The council voted to repair the old bridge before winter comes.",
    "She sold her first painting for less than the price of the frame.",
    "Interest rates rose again, and fewer families could afford a house.",
    "def area(width, height): return width * height",
    "Symptoms of iron deficiency in adults and how it is treated",
    "In 1848 the harvest failed and thousands left for other countries.",
    "Install the package, then restart the server to apply the settings.",
    "The goalkeeper saved two penalties and the team reached the final.",
    "Whales sing at low frequencies that travel hundreds of miles.",
    "What is the difference between a patent and a trademark?",
    "Mix the flour with cold butter, add water, and let the dough rest.",
    "The telescope observed a star whose light fades every nine days.",
    "Tenants must give notice in writing three months before they leave.",
    "Vaccination reduced hospital admissions among older patients.",
    "He walked home slowly, thinking about the letter he had not answered.",
)
# Tokens by chance, in which the direction is found: there are as many as it takes, and none says anything.
_SEQUENCES, _LENGTH, _RIDGE = 64, 48, 1e-3


def thin_out(model: Any, terms: int, name: str) -> None:
    """Have a SparseEncoder with a fused head give a sentence so many terms, whatever its logits are like.

    A causal language model's logits are mostly above 0: of every text it would have nearly all terms. Taking the mean
    output weight from each takes the mean logit of each token. Hidden states have no constant component, but there is
    a direction u in which all of them are close to 1 (ridge regression); output weights that are lowered along it lower
    every logit by about the same. What comes out is an output projection without a bias, like the one that was there,
    no longer tied to the word embeddings.

    Args:
        model: changed in place.
        terms: of a sentence, on the average over a few.
        name: of the model.

    Raises:
        InputError: there is no such direction.
    """
    import torch

    network = model[0].model
    projection = network.get_output_embeddings()
    weight = projection.weight.detach()
    draws = np.random.default_rng(0).integers(0, len(weight), (_SEQUENCES, _LENGTH), dtype=np.int32)
    with torch.inference_mode():
        hidden = torch.cat(_states(model, [np.tile(draw, 2) for draw in draws]))
        second = hidden.T @ hidden / len(hidden)
        ridge = _RIDGE * second.diagonal().mean() * torch.eye(len(second), device=hidden.device)
        direction = torch.linalg.solve(second + ridge, hidden.mean(0))
        centred = weight.float() - weight.float().mean(0)
        # a logit that is lowered by s is above 0 where its ratio to the state's share of the direction is above s
        sentences = _states(model, tokenize(model, _SENTENCES, "document"))
        shares = [text / (text @ direction).clamp_min(0.1)[:, None] for text in sentences]
        ratios = torch.stack([(share @ centred.T).amax(0) for share in shares])
        wanted = min(ratios.numel(), terms * len(_SENTENCES) + 1)
        lowered = float(ratios.flatten().topk(wanted).values[-1])
        made = centred - lowered * direction
        given = sum(float(((text @ made.T).amax(0) > 0).sum()) for text in sentences) / len(sentences)
    if given > 2 * terms:
        raise InputError(
            f"start: the logits of {name!r} have nothing in common by which to lower them: of {terms} terms that a "
            f"sentence should have it has {given:,.0f}; `start: null` leaves them alone"
        )
    projection.weight = torch.nn.Parameter(
        made.to(weight.dtype, copy=True), requires_grad=projection.weight.requires_grad
    )
    for config in {id(found): found for found in (network.config, network.config.get_text_config())}.values():
        config.tie_word_embeddings = False


def _states(model: Any, texts: Sequence[np.ndarray]) -> list[Tensor]:
    """What the head reads of each text, (tokens, width)."""
    found = []
    for tokens in texts:
        read = model[0](features(model, [tokens], "document"))
        found.append(read["token_embeddings"][0][read["attention_mask"][0].bool()].float())
    return found
