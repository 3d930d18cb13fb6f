from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_batches import LOSSES, PAIRS, make_batch, only, random_batch, value_and_gradient, with_student
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retrodistill.losses.batch import masked_log_softmax
from retrodistill.losses.contrastive import CPRD, InfoNCE
from retrodistill.losses.divergences import KL, Divergence, InBatchKL, JensenShannon
from retrodistill.losses.listwise import ADRMSE, ListNet
from retrodistill.losses.ndcg import ApproxNDCG
from retrodistill.losses.pairwise import MarginMSE, Preference
from retrodistill.losses.pointwise import BCE, MSE

NAN = float("nan")
seeds = st.integers(0, 2**32 - 1)


def each(losses):
    return pytest.mark.parametrize("loss", losses.values(), ids=losses)


def those(wanted):
    return {name: loss for name, loss in LOSSES.items() if wanted(loss)}


each_loss = each(LOSSES)
# InfoNCE takes what no teacher judged for a negative, whatever it learns of the rest.
TAUGHT = those(lambda loss: loss.needs_teacher and not isinstance(loss, InfoNCE))
SYMMETRIC = those(lambda loss: isinstance(loss, InfoNCE) and loss.symmetric)


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
    new["grades"] = wide(batch.grades, 2.0 if fills["positive"] else 0.0)
    if batch.preferences is not None:
        asked = 0.9 if fills["judged"] else NAN
        new["preferences"] = torch.nn.functional.pad(batch.preferences, (0, extra, 0, extra), value=asked)
    student = wide(batch.student.detach(), 40.0)
    return with_student(replace(batch, teacher=wide(batch.teacher, NAN), **new), student)


def unchanged_by_more(loss, batch, wide):
    width = batch.student.shape[1]
    value, gradient = value_and_gradient(loss, wide)
    close((value, gradient[:, :width]), value_and_gradient(loss, batch))
    assert not gradient[:, width:].any()


@each_loss
@settings(max_examples=8, deadline=None)
@given(seed=seeds, extra=st.integers(1, 6), positive=st.booleans())
def test_padding_changes_nothing(loss, seed, extra, positive):
    batch = random_batch(seed)
    unchanged_by_more(loss, batch, widened(batch, extra, valid=False, positive=positive))


@each({name: loss for name, loss in TAUGHT.items() if getattr(loss, "unjudged", "left_out") == "left_out"})
@settings(max_examples=8, deadline=None)
@given(seed=seeds, extra=st.integers(1, 6), positive=st.booleans())
def test_what_no_teacher_judged_teaches_nothing(loss, seed, extra, positive):
    batch = random_batch(seed)
    unchanged_by_more(loss, batch, widened(batch, extra, judged=False, positive=positive))


@each(those(lambda loss: not loss.in_batch))
@settings(max_examples=8, deadline=None)
@given(seed=seeds, extra=st.integers(1, 6))
def test_other_queries_documents_count_in_batch_alone(loss, seed, extra):
    batch = random_batch(seed)
    unchanged_by_more(loss, batch, widened(batch, extra, own=False))


@each(those(lambda loss: loss.in_batch))
def test_other_queries_documents_count_in_batch(loss):
    batch = make_batch([[1.0, 0.0, -1.0, 0.0]], positive=[[1, 0, 0, 0]], teacher=[[5.0, 2.0, 1.0, 0.0]])
    wide = replace(widened(batch, 1, own=False), teacher=torch.tensor([[5.0, 2.0, 1.0, 0.0, -1.0]]))
    assert loss(wide).item() > loss(batch).item() + 1


@each_loss
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_the_order_of_documents_and_of_queries_does_not_matter(loss, seed):
    batch = random_batch(seed)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(size, generator=generator) for size in batch.student.shape)
    value, gradient = value_and_gradient(loss, batch)
    close(value_and_gradient(loss, only(batch, rows, columns)), (value, gradient[rows][:, columns]))


