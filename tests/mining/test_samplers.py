import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retrodistill.mining.samplers import Top, Uniform

RANKS = np.arange(1, 21)
SCORES = np.linspace(1, 0, 20, dtype=np.float32)


def chosen(sampler, ranks=RANKS, seed=0):
    ranks = np.asarray(ranks, dtype=np.int64)
    scores = np.linspace(1, 0, len(ranks), dtype=np.float32)
    return ranks[sampler.choose(ranks, scores, np.random.default_rng(seed))].tolist()


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
