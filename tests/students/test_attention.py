"""Attention and dropout as students compute them on a CPU: those of transformers and torch, only quicker."""

import pytest
import torch
from torch import nn
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_is_dropped_and_the_mean_stays(dtype, rate):
    torch.manual_seed(1)
    values = torch.ones(200_003, dtype=dtype)
    left = attention.dropped(values, rate).float()
    share = (left == 0).float().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(values)) ** 0.5)
    assert torch.unique(left[left != 0]).tolist() == pytest.approx([1 / (1 - rate)], rel=5e-3)
    assert not torch.equal(left, attention.dropped(values, rate).float())


def test_draws_are_independent_of_each_other():
    torch.manual_seed(2)
    kept = (attention.dropped(torch.ones(100_000), 0.5) != 0).float() - 0.5
    for lag in (1, 2, 3, 4, 64):
        assert abs((kept[lag:] * kept[:-lag]).mean().item()) < 0.25 * 4 / len(kept) ** 0.5


def test_the_gradient_passes_where_a_value_did():
    values = torch.arange(1.0, 13.0).view(3, 4).T.requires_grad_()  # not contiguous
    left = attention.dropped(values, 0.25)
    left.backward(torch.full_like(left, 2.0))
    assert torch.allclose(values.grad, 2 * left.detach() / values.detach())


def test_torchs_generator_decides():
    values = torch.ones(1000)
    state = torch.get_rng_state()
    first, second = attention.dropped(values, 0.3), attention.dropped(values, 0.3)
    torch.set_rng_state(state)
    assert torch.equal(first, attention.dropped(values, 0.3))
    assert torch.equal(second, attention.dropped(values, 0.3))


def test_dropout_is_put_in_the_place_of_torchs_and_acts_in_training_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.5)))
    model.eval()
    attention.use_quick_dropout(model)
    dropout = model[1][0]
    assert type(dropout) is attention.Dropout
    assert (dropout.p, dropout.training) == (0.5, False)
    values = torch.ones(100)
    assert torch.equal(dropout(values), values)
    assert (dropout.train()(values) == 0).any()
    dropout.p = 0
    assert torch.equal(dropout(values), values)
