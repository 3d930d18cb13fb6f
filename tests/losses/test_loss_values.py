import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from score_batches import LOSSES, make_batch, value_and_gradient

from retrodistill.losses.contrastive import CPRD, InfoNCE
from retrodistill.losses.divergences import KL, InBatchKL, JensenShannon
from retrodistill.losses.pairwise import MarginMSE, Preference, RankNet
from retrodistill.losses.pointwise import BCE, MSE
from retrodistill.registry import build, table

LN2, LN3, LN6 = math.log(2), math.log(3), math.log(6)
NAN = float("nan")


def test_kl_by_hand():
    # student (1/4, 3/4), teacher (1/2, 1/2): 1/2 ln 2 + 1/2 ln 2/3
    batch = make_batch([[0, LN3]], teacher=[[7, 7]])
    assert KL()(batch).item() == pytest.approx(0.5 * math.log(4 / 3))


def test_kl_divides_each_side_by_its_temperature():
    batch = make_batch([[0, LN3 / 4]], teacher=[[0, 6 * LN3]])
    wanted = 0.9 * math.log(0.9 / 0.75) + 0.1 * math.log(0.1 / 0.25)  # student (1/4, 3/4), teacher (1/10, 9/10)
    assert KL(student_temperature=0.25, teacher_temperature=3)(batch).item() == pytest.approx(wanted, rel=1e-5)
    same = make_batch([[0, 2 * LN3]], teacher=[[5, 5]])
    assert KL(temperature=2)(same).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)


def test_kl_is_the_mean_over_queries_with_two_judged_documents():
    batch = make_batch(
        [[0, LN3, 50], [9, 1, 2], [0, 0, 0]],
        teacher=[[7, 7, NAN], [1, NAN, NAN], [3, 3, 3]],
        judged=[[1, 1, 0], [1, 0, 0], [1, 1, 1]],
    )
    assert KL()(batch).item() == pytest.approx(0.5 * math.log(4 / 3) / 2)


def test_infonce_by_hand():
    # e^p = 2 against two negatives of 1: -ln 2/4
    batch = make_batch([[LN2, 0, 0]], positive=[[1, 0, 0]])
    assert InfoNCE(temperature=1)(batch).item() == pytest.approx(LN2)
    assert InfoNCE(temperature=0.5)(batch).item() == pytest.approx(math.log(6 / 4))


@pytest.mark.parametrize(
    ("in_batch", "wanted"),
    [(True, (math.log(4 / 2) + math.log(8 / 6)) / 2), (False, (math.log(3 / 2) + math.log(7 / 6)) / 2)],
)
def test_infonce_sets_each_positive_against_the_negatives_alone(in_batch, wanted):
    # positives of weight 2 and 6, a negative of its own and one of another query; the last is a positive of this query
    # that was picked for another one: neither positive nor negative here
    batch = make_batch([[LN2, LN6, 0, 0, 40]], positive=[[1, 1, 0, 0, 1]], own=[[1, 1, 1, 0, 0]])
    assert InfoNCE(temperature=1, in_batch_negatives=in_batch)(batch).item() == pytest.approx(wanted)


def test_infonce_leaves_out_what_must_not_count_as_a_negative():
    batch = make_batch([[LN2, 0, 0, 9]], positive=[[1, 0, 0, 0]], valid=[[1, 1, 1, 0]])
    assert InfoNCE(temperature=1)(batch).item() == pytest.approx(LN2)