@each_loss
@settings(max_examples=6, deadline=None)
@given(seed=seeds)
def test_nor_does_it_where_the_teacher_and_the_labels_tie(loss, seed):
    batch = random_batch(seed)
    batch = replace(batch, teacher=batch.teacher.round(), grades=batch.positive.float())
    columns = torch.randperm(batch.student.shape[1], generator=torch.Generator().manual_seed(seed))
    value, gradient = value_and_gradient(loss, batch)
    close(value_and_gradient(loss, only(batch, slice(None), columns)), (value, gradient[:, columns]))


def constants(seed, queries):
    return torch.rand((queries, 1), generator=torch.Generator().manual_seed(seed)) * 20 - 10


# Single scores have no other to be measured against; a document that looks for its query sees them side by side.
@each(those(lambda loss: not isinstance(loss, MSE | BCE) and loss not in SYMMETRIC.values()))
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_a_constant_on_a_querys_student_scores_changes_nothing(loss, seed):
    batch = random_batch(seed)
    moved = with_student(batch, batch.student + constants(seed, len(batch.student)))
    close(value_and_gradient(loss, moved), value_and_gradient(loss, batch))


@each(those(lambda loss: not isinstance(loss, MSE | BCE)))
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_a_constant_on_a_querys_teacher_scores_changes_nothing(loss, seed):
    batch = random_batch(seed)
    moved = replace(batch, teacher=batch.teacher + constants(seed, len(batch.teacher)))
    close(value_and_gradient(loss, moved), value_and_gradient(loss, batch))


REACHED = [
    MSE(),
    MarginMSE(),
    MarginMSE(pairs="all"),
    Preference(temperature=2.0),
    KL(),
    KL(temperature=0.3),
    KL(direction="reverse"),
    KL(skew=0.2, direction="reverse"),
    InBatchKL(temperature=2.0, skew=0.1),
    JensenShannon(beta=0.3),
]


@pytest.mark.parametrize("loss", [*REACHED, BCE(), ListNet(temperature=2.0)])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_no_loss_and_no_gradient_where_the_student_is_the_teacher(loss, seed):
    batch = replace(random_batch(seed), preferences=None)
    value, gradient = value_and_gradient(loss, with_student(batch, batch.teacher))
    if loss in REACHED:  # a cross-entropy keeps the target's entropy
        assert value == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)


@each(those(lambda loss: isinstance(loss, Divergence | Preference)))
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_divergences_are_never_negative(loss, seed):
    assert loss(random_batch(seed)).item() >= -1e-6


ORDERS = those(
    lambda loss: (
        loss.kind in {"ranknet", "adr_mse", "listmle", "p_listmle", "partial_plackett_luce", "cprd"}
        and getattr(loss, "weights", "none") == "none"
        and getattr(loss, "target", "teacher") == "teacher"
    )
)


@each(ORDERS)
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_of_an_order_nothing_but_the_order_counts(loss, seed):
    batch = random_batch(seed)
    close(value_and_gradient(loss, replace(batch, teacher=batch.teacher.exp())), value_and_gradient(loss, batch))


@each_loss
@settings(max_examples=6, deadline=None)
@given(seed=seeds)
def test_who_is_counted_is_no_matter_of_the_student(loss, seed):
    batch = random_batch(seed, documents=5)
    _, counted = loss.terms(batch)
    for student in (torch.zeros_like(batch.student), batch.student * -9):
        assert torch.equal(loss.terms(with_student(batch, student))[1], counted)


# What is judged for a query without documents, and its place among the queries, still count in batch.
ALONE = those(lambda loss: not isinstance(loss, InBatchKL) and loss not in SYMMETRIC.values())


@pytest.mark.parametrize(
    ("loss", "mask"), [*((loss, "valid") for loss in LOSSES.values()), *((loss, "own") for loss in ALONE.values())]
)
def test_a_query_without_entries_changes_nothing(loss, mask):
    whole = random_batch(5, queries=3)
    masked = getattr(whole, mask).clone()
    masked[1] = False
    batch = replace(whole, **{mask: masked})
    value, gradient = value_and_gradient(loss, batch)
    close((value, gradient[[0, 2]]), value_and_gradient(loss, only(batch, [0, 2])))
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


