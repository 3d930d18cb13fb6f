import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from score_batches import make_batch, value_and_gradient, with_student

from retrodistill.losses.listwise import ADRMSE, ListNet
from retrodistill.losses.ndcg import ApproxNDCG, Lambda
from retrodistill.losses.orders import descending, ranks, shared_ranks, soft_ranks
from retrodistill.losses.permutation import PLD, ListMLE, PartialPlackettLuce, PListMLE
from retrodistill.registry import build, table

LN2, LN3 = math.log(2), math.log(3)
NAN = float("nan")
DISCOUNT = 1 / math.log2(3)  # of the second rank
few = st.lists(st.tuples(st.integers(0, 2), st.floats(-3, 3, width=16)), min_size=2, max_size=5)


def test_orders_break_ties_by_their_rule_and_put_the_masked_last():
    keys, ties = torch.tensor([[1.0, 3.0, 9.0, 3.0, 1.0]]), torch.tensor([[0.0, 2.0, NAN, 1.0, -1.0]])
    mask = torch.tensor([[True, True, False, True, True]])
    assert descending(keys, ties, mask).tolist() == [[3, 1, 4, 0, 2]]
    assert ranks(keys, ties, mask).tolist() == [[4, 2, 5, 1, 3]]
    assert shared_ranks(keys, mask).tolist() == [[3.5, 1.5, 1, 1.5, 3.5]]


def test_soft_ranks_become_ranks():
    scores, mask = torch.tensor([[1.0, 3.0, 9.0, 2.0]]), torch.tensor([[True, True, False, True]])
    assert soft_ranks(scores * 1000, mask).tolist() == [[3, 1, 1, 2]]
    assert soft_ranks(scores * 0, mask).tolist() == [[2, 2, 1, 2]]


def test_listnet_by_hand():
    batch = make_batch([[0, LN3]], teacher=[[7, 7]])  # student (1/4, 3/4), teacher (1/2, 1/2)
    assert ListNet()(batch).item() == pytest.approx(-(math.log(1 / 4) + math.log(3 / 4)) / 2)


def test_listnet_of_labels_takes_grades_for_scores():
    batch = make_batch([[0, LN3], [1, 2]], grades=[[2, 0], [0, 0]])
    wanted = -0.9 * math.log(1 / 4) - 0.1 * math.log(3 / 4)
    assert ListNet(target="labels", teacher_temperature=2 / math.log(9))(batch).item() == pytest.approx(wanted)


def test_adr_mse_by_hand():
    batch = make_batch([[0, 0]], teacher=[[1, 0]])  # both ranks are 1.5
    assert ADRMSE()(batch).item() == pytest.approx((0.25 + 0.25 * DISCOUNT) / 2)
    quarter = make_batch([[0, LN3]], teacher=[[1, 0]])  # ranks 1.75 and 1.25
    assert ADRMSE()(quarter).item() == pytest.approx((0.75**2 + 0.75**2 * DISCOUNT) / 2)
    assert ADRMSE(temperature=0.01)(make_batch([[5, 1, 3]], teacher=[[3, 1, 2]])).item() == pytest.approx(0)


def test_adr_mse_lets_ties_share_a_rank():
    assert ADRMSE()(make_batch([[4, 4]], teacher=[[1, 1]])).item() == pytest.approx(0)


def test_listmle_by_hand():
    batch = make_batch([[LN2, 0, LN3]], teacher=[[30, 20, 10]])
    assert ListMLE()(batch).item() == pytest.approx(math.log(6 / 2) + math.log(4 / 1))
    assert ListMLE(temperature=0.5)(batch).item() == pytest.approx(math.log(14 / 4) + math.log(10 / 1))


@given(few)
def test_listmle_of_ties_is_the_worst_of_the_orders_that_the_target_allows(documents):
    def likelihood(order):
        weights = [math.exp(score) for _, score in order]
        return sum(math.log(sum(weights[place:]) / weight) for place, weight in enumerate(weights))

    allowed = [order for order in permutations(documents) if list(order) == sorted(order, key=lambda one: -one[0])]
    batch = make_batch([[score for _, score in documents]], teacher=[[target for target, _ in documents]])
    assert ListMLE()(batch).item() == pytest.approx(max(map(likelihood, allowed)), rel=1e-5, abs=1e-5)


def test_position_aware_listmle_by_hand():
    batch = make_batch([[LN2, 0, LN3]], teacher=[[30, 20, 10]])  # weights 3, 1, 0
    assert PListMLE()(batch).item() == pytest.approx((3 * math.log(6 / 2) + math.log(4 / 1)) / 4)


def test_position_aware_listmle_of_a_long_list_is_finite():
    scores = torch.linspace(1, 0, 400).unsqueeze(0)
    first = math.log(float(scores.exp().sum()) / math.e)
    assert first - 0.1 < PListMLE()(make_batch(scores, teacher=scores)).item() < first


