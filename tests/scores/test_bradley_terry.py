import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from retrodistill.scores.bradley_terry import bradley_terry, win_rate

NAN = float("nan")


def table(count, generator, missing=0.0):
    wins = np.full((count, count), NAN)
    for i in range(count):
        for j in range(i):
            if generator.random() >= missing:
                wins[i, j] = generator.random()
                wins[j, i] = 1 - wins[i, j]
    return wins


def test_two_documents_by_hand():
    # maximise .8 log s(2x) + .2 log s(-2x) without a prior: s(2x) = .8
    wins = np.array([[NAN, 0.8], [0.2, NAN]])
    strengths, _ = bradley_terry(wins, prior=1e-9)
    assert strengths[0] - strengths[1] == pytest.approx(np.log(0.8 / 0.2), abs=1e-6)
    assert strengths.sum() == pytest.approx(0)
    _, errors = bradley_terry(wins, prior=1.0)
    d = (bradley_terry(wins, prior=1.0)[0][:1] * 2)[0]
    w = 1 / (1 + np.exp(-d)) * (1 - 1 / (1 + np.exp(-d)))
    # s = (x, -x): along (1, -1) / sqrt(2) the curvature [[w+1, -w], [-w, w+1]] is 2w + 1
    np.testing.assert_allclose(errors**2, 1 / (2 * (2 * w + 1)))


def test_errors_are_how_far_strengths_lie_from_the_truth():
    generator, n = np.random.default_rng(0), 24
    truth = np.linspace(-1, 1, n)
    chance = 1 / (1 + np.exp(truth[None, :] - truth[:, None]))
    missed, told = [], []
    for _ in range(300):
        won = np.triu(generator.random((n, n)) < chance, 1).astype(float)
        wins = np.where(np.eye(n, dtype=bool), NAN, won + np.tril(1 - won.T, -1))
        strengths, errors = bradley_terry(wins, prior=0.01)
        missed.append(strengths - truth)
        told.append(errors)
    np.testing.assert_allclose(np.mean(told, axis=0), np.std(missed, axis=0), rtol=0.2)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 7), st.integers(0, 10_000), st.sampled_from([0.01, 0.1, 1.0]))
def test_it_is_the_maximum_that_another_optimiser_finds(count, seed, prior):
    wins = table(count, np.random.default_rng(seed))

    def loss(s):
        difference = s[:, None] - s[None, :]
        return np.nansum(np.where(np.isnan(wins), 0, wins) * np.logaddexp(0, -difference)) + prior * (s**2).sum() / 2

    best = minimize(loss, np.zeros(count), method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(bradley_terry(wins, prior)[0], best - best.mean(), atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 7), st.integers(0, 10_000))
def test_the_order_of_documents_is_no_matter_and_missing_pairs_are(count, seed):
    generator = np.random.default_rng(seed)
    wins = table(count, generator, missing=0.4)
    order = generator.permutation(count)
    for read in (lambda w: bradley_terry(w)[0], lambda w: bradley_terry(w)[1], win_rate):
        np.testing.assert_allclose(read(wins[np.ix_(order, order)]), read(wins)[order], atol=1e-8)
    compared = ~np.isnan(wins).all(axis=1)
    assert (np.isnan(bradley_terry(wins)[0]) == ~compared).all()
    assert (np.isnan(win_rate(wins)) == ~compared).all()


def test_who_always_wins_is_finite_and_first():
    wins = np.array([[NAN, 1, 1], [0, NAN, 1], [0, 0, NAN]])
    strengths, errors = bradley_terry(wins)
    assert np.isfinite(strengths).all() and (np.diff(strengths) < 0).all()
    assert (errors > 0).all()
    assert win_rate(wins).tolist() == [1, 0.5, 0]
