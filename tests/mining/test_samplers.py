import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mining_pools import follows, frequencies, pool_of
from pydantic import ValidationError

from retrodistill.errors import InputError
from retrodistill.mining.samplers import (
    LogUniform,
    Stratified,
    Top,
    TopAndRandom,
    Uniform,
    Window,
    draw,
    draw_evenly,
)

RANKS = np.arange(1, 21)


def chosen(sampler, ranks=RANKS, seed=0):
    ranks = np.asarray(ranks, dtype=np.int64)
    return ranks[sampler.choose(pool_of(ranks), np.random.default_rng(seed))].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"n": 3}, [1, 2, 3]),
        ({"n": 3, "skip": 5}, [6, 7, 8]),
        ({"n": 30}, list(range(1, 21))),
        ({"n": 3, "skip": 19}, [20]),
        ({"n": 3, "skip": 20}, []),
    ],
)
def test_top(options, expected):
    assert chosen(Top(**options)) == expected


def test_top_skips_by_rank_where_ranks_have_gaps():
    # Ranks 2 and 3 were labelled documents: skipping 3 skips what stood at rank 1 only.
    assert chosen(Top(n=2, skip=3), [1, 4, 5, 6]) == [4, 5]


@given(
    ranks=st.lists(st.integers(1, 60), unique=True).map(sorted),
    n=st.integers(1, 20),
    first=st.integers(1, 30),
    more=st.none() | st.integers(0, 30),
    seed=st.integers(0, 50),
)
def test_uniform_draws_from_the_window_without_repetition(ranks, n, first, more, seed):
    last = None if more is None else first + more
    drawn = chosen(Uniform(n=n, first=first, last=last), ranks, seed)
    window = [rank for rank in ranks if rank >= first and (last is None or rank <= last)]
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(window)
    assert len(drawn) == min(n, len(window))


def test_uniform_is_uniform():
    sampler, draws = Uniform(n=5, first=3, last=14), 3_000
    counts = np.zeros(21)
    for seed in range(draws):
        counts[chosen(sampler, seed=seed)] += 1
    assert counts[:3].sum() == counts[15:].sum() == 0
    # Each of 12 ranks with probability 5/12: 1,250 of 3,000, standard deviation 27.
    assert np.abs(counts[3:15] - 1_250).max() < 5 * 27


def test_the_same_seed_draws_the_same():
    assert chosen(Uniform(n=5), seed=7) == chosen(Uniform(n=5), seed=7)
    assert len({tuple(chosen(Uniform(n=5), seed=seed)) for seed in range(20)}) > 15


@pytest.mark.parametrize("sampler", [Top(n=2), Uniform(n=2)])
def test_nothing_to_choose_from(sampler):
    assert chosen(sampler, []) == []


def test_a_window_without_a_rank_is_refused():
    with pytest.raises(ValidationError, match="last: 3 is before first: 5; no rank is left to draw from"):
        Uniform(n=2, first=5, last=3)
    with pytest.raises(ValidationError):
        Top(n=0)


# Draws


def test_draw_is_in_proportion_to_the_weights():
    weights = np.array([1.0, 2.0, 0.0, 5.0])
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    counts = np.zeros(4, dtype=int)
    for seed in range(4_000):
        counts[draw(logs, 1, np.random.default_rng(seed))] += 1
    assert follows(counts, weights)


def test_draws_behind_each_other_are_in_proportion_to_what_is_left():
    # Of weights 1, 2, 5, pairs by hand: P(first 0, then 1) = 1/8 * 2/7, and so on.
    counts = dict.fromkeys([(0, 1), (0, 2), (1, 2)], 0)
    for seed in range(4_000):
        counts[tuple(draw(np.log([1.0, 2.0, 5.0]), 2, np.random.default_rng(seed)).tolist())] += 1
    expected = [1 / 8 * 2 / 7 + 2 / 8 * 1 / 6, 1 / 8 * 5 / 7 + 5 / 8 * 1 / 3, 2 / 8 * 5 / 6 + 5 / 8 * 2 / 3]
    assert sum(expected) == pytest.approx(1)
    assert follows(np.array(list(counts.values())), expected)


def test_draw_gives_what_can_be_drawn():
    assert draw(np.array([0.0, -np.inf, np.nan, 1.0]), 4, np.random.default_rng(0)).tolist() == [0, 3]
    assert draw(np.array([]), 4, np.random.default_rng(0)).tolist() == []


