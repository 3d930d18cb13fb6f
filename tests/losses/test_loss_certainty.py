"""How sure a teacher's score is weighs on what is learnt from it: by hand, and as documents that stand several times."""

import math
from dataclasses import replace

import pytest
import torch
from score_batches import LOSSES, make_batch, only, random_batch, value_and_gradient

from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.divergences import KL, InBatchKL, JensenShannon
from retrodistill.losses.listwise import ListNet
from retrodistill.losses.ndcg import Lambda
from retrodistill.losses.pairwise import MarginMSE, Preference, RankNet
from retrodistill.losses.pointwise import BCE, MSE

# Labels are no teacher's scores, and what a teacher compared has a probability of its own.
TAUGHT = {name: loss for name, loss in LOSSES.items() if loss.heeds and "labels" not in name}
OTHERS = {name: loss for name, loss in LOSSES.items() if name not in TAUGHT}


def sure(batch, certainty):
    return replace(batch, certainty=torch.as_tensor(certainty, dtype=torch.float32))


def random_certainty(batch):
    return torch.rand(batch.own.shape, generator=torch.Generator().manual_seed(9)) * 0.9 + 0.1


def test_which_losses_heed():
    heeding = {MSE, BCE, MarginMSE, RankNet, Preference, Lambda, KL, InBatchKL, JensenShannon, ListNet}
    assert {type(loss) for loss in LOSSES.values() if loss.heeds} == heeding


@pytest.mark.parametrize("loss", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("seed", [2, 3])
def test_losses_of_labels_and_orders_look_at_none(loss, seed):
    batch = random_batch(seed)
    value, gradient = value_and_gradient(loss, batch)
    same, its_gradient = value_and_gradient(loss, sure(batch, random_certainty(batch)))
    assert same == value and torch.equal(gradient, its_gradient)


@pytest.mark.parametrize("loss", TAUGHT.values(), ids=TAUGHT)
def test_all_equally_sure_is_none_and_others_differ(loss):
    batch = random_batch(2)  # without preferences
    value, gradient = value_and_gradient(loss, batch)
    for certainty in (1.0, 0.3):
        same, its_gradient = value_and_gradient(loss, sure(batch, torch.full(batch.own.shape, certainty)))
        assert same == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(its_gradient, gradient, rtol=1e-4, atol=1e-6)
    assert value_and_gradient(loss, sure(batch, random_certainty(batch)))[0] != pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    "name", ["mse", "bce", "margin_mse", "ranknet", "kl", "kl, reverse", "kl, skewed", "jensen_shannon", "in_batch_kl"]
)  # fmt: skip
def test_a_score_twice_as_sure_is_a_document_that_stands_twice(name):
    loss, batch = LOSSES[name], random_batch(4)
    certainty = torch.ones(batch.own.shape)
    certainty[:, 2] = 2
    twice = only(batch, slice(None), [0, 1, 2, 2, *range(3, batch.own.shape[1])])
    kept = loss.terms(batch)[1]  # two of one document are a list, which one is not
    value = loss(only(sure(batch, certainty), kept)).item()
    assert value == pytest.approx(loss(only(twice, kept)).item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in TAUGHT if name.startswith(("kl", "in_batch", "jensen"))])
def test_a_student_that_says_what_the_teacher_says_is_right_however_sure_that_is(name):
    batch = random_batch(6)
    student = batch.teacher * LOSSES[name].cooled_target(torch.ones(())) / LOSSES[name].cooled(torch.ones(()))
    batch = sure(replace(batch, student=student.clone().requires_grad_()), random_certainty(batch))
    if "all" in name:  # the worst that was judged stands for the rest, which a student need not say
        batch = replace(batch, valid=batch.valid & batch.judged)
    value, gradient = value_and_gradient(LOSSES[name], batch)
    assert value == pytest.approx(0, abs=1e-6) and gradient.abs().max() < 1e-5


def test_by_hand():
    batch = sure(
        make_batch([[1.0, 2.0, 0.0]], teacher=[[0.0, 0.0, 5.0]], judged=[[True, True, False]]), [[1.0, 0.5, 9.0]]
    )
    assert MSE()(batch).item() == pytest.approx((1 * 1 + 0.5 * 4) / 1.5)
    weighed = replace(batch, weights=torch.tensor([[2.0, 1.0, 7.0]]))
    assert MSE()(weighed).item() == pytest.approx((2 * 1 + 0.5 * 4) / 2.5)
    # teacher 1 : 3, of which the second is half as sure: p = 2/5, 3/5; the student all alike: q = 2/3, 1/3
    shares = sure(make_batch([[0.0, 0.0]], teacher=[[0.0, math.log(3)]]), [[1.0, 0.5]])
    expected = 0.4 * math.log(0.4 / (2 / 3)) + 0.6 * math.log(0.6 / (1 / 3))
    assert KL()(shares).item() == pytest.approx(expected, rel=1e-5)
    assert ListNet()(shares).item() == pytest.approx(-0.4 * math.log(2 / 3) - 0.6 * math.log(1 / 3), rel=1e-5)
    ranked = sure(make_batch([[0.0, 1.0, 3.0]], teacher=[[2.0, 1.0, 0.0]]), [[1.0, 0.5, 0.25]])
    terms = {0.5: 1.0, 0.25: 3.0, 0.125: 2.0}  # by the product of the two: s_j - s_i
    wanted = sum(weight * math.log1p(math.exp(gap)) for weight, gap in terms.items()) / 0.875
    assert RankNet()(ranked).item() == pytest.approx(wanted)


def test_labels_against_the_rest_are_as_sure_as_ever():
    batch = make_batch([[0.0, 0.0, math.log(3)]], positive=[[True, False, False]])
    assert InfoNCE()(sure(batch, [[0.1, 0.2, 0.3]])).item() == InfoNCE()(batch).item()
