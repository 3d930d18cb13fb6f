import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from score_batches import LOSSES, make_batch, random_batch, reference, value_and_gradient
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import dot_score

from retrodistill.losses.listwise import KL, InfoNCE
from retrodistill.losses.pairwise import MarginMSE
from retrodistill.registry import build, table

LN2, LN3, LN6 = math.log(2), math.log(3), math.log(6)
NAN = float("nan")
seeds = st.integers(0, 2**32 - 1)


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


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_ragged_lists_as_the_formula_in_loops(name, seed):
    batch = random_batch(seed)
    value, _ = value_and_gradient(LOSSES[name], batch)
    assert value == pytest.approx(float(reference(LOSSES[name], batch)), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_gradients_are_finite_differences(name, seed):
    loss, batch, step = LOSSES[name], random_batch(seed, queries=2, documents=5), 1e-5
    _, gradient = value_and_gradient(loss, batch)
    numeric = torch.zeros(gradient.shape, dtype=torch.float64)
    for entry in torch.cartesian_prod(*map(torch.arange, gradient.shape)).tolist():
        moved = torch.zeros(gradient.shape, dtype=torch.float64)
        moved[tuple(entry)] = step
        scores = batch.student.detach().double()
        numeric[tuple(entry)] = (reference(loss, batch, scores + moved) - reference(loss, batch, scores - moved)) / (
            2 * step
        )
    torch.testing.assert_close(gradient.double(), numeric, rtol=1e-4, atol=1e-5)


# The same numbers and gradients as sentence-transformers, whose losses see a column of positives and columns of hard
# negatives, all of them apart.


def columns(seed, queries=5, ways=4, dimensions=7):
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randn((1 + ways, queries, dimensions), generator=generator)
    texts = torch.nn.functional.normalize(texts, dim=-1) if seed % 2 else texts * 0.5
    return texts.requires_grad_(), torch.randn((queries, ways), generator=generator) * 3


def as_batch(texts, labels):
    """Queries against all columns' documents, column after column."""
    queries, ways = labels.shape
    own = torch.eye(queries, dtype=torch.bool).repeat(1, ways)
    teacher = torch.full(own.shape, NAN)
    teacher[own] = labels.flatten()
    positive = torch.zeros_like(own)
    positive[:, :queries] = own[:, :queries]
    batch = make_batch(torch.zeros(own.shape), teacher=teacher, judged=own, own=own, positive=positive)
    object.__setattr__(batch, "student", texts[0] @ texts[1:].flatten(0, 1).T)
    return batch


PAIRS = [
    (MarginMSE(), MarginMSELoss(None), 1),
    (KL(), DistillKLDivLoss(None), 1),
    # theirs multiplies with the student's temperature squared
    (KL(temperature=0.5), DistillKLDivLoss(None, temperature=0.5), 0.25),
    (
        KL(student_temperature=0.2, teacher_temperature=3),
        DistillKLDivLoss(None, student_temperature=0.2, teacher_temperature=3),
        0.04,
    ),
    # their scale is one over the temperature
    (InfoNCE(temperature=0.05), MultipleNegativesRankingLoss(None, scale=20, similarity_fct=dot_score), 1),
    (InfoNCE(temperature=0.5), MultipleNegativesRankingLoss(None, scale=2, similarity_fct=dot_score), 1),
]


@pytest.mark.parametrize(("ours", "theirs", "factor"), PAIRS)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ways", [2, 4])
def test_equal_to_sentence_transformers(ours, theirs, factor, seed, ways):
    texts, labels = columns(seed, ways=ways)
    expected = theirs.compute_loss_from_embeddings(list(texts), labels)
    got = factor * ours(as_batch(texts, labels))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, texts)[0] for value in (got, expected)), rtol=1e-4, atol=1e-5
    )


def test_default_infonce_is_the_default_ranking_loss_on_cosines():
    texts, labels = columns(1)
    expected = MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(list(texts), labels)
    torch.testing.assert_close(InfoNCE()(as_batch(texts, labels)), expected, rtol=1e-6, atol=1e-6)


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
        {"kind": "kl", "weight": -1},
        {"kind": "kl", "temprature": 1},
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ValidationError):
        build("loss", options)
