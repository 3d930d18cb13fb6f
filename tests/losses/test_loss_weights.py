import math
from dataclasses import replace

import pytest
import torch
from score_batches import LOSSES, make_batch, only, random_batch, value_and_gradient

from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.ndcg import Lambda
from retrodistill.losses.pairwise import MarginMSE, Preference, RankNet
from retrodistill.losses.pointwise import BCE, MSE

WEIGHING = {name: loss for name, loss in LOSSES.items() if loss.weighs}
OTHERS = {name: loss for name, loss in LOSSES.items() if not loss.weighs}


def weighed(batch, weights):
    return replace(batch, weights=torch.as_tensor(weights, dtype=torch.float32))


def random_weights(batch, seed=0):
    return torch.rand(batch.own.shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.01


def test_which_losses_weigh():
    assert {type(loss) for loss in WEIGHING.values()} == {MSE, BCE, MarginMSE, RankNet, Preference, Lambda, InfoNCE}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("seed", range(4))
def test_weights_of_one_are_none_to_the_bit(loss, seed):
    batch = random_batch(seed)
    value, gradient = value_and_gradient(loss, batch)
    same, its_gradient = value_and_gradient(loss, weighed(batch, torch.ones(batch.own.shape)))
    assert same == value and torch.equal(gradient, its_gradient)


@pytest.mark.parametrize("loss", OTHERS.values(), ids=OTHERS)
def test_losses_that_do_not_weigh_look_at_none(loss):
    batch = random_batch(1)
    value, gradient = value_and_gradient(loss, batch)
    same, its_gradient = value_and_gradient(loss, weighed(batch, random_weights(batch)))
    assert same == value and torch.equal(gradient, its_gradient)


@pytest.mark.parametrize("loss", WEIGHING.values(), ids=WEIGHING)
def test_those_that_weigh_do(loss):
    batch = random_batch(2)
    assert value_and_gradient(loss, weighed(batch, random_weights(batch)))[0] != value_and_gradient(loss, batch)[0]


# Not those that rank: ranks and ideal gains are of the whole list. And not the way back of a symmetric loss, which a
# positive that is all but gone still has.
FADING = ["mse", "bce", "bce, labels", "margin_mse", "margin_mse, all pairs", "ranknet", "preference", "infonce"]


@pytest.mark.parametrize("name", FADING)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_near_zero_is_as_if_the_document_were_not_there(name, seed):
    loss, batch = LOSSES[name], random_batch(seed, queries=8, documents=12)
    gone = torch.arange(12) % 3 == 1
    faded = weighed(batch, torch.where(gone, 1e-12, 1.0).expand(batch.own.shape))
    lacking = replace(batch, valid=batch.valid & ~gone)
    rows = loss.terms(lacking)[1]  # the others have a loss of nothing else
    assert rows.any()
    near, far = (value_and_gradient(loss, only(part, rows)) for part in (faded, lacking))
    assert near[0] == pytest.approx(far[0], rel=1e-4, abs=1e-5)
    torch.testing.assert_close(near[1], far[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", WEIGHING.values(), ids=WEIGHING)
def test_the_order_of_columns_and_the_unit_of_weights_do_not_matter(loss):
    batch = weighed(random_batch(5), random_weights(random_batch(5)))
    order = torch.randperm(batch.own.shape[1], generator=torch.Generator().manual_seed(1))
    value, gradient = value_and_gradient(loss, batch)
    moved, its_gradient = value_and_gradient(loss, only(batch, slice(None), order))
    assert moved == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(its_gradient, gradient[:, order], rtol=1e-4, atol=1e-6)
    if not isinstance(loss, InfoNCE):  # where a negative of twice the weight is two
        assert value_and_gradient(loss, weighed(batch, batch.weights * 3))[0] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", ["mse", "bce", "bce, labels", "margin_mse", "ranknet", "infonce", "infonce, own"])
def test_a_weight_of_two_is_a_document_that_stands_twice(name):
    loss, batch = LOSSES[name], random_batch(4)
    weights = torch.ones(batch.own.shape)
    weights[:, 2] = 2
    twice = only(batch, slice(None), [0, 1, 2, 2, *range(3, batch.own.shape[1])])
    assert loss(weighed(batch, weights)).item() == pytest.approx(loss(twice).item(), rel=1e-5)


def test_infonce_by_hand():
    batch = make_batch([[0.0, 0.0, math.log(3)]], positive=[[True, False, False]])
    # e^0 = 1 against 1 * 2 + 3 * .5
    value = InfoNCE(temperature=1.0)(weighed(batch, [[7.0, 2.0, 0.5]]))
    assert value.item() == pytest.approx(math.log(1 + 3.5))
    both = make_batch([[0.0, 0.0, math.log(3)]], positive=[[True, False, True]])
    # of two positives the second counts thrice; the one negative is multiplied by 2: log 3 and log (5 / 3)
    value = InfoNCE(temperature=1.0)(weighed(both, [[1.0, 2.0, 3.0]]))
    assert value.item() == pytest.approx((math.log(3) + 3 * math.log(5 / 3)) / 4)


def test_pointwise_by_hand():
    batch = make_batch([[1.0, 2.0, 0.0]], teacher=[[0.0, 0.0, 5.0]], judged=[[True, True, False]])
    assert MSE()(weighed(batch, [[3.0, 1.0, 9.0]])).item() == pytest.approx((3 * 1 + 4) / 4)
    labelled = make_batch([[0.0, math.log(3)]], positive=[[True, False]])
    # -log sigmoid(0) = log 2; -log sigmoid(-log 3) = log 4
    value = BCE(target="labels")(weighed(labelled, [[1.0, 0.25]]))
    assert value.item() == pytest.approx((math.log(2) + 0.25 * math.log(4)) / 1.25)


@pytest.mark.parametrize("pairs", ["positive", "all"])
def test_pairs_of_margin_mse_count_by_the_product(pairs):
    student, teacher = [[1.0, 0.0, 2.0, -1.0]], [[0.0, 2.0, 1.0, 0.5]]
    positive, weights = [[True, False, True, False]], [1.0, 0.5, 2.0, 0.1]
    batch = weighed(make_batch(student, teacher=teacher, positive=positive), [weights])
    total = weight = 0.0
    for i in range(4):
        for j in range(4):
            if i != j and (pairs == "all" or (positive[0][i] and not positive[0][j])):
                error = student[0][i] - student[0][j] - (teacher[0][i] - teacher[0][j])
                total, weight = total + weights[i] * weights[j] * error**2, weight + weights[i] * weights[j]
    assert MarginMSE(pairs=pairs)(batch).item() == pytest.approx(total / weight, rel=1e-6)


def test_pairs_of_ranknet_and_preference_count_by_the_product():
    batch = weighed(make_batch([[0.0, 1.0, 3.0]], teacher=[[2.0, 1.0, 0.0]]), [[1.0, 0.5, 4.0]])
    terms = {(0, 1): (0.5, 1.0), (0, 2): (4.0, 3.0), (1, 2): (2.0, 2.0)}  # weight, s_j - s_i
    expected = sum(w * math.log1p(math.exp(gap)) for w, gap in terms.values()) / 6.5
    assert RankNet()(batch).item() == pytest.approx(expected)
    by_difference = {(0, 1): 0.5, (0, 2): 8.0, (1, 2): 2.0}
    expected = sum(by_difference[pair] * math.log1p(math.exp(gap)) for pair, (_, gap) in terms.items()) / 10.5
    assert RankNet(weights="difference")(batch).item() == pytest.approx(expected)
    compared = make_batch([[0.0, 1.0]], preferences=[[[math.nan, 0.5], [math.nan, math.nan]]])
    plain = Preference()(compared)
    assert Preference()(weighed(compared, [[0.3, 0.1]])).item() == pytest.approx(plain.item())  # one pair is all


def test_lists_take_weights_along():
    batch = weighed(random_batch(3), random_weights(random_batch(3)))
    lists = batch.lists()
    for row in range(len(batch.own)):
        kept = batch.own[row] & batch.valid[row]
        assert torch.equal(lists.weights[row][lists.own[row]], batch.weights[row][kept])