def test_infonce_does_not_count_queries_without_a_positive_or_a_negative():
    batch = make_batch([[LN2, 0, 0], [5, 1, 2], [3, 1, 2]], positive=[[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    assert InfoNCE(temperature=1)(batch).item() == pytest.approx(LN2)


def test_margin_mse_by_hand():
    # margins: student 2 and 3, teacher 1 and 1.5
    batch = make_batch([[3, 1, 0]], teacher=[[5, 4, 3.5]], positive=[[1, 0, 0]])
    assert MarginMSE()(batch).item() == pytest.approx((1 + 1.5**2) / 2)
    assert MarginMSE(scale=2)(batch).item() == pytest.approx((3**2 + 4.5**2) / 2)


def test_margin_mse_is_the_mean_over_all_pairs_of_a_query_then_over_queries():
    batch = make_batch(
        [[1, 2, 0, 0], [4, 0, 0, 0]],
        teacher=[[0, 0, 0, 3], [0, 0, NAN, NAN]],
        positive=[[1, 1, 0, 0], [1, 0, 0, 0]],
        judged=[[1, 1, 1, 1], [1, 1, 0, 0]],
    )
    # s - t at the positives 1, 2, at the others 0, -3: pairs 1, 16, 4, 25; the second query has one pair
    assert MarginMSE()(batch).item() == pytest.approx(((1 + 16 + 4 + 25) / 4 + 16) / 2)


def test_margin_mse_of_all_pairs_by_hand():
    # s - t: -2, -3, -3.5
    batch = make_batch([[3, 1, 0]], teacher=[[5, 4, 3.5]])
    assert MarginMSE(pairs="all")(batch).item() == pytest.approx((1 + 1.5**2 + 0.5**2) / 3)


def test_mse_by_hand():
    batch = make_batch([[3, 1, 9]], teacher=[[5, 4, NAN]], judged=[[1, 1, 0]])
    assert MSE()(batch).item() == pytest.approx((2**2 + 3**2) / 2)
    assert MSE(scale=2)(batch).item() == pytest.approx((1**2 + 2**2) / 2)


def test_bce_by_hand():
    # student 3/4, teacher 9/10
    batch = make_batch([[0.5 * LN3]], teacher=[[3 * math.log(9)]])
    wanted = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert BCE(student_temperature=0.5, teacher_temperature=3)(batch).item() == pytest.approx(wanted)


def test_bce_of_labels_takes_any_grade_for_relevant_and_skips_queries_without():
    batch = make_batch([[LN3, -LN3], [5, 5]], grades=[[3, 0], [0, 0]])
    assert BCE(target="labels")(batch).item() == pytest.approx(-math.log(0.75))


def test_kl_the_other_way_and_skewed_by_hand():
    batch = make_batch([[0, LN3]], teacher=[[7, 7]])  # student (1/4, 3/4), teacher (1/2, 1/2), middle (3/8, 5/8)
    assert KL(direction="reverse")(batch).item() == pytest.approx(math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4)
    forward, reverse = (math.log(4 / 3) + math.log(4 / 5)) / 2, math.log(2 / 3) / 4 + 3 * math.log(6 / 5) / 4
    assert KL(skew=0.5)(batch).item() == pytest.approx(forward)
    assert KL(skew=0.5, direction="reverse")(batch).item() == pytest.approx(reverse)
    assert JensenShannon()(batch).item() == pytest.approx((forward + reverse) / 2)


def test_jensen_shannon_is_bounded():
    assert JensenShannon()(make_batch([[0, 200]], teacher=[[200, 0]])).item() == pytest.approx(LN2)


def test_in_batch_kl_is_over_all_that_was_judged():
    scores = {"student": [[0, LN3, 50, 4]], "teacher": [[7, 7, NAN, 4]]}
    masks = {"judged": [[1, 1, 0, 1]], "valid": [[1, 1, 1, 0]]}
    assert InBatchKL()(make_batch(**scores, **masks, own=[[1, 0, 1, 1]])).item() == pytest.approx(0.5 * math.log(4 / 3))


def test_in_batch_kl_over_all_that_teachers_are_asked_about_by_hand():
    batch = make_batch(
        [[0.0, 0.0, 0.0, 9.0]], teacher=[[9.0, 0.0, 0.0, 0.0]], judged=[[1, 0, 0, 0]], own=[[1, 0, 0, 0]],
        valid=[[1, 1, 1, 0]],
    )  # fmt: skip
    whole = torch.tensor([[math.log(2), 0.0, 0.0, 7.0]])
    # 1/2, 1/4, 1/4 against thirds, the last document being none of the query's negatives
    expected = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
    asked = replace(batch, whole=whole, certainty=torch.tensor([[0.1, 1.0, 1.0, 1.0]]))
    assert InBatchKL(unjudged="asked")(asked).item() == pytest.approx(expected)
    plain = InBatchKL()(replace(batch, judged=batch.valid, own=batch.valid, teacher=whole))
    assert plain.item() == pytest.approx(expected)
    assert InBatchKL()(asked).item() == 0  # a loss that does not ask goes by the candidates' scores
    assert InBatchKL(unjudged="asked").asks_teachers and not InBatchKL(unjudged="lowest").asks_teachers


def test_in_batch_kl_may_take_what_was_not_judged_for_the_worst():
    batch = make_batch(
        [[0, 0, 0], [0, 0, 9]], teacher=[[LN2 + 7, 7, NAN], [NAN, NAN, NAN]], judged=[[1, 1, 0], [0, 0, 0]]
    )
    wanted = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)  # teacher (1/2, 1/4, 1/4); the other query says nothing
    assert InBatchKL(unjudged="lowest")(batch).item() == pytest.approx(wanted)


def test_ranknet_by_hand():
    batch = make_batch([[LN2, 0, 0]], teacher=[[2, 1, 0]])
    first, tied = math.log(1.5), LN2
    assert RankNet()(batch).item() == pytest.approx((2 * first + tied) / 3)
    assert RankNet(weights="difference")(batch).item() == pytest.approx((first + 2 * first + tied) / 4)
    assert RankNet(temperature=0.5)(batch).item() == pytest.approx((2 * math.log(1.25) + tied) / 3)


def test_ranknet_by_ndcg_takes_the_worse_of_two_tied_documents_to_be_first():
    batch = make_batch([[LN2, 0, 0]], teacher=[[2, 1, 0]])  # the student's ranks: 1, 3, 2
    middle = math.sqrt(2) - 1  # gains 1, 2^(1/2) - 1, 0
    weights = [(1 - middle) * (1 - 1 / 2), 1 - 1 / math.log2(3), middle * (1 / math.log2(3) - 1 / 2)]
    wanted = ((weights[0] + weights[1]) * math.log(1.5) + weights[2] * LN2) / sum(weights)
    assert RankNet(weights="ndcg")(batch).item() == pytest.approx(wanted)


def test_ranknet_has_nothing_to_say_of_ties():
    batch = make_batch([[LN2, 0], [LN2, 0]], teacher=[[1, 1], [3, 1]])
    for weights in ("none", "difference", "ndcg"):
        assert RankNet(weights=weights)(batch).item() == pytest.approx(math.log(1.5))


def test_preference_by_hand():
    batch = make_batch([[5, 5]], preferences=[[[NAN, 0.75], [NAN, NAN]]])
    wanted = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert Preference()(batch).item() == pytest.approx(wanted)
    pointwise = make_batch([[5, 5]], teacher=[[2 * LN3, 0]])
    assert Preference(teacher_temperature=2)(pointwise).item() == pytest.approx(wanted)


def test_preference_does_not_look_at_scores_where_documents_were_compared():
    batch = make_batch([[0, 0], [0, 0]], teacher=[[3, 0], [3, 0]], preferences=[[[NAN, 1], [0, NAN]], [[NAN] * 2] * 2])
    assert Preference().terms(batch)[1].tolist() == [True, False]
    assert Preference()(batch).item() == pytest.approx(LN2)


def test_orders_asked_both_ways_meet_in_the_middle():
    def gradient(apart):
        return value_and_gradient(Preference(), make_batch([[apart, 0.0]], preferences=[[[NAN, 0.9], [0.3, NAN]]]))[
            1
        ].tolist()

    assert gradient(math.log(4)) == [[pytest.approx(0, abs=1e-6)] * 2]  # 0.8 is the mean of 0.9 and 0.7
    assert gradient(0.0)[0][0] < 0


def test_infonce_drops_what_the_teacher_holds_for_relevant():
    batch = make_batch([[LN2, 0, 0, 0]], teacher=[[-3, -3.5, -4, NAN]], positive=[[1, 0, 0, 0]], judged=[[1, 1, 1, 0]])

    def value(margin):
        return InfoNCE(temperature=1, false_negative_margin=margin)(batch).item()

    assert value(0) == pytest.approx(math.log(5 / 2))
    assert value(0.5) == pytest.approx(math.log(4 / 2))
    assert value(1) == pytest.approx(math.log(3 / 2))
    assert value(-1) == pytest.approx(math.log(5 / 2))


def test_infonce_measures_false_negatives_against_the_positive_the_teacher_likes_least():
    batch = make_batch([[0, 0, LN3]], teacher=[[5, 1, 2]], positive=[[1, 1, 0]])
    assert InfoNCE(false_negative_margin=0).terms(batch)[1].tolist() == [False]
    unjudged = make_batch([[0, 0, LN3]], teacher=[[5, NAN, 2]], positive=[[1, 1, 0]], judged=[[1, 0, 1]])
    assert InfoNCE(temperature=1, false_negative_margin=0)(unjudged).item() == pytest.approx(math.log(4))


def test_symmetric_infonce_by_hand():
    batch = make_batch([[LN2, 0, 0], [LN3, LN6, 0]], positive=[[1, 0, 0], [0, 1, 0]], own=[[1, 0, 1], [0, 1, 0]])
    first = (math.log(4 / 2) + math.log(5 / 2)) / 2  # against two documents, against the other query
    second = (math.log(10 / 6) + math.log(7 / 6)) / 2
    assert InfoNCE(temperature=1, symmetric=True)(batch).item() == pytest.approx((first + second) / 2)


def test_symmetric_infonce_of_one_query_is_plain():
    batch = make_batch([[LN2, 0, 0]], positive=[[1, 0, 0]])
    assert InfoNCE(temperature=1, symmetric=True)(batch).item() == pytest.approx(LN2)


def test_cprd_by_hand():
    # a positive, two hard negatives of its own, a document of another query
    batch = make_batch([[9, LN2, 0, 0]], teacher=[[9, 2, 1, NAN]], positive=[[1, 0, 0, 0]], own=[[1, 1, 1, 0]])
    assert CPRD(temperature=1)(batch).item() == pytest.approx((math.log(4 / 2) + math.log(2)) / 2)
    assert CPRD(temperature=1, hard=1)(batch).item() == pytest.approx(math.log(4 / 2))
    assert CPRD(temperature=1, in_batch_negatives=False)(batch).item() == pytest.approx(math.log(3 / 2))


def test_cprd_holds_ties_apart():
    batch = make_batch([[LN2, 0, 0]], teacher=[[2, 2, 1]])
    assert CPRD(temperature=1)(batch).item() == pytest.approx((math.log(3 / 2) + math.log(2)) / 2)


@pytest.mark.parametrize(
    ("loss", "teacher", "labels", "in_batch"),
    [
        ("kl", True, False, False),
        ("in_batch_kl", True, False, True),
        ("bce", True, False, False),
        ({"kind": "bce", "target": "labels"}, False, True, False),
        ({"kind": "lambda", "target": "labels"}, False, True, False),
        ("margin_mse", True, True, False),
        ({"kind": "margin_mse", "pairs": "all"}, True, False, False),
        ("infonce", False, True, True),
        ({"kind": "infonce", "in_batch_negatives": False, "false_negative_margin": 0}, True, True, False),
        ("cprd", True, False, True),
        ("pld", True, False, False),
    ],
)
def test_what_a_loss_needs_follows_from_its_options(loss, teacher, labels, in_batch):
    loss = build("loss", loss)
    assert (loss.needs_teacher, loss.needs_labels, loss.in_batch) == (teacher, labels, in_batch)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_learn_from_no_more_than_they_say_they_need(loss):
    """A query that has only what the loss says it needs is counted."""
    nothing = torch.zeros(1, 3)
    batch = make_batch(
        torch.randn(1, 3),
        teacher=[[2.0, 1.0, 0.0]] if loss.needs_teacher else nothing * NAN,
        judged=nothing + loss.needs_teacher,
        grades=[[1, 0, 0]] if loss.needs_labels else nothing,
    )
    assert loss.terms(batch)[1].tolist() == [True]


def test_options_in_yaml_and_in_python_are_the_same_part():
    assert build("loss", {"kind": "kl", "temperature": 2.0}) == KL(temperature=2.0)
    assert build("loss", "margin_mse") == MarginMSE()
    assert {"kl", "infonce", "margin_mse"} <= set(table("loss"))


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "kl", "temperature": 0},
        {"kind": "kl", "student_temperature": -1},
        {"kind": "infonce", "temperature": 0},
        {"kind": "margin_mse", "scale": 0},
        {"kind": "margin_mse", "pairs": "some"},
        {"kind": "kl", "skew": 1},
        {"kind": "jensen_shannon", "beta": 0},
        {"kind": "infonce", "symmetric": True, "in_batch_negatives": False},
        {"kind": "cprd", "hard": 0},
        {"kind": "lambda", "cutoff": 0},
        {"kind": "lambda", "scheme": "ndcg"},
        {"kind": "partial_plackett_luce", "top": 0},
        {"kind": "listmle", "target": "student"},
        {"kind": "kl", "weight": -1},
        {"kind": "kl", "temprature": 1},
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ValidationError):
        build("loss", options)
