from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.errors import InputError
from retrodistill.evaluation import significance
from retrodistill.evaluation.significance import bootstrap_interval, compare, holm, paired_randomisation


def enumerated(differences):
    """The definition: of all assignments of signs, the part whose mean is at least as far from zero."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(total >= observed - 1e-9 for total in sums) / len(sums)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.3], 1.0),  # one query can never tell
        ([0.3, 0.2], 2 / 4),  # ++ and --
        ([0.3, 0.2, 0.1], 2 / 8),
        ([0.3, -0.1], 1.0),  # all four of +-0.2 and +-0.4 are at least as far as 0.2
        ([0.3, 0.2, -0.1], 4 / 8),  # +-0.6 and +-0.4, not +-0.2 and 0
        ([0.1, 0.1, -0.1], 8 / 8),
        ([0.1] * 10, 2 / 1024),
        ([0.0, 0.0], 1.0),
        ([], 1.0),
    ],
)
def test_small_samples_are_counted_out(differences, p):
    assert paired_randomisation(np.zeros(len(differences)), np.array(differences)) == p


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, -0.1, 0.2, 0.3, -0.7]) | st.floats(-1, 1, width=16), max_size=9))
def test_exact_p_is_its_definition(differences):
    differences = [0.0 if abs(d) < 1e-9 else d for d in differences]
    a = np.linspace(0, 1, len(differences))
    assert paired_randomisation(a, a + differences) == pytest.approx(enumerated(differences))


def test_monte_carlo_comes_close_to_the_exact_value(monkeypatch):
    rng = np.random.default_rng(3)
    a = rng.random(14)
    b = a + rng.normal(0.02, 0.2, 14)
    exact = paired_randomisation(a, b)
    monkeypatch.setattr(significance, "EXACT_UP_TO", 0)
    assert 0.01 < exact < 0.5
    assert paired_randomisation(a, b) == pytest.approx(exact, abs=0.005)
    assert paired_randomisation(a, b, seed=1) != paired_randomisation(a, b, seed=2)
    assert paired_randomisation(a, b, seed=1) == paired_randomisation(a, b, seed=1)


def test_monte_carlo_agrees_with_the_normal_law_on_many_queries():
    # The sum is 42, its deviation under random signs 20; sums go in steps of 2, so z = 41 / 20 = 2.05.
    differences = np.repeat([1.0, -1.0], [221, 179])
    assert paired_randomisation(np.zeros(400), differences) == pytest.approx(0.0404, abs=0.003)


def test_exchanging_the_systems_changes_nothing():
    rng = np.random.default_rng(1)
    for size in (10, 60):
        a, b = rng.random(size), rng.random(size)
        assert paired_randomisation(a, b) == paired_randomisation(b, a)


def test_queries_without_a_difference_carry_no_weight():
    rng = np.random.default_rng(2)
    a, b = rng.random(30), rng.random(30)
    same = rng.random(500)
    assert paired_randomisation(a, b) == paired_randomisation(np.append(a, same), np.append(b, same))


def test_a_clear_difference_reaches_the_least_p_that_the_samples_allow():
    assert paired_randomisation(np.zeros(100), np.ones(100), samples=999) == 1 / 1000


def test_differences_of_rounding_are_none():
    a = np.full(40, 0.1 + 0.2)
    b = np.full(40, 0.3)
    assert (a != b).all()
    assert paired_randomisation(a, b) == 1.0


def test_p_is_uniform_where_systems_do_not_differ():
    rng = np.random.default_rng(4)
    ps = [paired_randomisation(rng.random(25), rng.random(25), samples=500, seed=i) for i in range(400)]
    assert np.mean(np.array(ps) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(ps) == pytest.approx(0.5, abs=0.06)


def test_memory_does_not_grow_with_the_samples():
    a, b = np.random.default_rng(0).random((2, 3000))
    tracemalloc.start()
    paired_randomisation(a, b, samples=20_000)
    bootstrap_interval(a, samples=5_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20  # 20,000 x 3,000 float64 would be 458 MiB


def test_the_interval_of_a_constant_is_a_point():
    assert bootstrap_interval(np.full(7, 0.25)) == (0.25, 0.25)


def test_the_interval_is_that_of_the_normal_law_on_many_queries():
    values = np.random.default_rng(0).normal(0.5, 0.2, 2000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=5e-4)
    assert high == pytest.approx(values.mean() + half, abs=5e-4)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_the_interval_of_two_queries_holds_all_that_can_be_drawn():
    # Means of two draws from {0, 1}: 0, 1/2, 1 with 1/4, 1/2, 1/4.
    assert bootstrap_interval(np.array([0.0, 1.0])) == (0.0, 1.0)
    assert bootstrap_interval(np.array([0.0, 1.0]), confidence=0.4) == (0.5, 0.5)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(300):
        low, high = bootstrap_interval(rng.beta(2, 3, size=60), samples=500, seed=seed)
        covered += low <= 0.4 <= high
    assert covered / 300 == pytest.approx(0.95, abs=0.04)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(ps):
    corrected = holm(ps)
    for p, q in zip(ps, corrected, strict=True):
        assert p <= q <= min(1.0, p * len(ps)) + 1e-12
    by_p = [q for _, q in sorted(zip(ps, corrected, strict=True))]
    assert by_p == sorted(by_p)
    if ps:
        assert min(corrected) == pytest.approx(min(1.0, min(ps) * len(ps)))


def test_a_comparison_by_hand():
    before = {"q1": 0.5, "q2": 0.2, "q3": 0.0, "q4": 1.0}
    after = {"q4": 1.0, "q3": 0.4, "q2": 0.1, "q1": 0.6}  # the order of the queries must not matter
    found = compare("nDCG@10", before, after)
    assert (found.metric, found.queries, found.wins, found.ties, found.losses) == ("nDCG@10", 4, 2, 1, 1)
    assert found.before == pytest.approx(0.425)
    assert found.after == pytest.approx(0.525)
    assert found.difference == pytest.approx(0.1)
    assert found.p == enumerated([0.1, -0.1, 0.4])
    assert found.low < 0.1 < found.high
    back = compare("nDCG@10", after, before)
    assert (back.difference, back.p, back.wins, back.losses) == (pytest.approx(-0.1), found.p, 1, 2)


def test_other_queries_are_refused_with_their_number_and_examples():
    before = {f"q{i}": 0.0 for i in range(6)}
    after = {"q0": 0.0, "x": 1.0}
    with pytest.raises(InputError) as caught:
        compare("AP", before, after, names=("bm25", "student"))
    assert str(caught.value) == (
        "bm25 and student were measured on different queries: 5 of bm25 only ('q1', 'q2', 'q3', ...) and "
        "1 of student only ('x'); evaluate both on the same split"
    )
    with pytest.raises(InputError, match="on no query"):
        compare("AP", {}, {})
