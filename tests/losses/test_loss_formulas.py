import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_formulas import reference
from score_batches import LOSSES, random_batch, value_and_gradient

from retrodistill.registry import table

each_name = pytest.mark.parametrize("name", LOSSES)
seeds = st.integers(0, 2**32 - 1)


def test_every_loss_of_ours_is_put_to_the_test():
    assert {loss.kind for loss in LOSSES.values()} == set(table("loss"))


@each_name
@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_ragged_lists_as_the_formula_in_loops(name, seed):
    batch = random_batch(seed)
    value, _ = value_and_gradient(LOSSES[name], batch)
    assert value == pytest.approx(reference(LOSSES[name], batch), rel=1e-5, abs=1e-6)


@each_name
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_gradients_are_finite_differences(name, seed):
    loss, batch, step = LOSSES[name], random_batch(seed, queries=2, documents=6), 1e-5
    _, gradient = value_and_gradient(loss, batch)
    numeric = torch.zeros(gradient.shape, dtype=torch.float64)
    scores = batch.student.detach().double()
    for entry in torch.cartesian_prod(*map(torch.arange, gradient.shape)).tolist():
        moved = torch.zeros(gradient.shape, dtype=torch.float64)
        moved[tuple(entry)] = step
        higher, lower = reference(loss, batch, scores + moved), reference(loss, batch, scores - moved)
        numeric[tuple(entry)] = (higher - lower) / (2 * step)
    torch.testing.assert_close(gradient.double(), numeric, rtol=1e-4, atol=2e-5)
