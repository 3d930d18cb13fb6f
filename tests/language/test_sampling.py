import numpy as np
import pytest
import torch
from pydantic import ValidationError

from retrodistill.language.sampling import Drawn, Sampling

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -8.0])


def frequencies(sampling, draws=4_000):
    found = Drawn(sampling, range(draws))(torch.empty(0), LOGITS.expand(draws, -1)).argmax(1)
    return np.bincount(found.numpy(), minlength=len(LOGITS)) / draws


@pytest.mark.parametrize(
    ("sampling", "kept", "temperature"),
    [
        (Sampling(top_k=None), 5, 1.0),
        (Sampling(top_k=2), 2, 1.0),
        (Sampling(top_k=None, temperature=2.0), 5, 2.0),
        (Sampling(top_k=9, temperature=0.5), 5, 0.5),
        (Sampling(top_k=None, top_p=0.7), 2, 1.0),  # the first has .64, the second .24: it is the one that passes .7
    ],
)
def test_tokens_come_as_often_as_their_probability_says(sampling, kept, temperature):
    expected = torch.softmax(LOGITS[:kept] / temperature, dim=0).numpy()
    found = frequencies(sampling)
    np.testing.assert_allclose(found[:kept], expected, atol=4 * np.sqrt(0.25 / 4_000))
    assert found[kept:].sum() == 0


def test_a_text_has_a_draw_of_its_own():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together, alone = Drawn(Sampling(), [7, 8, 9]), Drawn(Sampling(), [8])
    for _ in range(3):  # step by step
        assert torch.equal(together(torch.empty(0), logits)[1:2], alone(torch.empty(0), logits[1:2]))


def test_without_temperature_nothing_is_drawn():
    assert Drawn(Sampling(temperature=0), [1])(torch.empty(0), LOGITS[None]) is not None
    assert torch.equal(Drawn(Sampling(temperature=0), [1])(torch.empty(0), LOGITS[None]), LOGITS[None])


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.2}, {"topk": 3}])
def test_what_cannot_be(wrong):
    with pytest.raises(ValidationError):
        Sampling(**wrong)
