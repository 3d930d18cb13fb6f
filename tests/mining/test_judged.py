import numpy as np
import pytest
from mining_pools import follows, frequencies, pool_of
from pydantic import ValidationError

from retrodistill.mining.judged import Balanced, Disagreement, Quantile, SimANS
from retrodistill.mining.pool import key_of
from retrodistill.retrieval.bm25 import BM25

NAN = float("nan")
SCORES = np.array([2.5, 1.5, 1.0, 0.5, -0.5, -1.0])


def rows(sampler, pool, seed=0):
    return sampler.choose(pool, np.random.default_rng(seed)).tolist()


# SimANS


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.5, -0.5), (2.0, 0.25), (0.0, 0.0)])
def test_simans_follows_its_formula(a, b):
    pool = pool_of(scores=SCORES, positives=[1.0])
    expected = np.exp(-a * (SCORES - 1.0 - b) ** 2)
    assert follows(frequencies(SimANS(n=1, a=a, b=b), pool), expected)


def test_simans_stands_around_the_positive_that_is_meant():
    pool = pool_of(scores=SCORES, positives=[0.0, 2.0])
    for against, positive in (("min", 0.0), ("mean", 1.0), ("max", 2.0)):
        expected = np.exp(-((SCORES - positive) ** 2))
        assert follows(frequencies(SimANS(n=1, against=against), pool, 10_000), expected)


def test_simans_is_the_same_for_shifted_scores():
    near, far = (
        [rows(SimANS(n=3), pool_of(scores=SCORES + shift, positives=[1.0 + shift]), seed) for seed in range(20)]
        for shift in (0.0, -8.0)
    )
    assert near == far


def test_simans_draws_far_ones_where_there_are_no_others():
    assert rows(SimANS(n=2), pool_of(scores=[500.0, -500.0], positives=[0.0])) == [0, 1]


def test_simans_needs_scores():
    assert rows(SimANS(n=6), pool_of(scores=[1.0, NAN, 0.0], positives=[1.0])) == [0, 2]
    assert rows(SimANS(n=6), pool_of(scores=[1.0, 0.0])) == []


# Quantile


def test_quantiles_by_hand():
    pool = pool_of(scores=[5.0, 4.0, 3.0, 2.0, 1.0])
    assert rows(Quantile(n=9, low=0.25, high=0.75), pool) == [1, 2, 3]
    assert rows(Quantile(n=9, low=0.0, high=0.5), pool) == [2, 3, 4]
    assert rows(Quantile(n=9, low=0.9, high=1.0), pool) == [0]
    assert rows(Quantile(n=9, low=0.0, high=1.0), pool_of(scores=[1.0, NAN, 2.0])) == [0, 2]
    assert rows(Quantile(n=9), pool_of(scores=[NAN, NAN])) == rows(Quantile(n=9), pool_of([])) == []


def test_quantile_draws_evenly_between():
    assert follows(frequencies(Quantile(n=1, low=0.25, high=0.75), pool_of(scores=[5, 4, 3, 2, 1])), [0, 1, 1, 1, 0])


def test_quantiles_are_in_order():
    with pytest.raises(ValidationError, match=r"low: 0.5 is not below high: 0.5"):
        Quantile(n=1, low=0.5, high=0.5)


# Disagreement


def both(student, teacher):
    pool, judge = pool_of(scores=student), BM25()
    known = {f"d{row}": score for row, score in enumerate(teacher)}
    object.__setattr__(pool, "scores_by", {**pool.scores_by, key_of(judge): known})
    return judge, pool


def test_disagreement_by_hand():
    # The student's places 0 1 2 3 4, the teacher's 3 0 4 1 2: the first stands 3 higher, the third 2.
    judge, pool = both([0.9, 0.8, 0.7, 0.6, 0.5], [2.0, 9.0, 1.0, 8.0, 7.0])
    assert rows(Disagreement(n=1, teacher=judge), pool) == [0]
    assert rows(Disagreement(n=5, teacher=judge), pool) == [0, 2]
    assert rows(Disagreement(n=5, teacher=judge), both([3.0, 2.0, 1.0], [30.0, 20.0, 10.0])[1]) == []


def test_scales_do_not_matter_to_a_disagreement():
    judge, pool = both([900.0, 80.0, 7.0, 6.0, -5.0], [-20.0, 9.0, -100.0, 8.5, 8.0])
    assert rows(Disagreement(n=5, teacher=judge), pool) == [0, 2]


def test_what_one_of_them_does_not_know_is_left_out():
    judge, pool = both([0.9, 0.8, NAN, 0.6], [1.0, 2.0, 0.0, NAN])
    assert rows(Disagreement(n=5, teacher=judge), pool) == [0]


# Balanced margins


def test_bins_of_the_margin_take_turns():
    # Width 1: bins hold {4.0, 3.5}, {2.5}, nothing, {0.5, 0.25, 0.0}.
    pool = pool_of(scores=[4.0, 3.5, 2.5, 0.5, 0.25, 0.0])
    sampler = Balanced(n=1, bins=4)
    assert follows(frequencies(sampler, pool), [1 / 6, 1 / 6, 1 / 3, 1 / 9, 1 / 9, 1 / 9])
    for seed in range(20):
        three = rows(Balanced(n=3, bins=4), pool, seed)
        assert [three[0] in (0, 1), three[1] == 2, three[2] in (3, 4, 5)] == [True] * 3


def test_equal_scores_are_one_bin():
    assert rows(Balanced(n=2), pool_of(scores=[1.0, 1.0])) == [0, 1]
    assert rows(Balanced(n=2), pool_of(scores=[1.0, NAN])) == [0]
    assert rows(Balanced(n=2), pool_of([])) == []