def test_partial_plackett_luce_by_hand():
    def value(teacher, top):
        return PartialPlackettLuce(top=top)(make_batch([[LN2, 0, LN3]], teacher=[teacher])).item()

    assert value([30, 20, 10], 1) == value([30, 10, 20], 1) == pytest.approx(math.log(6 / 2))
    assert value([30, 20, 10], 2) == pytest.approx(math.log(6 / 2) + math.log(4 / 1))
    assert value([30, 20, 10], 9) == value([30, 20, 10], 2)


def test_pld_puts_the_label_first_and_weighs_by_belief():
    scores = {"student": [[0, LN3]], "teacher": [[0, 2 * LN2]]}  # beliefs 1/3 and 2/3 at a temperature of 2
    loss = PLD(teacher_temperature=2)
    assert loss(make_batch(**scores, positive=[[1, 0]])).item() == pytest.approx(math.log(4 / 1) / 3)
    assert loss(make_batch(**scores)).item() == pytest.approx(2 * math.log(4 / 3) / 3)


def test_pld_orders_labels_by_grade_then_by_the_teacher():
    batch = make_batch([[0, LN2, LN3, 0]], teacher=[[0, 0, LN2, LN2]], grades=[[1, 2, 1, 0]])
    # grade 2, grade 1 by the teacher, grade 1, none; beliefs 1/6, 1/3, 1/6, 1/3
    wanted = math.log(7 / 2) / 6 + math.log(5 / 3) / 3 + math.log(2) / 6
    assert PLD()(batch).item() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("scheme", "wanted"),
    [
        ("lambdarank", (1 - DISCOUNT) * LN3),
        ("ndcg_loss2", (1 - DISCOUNT) * LN3),
        ("ndcg_loss2++", 11 * (1 - DISCOUNT) * LN3),
        ("ndcg_loss1", DISCOUNT * (LN2 + LN3) / 4),
    ],
)
def test_lambda_by_hand(scheme, wanted):
    batch = make_batch([[0, LN2]], grades=[[1, 0]])  # in the wrong order
    assert Lambda(scheme=scheme, target="labels")(batch).item() == pytest.approx(wanted)


def test_lambda_of_a_teacher_knows_no_zero():
    first, moved = (make_batch([[0, LN2, 1]], teacher=[teacher]) for teacher in ([2, 1, 0], [-3, -5, -7]))
    assert Lambda()(first).item() == pytest.approx(Lambda()(moved).item())


def test_lambda_at_a_cutoff_leaves_pairs_below_it_out():
    batch = make_batch([[3, 2, 1]], grades=[[2, 0, 1]])  # what is at the first rank is right, behind it is not
    value = Lambda(scheme="lambdarank", target="labels", cutoff=1, gains="linear")(batch).item()
    # ideal DCG@1 is 2
    wanted = [(1 - DISCOUNT) * math.log(1 + math.exp(-1)), 0.5 * (1 - 1 / 2) * math.log(1 + math.exp(-2))]
    assert value == pytest.approx(sum(wanted) / 2)


def test_approx_ndcg_by_hand():
    batch = make_batch([[0, 0]], grades=[[1, 0]])
    assert ApproxNDCG(target="labels")(batch).item() == pytest.approx(1 - 1 / math.log2(2.5))


@pytest.mark.parametrize("gains", ["linear", "exponential"])
def test_cold_approx_ndcg_is_ndcg(gains):
    batch = make_batch([[0.1, 0.3, 0.2]], grades=[[2, 0, 1]])
    best, second = (2, 1) if gains == "linear" else (3, 1)
    ndcg = (best / 2 + second * DISCOUNT) / (best + second * DISCOUNT)
    assert ApproxNDCG(target="labels", temperature=1e-3, gains=gains)(batch).item() == pytest.approx(1 - ndcg)


def test_lists_without_an_order_are_not_counted():
    batch = make_batch([[1, 2], [1, 2]], teacher=[[3, 3], [3, 1]])
    for loss in (Lambda(), ApproxNDCG()):
        assert loss.terms(batch)[1].tolist() == [False, True]


# What a loss has to say of the documents 0 to 4, best first; the best is the one with a label.
SAID = {"infonce": [0], "approx_ndcg": [0, 1, 2], "partial_plackett_luce": [0, 1], "cprd": [1, 2, 3, 4]}


@pytest.mark.parametrize("kind", table("loss"))
def test_down_the_gradient_lies_the_targets_order(kind):
    # cold, a smooth nDCG has valleys of its own
    loss = build("loss", {"kind": kind, "temperature": 1} if kind == "approx_ndcg" else kind)
    batch = make_batch(torch.zeros(1, 5), teacher=[[4, 3, 2, 1, 0]], positive=[[1, 0, 0, 0, 0]])
    student = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4]])  # the wrong way round
    for step in range(100):
        _, gradient = value_and_gradient(loss, with_student(batch, student))
        student = student - 0.1 * (1 - step / 100) * gradient.sign()
    said = SAID.get(kind, [0, 1, 2, 3, 4])
    order = [place for place in student[0].argsort(descending=True).tolist() if kind != "cprd" or place in said]
    assert order[: len(said)] == said
