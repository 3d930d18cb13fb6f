from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_batches import LOSSES, make_batch, random_batch, value_and_gradient, with_student
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retrodistill.losses.batch import masked_log_softmax
from retrodistill.losses.listwise import KL, InfoNCE
from retrodistill.losses.pairwise import MarginMSE

NAN = float("nan")
seeds = st.integers(0, 2**32 - 1)
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
TAUGHT = {name: loss for name, loss in LOSSES.items() if loss.needs_teacher}


def close(got, expected):
    """Two (value, gradient) are the same, up to float32's rounding."""
    assert got[0] == pytest.approx(expected[0], rel=2e-5, abs=1e-5)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-4, atol=1e-5)


def widened(batch, extra, **masks):
    """The batch with `extra` more columns of high scores, whose masks are all true but for those given."""

    def wide(old, fill):
        return torch.cat([old, torch.full((len(old), extra), fill)], dim=1)

    fills = {"judged": True, "positive": False, "own": True, "valid": True, **masks}
    new = {name: wide(getattr(batch, name), fill) for name, fill in fills.items()}
    student = wide(batch.student.detach(), 40.0)
    return with_student(replace(batch, teacher=wide(batch.teacher, NAN), **new), student)


def unchanged_by_more(loss, batch, wide):
    width = batch.student.shape[1]
    value, gradient = value_and_gradient(loss, wide)
    close((value, gradient[:, :width]), value_and_gradient(loss, batch))
    assert not gradient[:, width:].any()


@each_loss
@settings(max_examples=15, deadline=None)
@given(seed=seeds, extra=st.integers(1, 6), positive=st.booleans())
def test_padding_changes_nothing(loss, seed, extra, positive):
    batch = random_batch(seed)
    unchanged_by_more(loss, batch, widened(batch, extra, valid=False, positive=positive))


@pytest.mark.parametrize("loss", TAUGHT.values(), ids=TAUGHT)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, extra=st.integers(1, 6), positive=st.booleans())
def test_what_no_teacher_judged_teaches_nothing(loss, seed, extra, positive):
    batch = random_batch(seed)
    unchanged_by_more(loss, batch, widened(batch, extra, judged=False, positive=positive))


@pytest.mark.parametrize("loss", [loss for loss in LOSSES.values() if not loss.in_batch])
@settings(max_examples=15, deadline=None)
@given(seed=seeds, extra=st.integers(1, 6))
def test_other_queries_documents_count_in_batch_alone(loss, seed, extra):
    batch = random_batch(seed)
    unchanged_by_more(loss, batch, widened(batch, extra, own=False))


def test_other_queries_documents_count_in_batch():
    batch = make_batch([[1.0, 0.0]], positive=[[1, 0]])
    loss = InfoNCE(temperature=1)
    assert loss.in_batch
    assert loss(widened(batch, 1, own=False, judged=False)).item() > loss(batch).item() + 30


@each_loss
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_the_order_of_documents_and_of_queries_does_not_matter(loss, seed):
    batch = random_batch(seed)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(size, generator=generator) for size in batch.student.shape)
    shuffled = type(batch)(**{name: tensor.detach()[rows][:, columns] for name, tensor in vars(batch).items()})
    value, gradient = value_and_gradient(loss, batch)
    close(value_and_gradient(loss, shuffled), (value, gradient[rows][:, columns]))


def constants(seed, queries):
    return torch.rand((queries, 1), generator=torch.Generator().manual_seed(seed)) * 20 - 10


@each_loss
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_constant_on_a_querys_student_scores_changes_nothing(loss, seed):
    batch = random_batch(seed)
    moved = with_student(batch, batch.student + constants(seed, len(batch.student)))
    close(value_and_gradient(loss, moved), value_and_gradient(loss, batch))


@each_loss
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_constant_on_a_querys_teacher_scores_changes_nothing(loss, seed):
    batch = random_batch(seed)
    moved = replace(batch, teacher=batch.teacher + constants(seed, len(batch.teacher)))
    close(value_and_gradient(loss, moved), value_and_gradient(loss, batch))


@pytest.mark.parametrize("loss", [KL(), KL(temperature=0.3), MarginMSE()])
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_no_loss_and_no_gradient_where_the_student_is_the_teacher(loss, seed):
    batch = random_batch(seed)
    value, gradient = value_and_gradient(loss, with_student(batch, batch.teacher))
    assert value == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_kl_is_never_negative(seed):
    assert KL()(random_batch(seed)).item() >= -1e-6


@each_loss
@pytest.mark.parametrize("mask", ["valid", "own"])
def test_a_query_without_entries_changes_nothing(loss, mask):
    whole = random_batch(5, queries=3)
    masked = getattr(whole, mask).clone()
    masked[1] = False
    batch = replace(whole, **{mask: masked})
    value, gradient = value_and_gradient(loss, batch)
    kept = type(whole)(**{name: tensor.detach()[[0, 2]] for name, tensor in vars(batch).items()})
    close((value, gradient[[0, 2]]), value_and_gradient(loss, kept))
    assert value > 0
    assert not gradient[1].any()


@each_loss
@pytest.mark.parametrize("teacher", [0.0, NAN])
def test_nothing_to_learn_is_zero_with_a_zero_gradient(loss, teacher):
    nothing = torch.zeros((3, 4))
    batch = make_batch(nothing + 2, teacher=nothing + teacher, judged=nothing, valid=nothing)
    value, gradient = value_and_gradient(loss, batch)
    assert value == 0
    assert not gradient.any()
    values, counted = loss.terms(batch)
    assert values.isfinite().all()
    assert not counted.any()


@each_loss
def test_losses_of_16_bit_scores_are_float32(loss):
    batch = random_batch(3)
    half = replace(batch, student=batch.student.detach().bfloat16(), teacher=batch.teacher.bfloat16())
    rounded = replace(batch, student=half.student.float(), teacher=half.teacher.float())
    assert loss(half).dtype == torch.float32
    assert loss(half) == loss(rounded)


def test_log_softmax_of_some_entries():
    scores = torch.tensor([[1.0, 500.0, 1.0]], dtype=torch.bfloat16)
    found = masked_log_softmax(scores, torch.tensor([[True, False, True]]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.0, 0.5]]).log())
    assert not masked_log_softmax(scores, torch.zeros(1, 3, dtype=torch.bool)).any()


@each_loss
def test_scores_far_apart_stay_finite(loss):
    batch = make_batch(
        [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], teacher=[[-1e4, 1e4, 0.0]] * 2, positive=[[1, 0, 0], [1, 0, 0]]
    )
    value, gradient = value_and_gradient(loss, batch)
    assert value > 1
    assert torch.tensor(value).isfinite()
    assert gradient.isfinite().all()
    assert gradient.any()


class Largest(TorchDispatchMode):
    """The size of the largest tensor made inside the block."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.size = max([self.size, *(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor))])
        return made


@each_loss
def test_memory_grows_with_the_score_matrix_and_no_faster(loss):
    batch = random_batch(1, queries=6, documents=50)
    with Largest() as largest:
        value_and_gradient(loss, batch)
    assert largest.size == 6 * 50
