"""Attention as students compute it on a CPU: that of transformers, only quicker."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from retrodistill.students import attention


def encoder(family, **options):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if family == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(family, vocab_size=30, pad_token_id=0, **sizes, **options))


def texts(lengths):
    width = max(lengths)
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return {"input_ids": (torch.arange(mask.numel()).view(mask.shape) % 25 + 3) * mask, "attention_mask": mask}


@pytest.mark.parametrize("family", attention.FAMILIES)
@pytest.mark.parametrize("lengths", [(7, 7), (7, 3, 5)])
@pytest.mark.parametrize(("precision", "tolerance"), [(None, 1e-6), (torch.bfloat16, 0.03)])
def test_vectors_and_gradients_are_those_of_transformers(family, lengths, precision, tolerance):
    read, found = texts(lengths), []
    for plain in (False, True):
        model = encoder(family, attn_implementation="eager").eval()
        if plain:
            attention.use_plain_attention(model)
            assert model.config._attn_implementation == attention.PLAIN_ATTENTION
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            hidden = model(**read).last_hidden_state
        vectors = hidden.float()[read["attention_mask"].bool()]
        (vectors * torch.linspace(-1, 1, 16)).sum().backward()
        found.append([vectors.detach(), *[weight.grad for weight in model.parameters() if weight.grad is not None]])
    for plain, known in zip(found[1], found[0], strict=True):
        assert torch.allclose(plain, known, rtol=tolerance, atol=tolerance * max(1.0, float(known.abs().max())))


def test_what_is_not_bert_attends_as_transformers_has_it():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = AutoModel.from_config(AutoConfig.for_model("llama", vocab_size=30, num_key_value_heads=1, **sizes))
    attention.use_plain_attention(model)
    assert model.config._attn_implementation == "eager"
