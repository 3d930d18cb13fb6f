"""Dropout as students compute it on a CPU."""

import pytest
import torch
from torch import nn

from retrodistill.students import dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_is_dropped_and_the_mean_stays(dtype, rate):
    torch.manual_seed(1)
    values = torch.ones(200_003, dtype=dtype)
    left = dropout.dropped(values, rate).float()
    share = (left == 0).float().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(values)) ** 0.5)
    assert torch.unique(left[left != 0]).tolist() == pytest.approx([1 / (1 - rate)], rel=5e-3)
    assert not torch.equal(left, dropout.dropped(values, rate).float())


def test_draws_are_independent_of_each_other():
    torch.manual_seed(2)
    kept = (dropout.dropped(torch.ones(100_000), 0.5) != 0).float() - 0.5
    for lag in (1, 2, 3, 4, 64):
        assert abs((kept[lag:] * kept[:-lag]).mean().item()) < 0.25 * 4 / len(kept) ** 0.5


def test_the_gradient_passes_where_a_value_did():
    values = torch.arange(1.0, 13.0).view(3, 4).T.requires_grad_()  # not contiguous
    left = dropout.dropped(values, 0.25)
    left.backward(torch.full_like(left, 2.0))
    assert torch.allclose(values.grad, 2 * left.detach() / values.detach())


def test_torchs_generator_decides():
    values = torch.ones(1000)
    state = torch.get_rng_state()
    first, second = dropout.dropped(values, 0.3), dropout.dropped(values, 0.3)
    torch.set_rng_state(state)
    assert torch.equal(first, dropout.dropped(values, 0.3))
    assert torch.equal(second, dropout.dropped(values, 0.3))


def test_dropout_is_put_in_the_place_of_torchs_and_acts_in_training_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.5)))
    model.eval()
    dropout.use_quick_dropout(model)
    part = model[1][0]
    assert type(part) is dropout.Dropout
    assert (part.p, part.training) == (0.5, False)
    values = torch.ones(100)
    assert torch.equal(part(values), values)
    assert (part.train()(values) == 0).any()
    part.p = 0
    assert torch.equal(part(values), values)


def test_values_may_begin_and_end_anywhere():
    whole = torch.ones(101, dtype=torch.bfloat16)
    for start, stop in ((0, 100), (1, 101), (1, 100), (0, 101), (0, 0), (5, 6)):
        part = whole[start:stop]
        torch.manual_seed(4)
        left = dropout.dropped(part, 0.5)
        torch.manual_seed(4)
        assert torch.equal(left, dropout.dropped(part.clone(), 0.5))
        assert left.shape == part.shape


def test_a_seed_drops_the_same_on_any_number_of_threads(monkeypatch):
    values = torch.ones(2**18 + 3, dtype=torch.bfloat16)
    found = []
    for threads in "1", "3":
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        torch.manual_seed(3)
        found.append(dropout.dropped(values, 0.2))
    assert torch.equal(*found)


def test_two_seeds_are_independent_of_each_other():
    """Those too that differ in one of the halves that they are used as."""
    for first, second in ((7, 8), (7, 7 + 2**32), (7, 7 + 2**61)):
        kept = [(dropout._zeroed(torch.ones(200_000), seed, 2**15) != 0).float() - 0.5 for seed in (first, second)]
        for lag in (0, 1, 2):
            size = 200_000 - lag
            assert abs((kept[0][lag:] * kept[1][:size]).mean().item()) < 0.25 * 4 / size**0.5


def test_no_dropout_of_t5_is_left():
    from transformers import T5Config, T5EncoderModel

    from retrodistill.students.backbone import set_dropout

    sizes = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    model = T5EncoderModel(T5Config(dropout_rate=0.3, **sizes)).train()
    read = {"input_ids": torch.arange(3, 12)[None]}
    assert not torch.equal(*[model(**read).last_hidden_state for _ in range(2)])
    set_dropout(model, 0.0)
    assert torch.equal(*[model(**read).last_hidden_state for _ in range(2)])