def flat(loss):
    """Has no slope where the student is certain, of one document or of every rank."""
    mixed = getattr(loss, "direction", "") == "reverse" or getattr(loss, "skew", 0) > 0
    return mixed or isinstance(loss, JensenShannon | ADRMSE | ApproxNDCG)


@each_loss
def test_scores_far_apart_stay_finite(loss):
    batch = make_batch(
        [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], teacher=[[-1e4, 1e4, 0.0]] * 2, positive=[[0, 1, 0], [0, 1, 0]]
    )
    value, gradient = value_and_gradient(loss, batch)
    assert value > 0.1
    assert torch.tensor(value).isfinite()
    assert gradient.isfinite().all()
    assert flat(loss) or gradient.any()


class Largest(TorchDispatchMode):
    """The size of the largest tensor made inside the block."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.size = max([self.size, *(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor))])
        return made


@each_loss
def test_memory_grows_with_the_score_matrix_and_no_faster(loss):
    batch = replace(random_batch(1, queries=6, documents=50, own=0.1), preferences=None)
    longest = int((batch.own & batch.valid).sum(-1).max())
    with Largest() as largest:
        value_and_gradient(loss, batch)
    pairs = 6 * longest**2
    assert pairs > 6 * 50
    assert largest.size <= (pairs if isinstance(loss, PAIRS) else 6 * 50)


def test_lists_are_what_is_own_and_valid_side_by_side():
    batch = make_batch(
        [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]],
        teacher=[[0.1, 0.2, NAN, 0.4], [0.5, 0.6, 0.7, 0.8]],
        grades=[[0, 0, 0, 2], [3, 1, 0, 0]],
        own=[[1, 0, 1, 1], [0, 1, 1, 0]],
        valid=[[1, 1, 1, 1], [1, 1, 0, 1]],
        judged=[[1, 1, 0, 1], [1, 1, 1, 1]],
        preferences=torch.arange(32.0).reshape(2, 4, 4),
    )
    lists = batch.lists()
    assert lists.own.tolist() == lists.valid.tolist() == [[True, True, True], [True, False, False]]
    assert lists.student[0].tolist() == [1, 3, 4]
    assert lists.student[1, 0] == 6
    assert lists.judged.tolist() == [[True, False, True], [True, False, False]]
    assert lists.positive.tolist() == [[False, False, True], [True, False, False]]
    assert lists.grades.tolist() == [[0, 0, 2], [1, 0, 0]]
    assert lists.preferences[0].tolist() == [[0, 2, 3], [8, 10, 11], [12, 14, 15]]
    assert lists.preferences[1, 0, 0] == 16 + 5
    (gradient,) = torch.autograd.grad(lists.student[lists.own].sum(), batch.student)
    assert gradient.tolist() == [[1, 0, 1, 1], [0, 1, 0, 0]]


def test_lists_of_a_batch_in_which_nobody_has_documents_are_one_wide():
    lists = make_batch(torch.ones(2, 3), own=torch.zeros(2, 3)).lists()
    assert lists.student.shape == (2, 1)
    assert not lists.own.any()


def test_a_likely_false_negative_teaches_its_query_nothing():
    batch = make_batch([[0.0, 5.0, 0.0]], teacher=[[-4.0, -4.5, -9.0]], positive=[[1, 0, 0]])
    _, gradient = value_and_gradient(InfoNCE(false_negative_margin=1.0), batch)
    assert gradient[0, 1] == 0
    assert gradient[0, 2] > 0


def test_partial_orders_leave_positives_alone():
    batch = make_batch([[0.0, 5.0, 0.0]], teacher=[[9.0, 2.0, 1.0]], positive=[[1, 0, 0]])
    assert value_and_gradient(CPRD(), batch)[1][0, 0] == 0