def test_groups_take_turns():
    groups = np.array([0, 0, 0, 0, 0, 1, 1, 2, -1])
    seen = set()
    for seed in range(50):
        drawn = draw_evenly(groups, 5, np.random.default_rng(seed))
        counts = np.bincount(groups[drawn], minlength=3)
        assert counts[2] == 1 and counts[0] == counts[1] == 2  # one of each, then two of those that have more
        assert drawn.tolist() == sorted(set(drawn.tolist()))
        seen.add(tuple(drawn.tolist()))
    assert len(seen) > 5
    assert draw_evenly(groups, 50, np.random.default_rng(0)).tolist() == list(range(8))


def test_one_of_groups_is_drawn_evenly_over_groups_then_within():
    groups = np.array([0, 0, 0, 1])
    counts = np.zeros(4, dtype=int)
    for seed in range(3_000):
        counts[draw_evenly(groups, 1, np.random.default_rng(seed))] += 1
    assert follows(counts, [1 / 6, 1 / 6, 1 / 6, 1 / 2])


# By rank


def test_log_uniform_follows_one_over_rank():
    pool = pool_of([1, 2, 4, 5, 10, 50])  # ranks have gaps where labelled documents were
    assert follows(frequencies(LogUniform(n=1), pool), [1, 1 / 2, 1 / 4, 1 / 5, 1 / 10, 1 / 50])
    assert follows(frequencies(LogUniform(n=1, first=2, last=10), pool), [0, 1 / 2, 1 / 4, 1 / 5, 1 / 10, 0])


def test_a_window_counts_what_the_filters_left():
    ranks = [2, 3, 7, 8, 9, 20]
    assert chosen(Window(n=2, skip=1), ranks) == [3, 7]
    assert chosen(Window(n=5, skip=4), ranks) == [9, 20]
    assert chosen(Window(n=2, skip=1, last=3), ranks) == [3, 7]
    assert chosen(Window(n=2, skip=9), ranks) == []
    drawn = {tuple(chosen(Window(n=2, skip=1, last=4, take="random"), ranks, seed)) for seed in range(50)}
    assert drawn == {(3, 7), (3, 8), (7, 8)}
    with pytest.raises(ValidationError, match="skip: 5 and last: 6 leave 1 places, fewer than n: 2; raise last"):
        Window(n=2, skip=5, last=6)


def test_the_top_and_some_others():
    sampler = TopAndRandom(n=4, top=2)
    counts = frequencies(sampler, pool_of(range(1, 9)))
    assert counts[:2].tolist() == [4_000, 4_000]
    assert counts.sum() == 16_000
    assert np.abs(counts[2:] - 8_000 / 6).max() < 5 * np.sqrt(8_000 * 2 / 6)
    assert chosen(sampler, [5]) == [5]
    with pytest.raises(ValidationError, match="top: 5 of n: 4 documents"):
        TopAndRandom(n=4, top=5)


# By source

PLACES = {"a": {"d0": 1, "d1": 2, "d2": 3, "d3": 4}, "b": {"d1": 1, "d4": 2}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"n": 1}, [0]),
        ({"n": 2}, [0, 1]),
        ({"n": 4}, [0, 1, 2, 4]),  # d1 is b's best, so a goes on with d2
        ({"n": 9}, [0, 1, 2, 3, 4]),
        ({"n": 3, "shares": (3, 1)}, [0, 1, 2]),
        ({"n": 4, "shares": (1, 3)}, [0, 1, 2, 4]),  # b ends after two: a takes what is left
    ],
)
def test_each_source_gets_its_share(options, expected):
    pool = pool_of(range(1, 6), places=PLACES)
    assert Stratified(**options).choose(pool, np.random.default_rng(0)).tolist() == expected


def test_shares_by_chance_are_still_shares():
    places = {"a": {f"d{row}": row + 1 for row in range(20)}, "b": {f"d{row}": row + 1 for row in range(20, 40)}}
    pool = pool_of(range(1, 41), places=places)
    counts = np.zeros(40)
    for seed in range(200):
        drawn = Stratified(n=6, shares=(1, 2), take="random").choose(pool, np.random.default_rng(seed))
        assert ((drawn < 20).sum(), (drawn >= 20).sum()) == (2, 4)
        counts[drawn] += 1
    assert counts.min() > 0


def test_shares_are_for_the_sources():
    with pytest.raises(InputError, match="got 3 shares for 2 sources; give one each"):
        Stratified(n=2, shares=(1, 1, 1)).choose(pool_of(range(1, 6), places=PLACES), np.random.default_rng(0))


@pytest.mark.parametrize("sampler", [LogUniform(n=2), Window(n=2), TopAndRandom(n=2, top=1), Stratified(n=2)])
def test_nothing_to_choose_from_for_any(sampler):
    assert chosen(sampler, []) == []
