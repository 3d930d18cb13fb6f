import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.encoders import splade_peaks
from retrodistill.encoders.splade_peaks import Sieve, ragged_peaks


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    terms=st.integers(1, 150),
    shift=st.sampled_from([-30.0, 0.0, 30.0]),
    rounded=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_maximum_over_each_texts_tokens(lengths, terms, shift, rounded, seed):
    """All logits negative, of both signs, all positive; in chunks that do not divide the terms."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if rounded else torch.float32
    hidden = torch.cat([torch.randn(sum(lengths), 7, generator=generator), torch.ones(sum(lengths), 1)], dim=1)
    weight = torch.cat([torch.randn(terms, 7, generator=generator), torch.full((terms, 1), shift)], dim=1).to(dtype)
    bias = torch.randn(terms, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splade_peaks, "_TERMS", 64)
        found = ragged_peaks(hidden, lengths, weight, bias)
    logits = (hidden.to(dtype) @ weight.T).float()
    expected = torch.stack([text.max(0).values for text in logits.split(lengths)]) + bias
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5 if not rounded else 0.3, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_does_not_vanish(dtype):
    hidden = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [1.0, 1.0]])
    weight = torch.ones(70, 2, dtype=dtype)
    hidden[0] = hidden[1]
    found = ragged_peaks(hidden, [2, 1], weight, None)
    assert found[0].isnan().all()
    assert found[1].eq(2).all()


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    terms=st.integers(1, 150),
    shift=st.floats(-12, 3),
    size=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 2**32),
)
def test_what_bfloat16_rules_out_is_zero_in_float32_too(lengths, terms, shift, size, seed):
    """From hardly a term above zero to most of them, for which all is multiplied again."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(sum(lengths), 16, generator=generator) * size
    weight = torch.randn(terms, 16, generator=generator)
    bias = (torch.randn(terms, generator=generator) + shift) * size
    found = Sieve(weight, bias).peaks(hidden, lengths)
    logits = hidden.double() @ weight.double().T + bias
    expected = torch.stack([text.max(0).values for text in logits.split(lengths)]).clamp(min=0)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5 * size, rtol=1e-5)
    assert found[expected < -1e-5 * size].eq(0).all()


def test_few_terms_are_multiplied_in_float32(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(40, 64, generator=generator), torch.randn(2_000, 64, generator=generator)
    sieve = Sieve(weight, torch.full((2_000,), -30.0))
    whole = []
    monkeypatch.setattr(splade_peaks, "_keep", lambda *_: whole.append(1))
    found = sieve.peaks(hidden, [15, 25])
    logits = hidden @ weight.T - 30
    expected = torch.stack([logits[:15].amax(0), logits[15:].amax(0)]).relu()
    assert not whole
    assert 0 < expected.count_nonzero() < 100
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4)  # of products of 30 and more


def test_nan_does_not_vanish_in_the_sieve():
    hidden = torch.tensor([[float("nan"), 0.0], [1.0, -1.0], [1.0, 1.0]])
    found = Sieve(torch.ones(70, 2), None).peaks(hidden, [2, 1])
    assert found[0].isnan().all()
    assert found[1].eq(2).all()
