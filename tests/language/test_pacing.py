"""Requests keep to a server's limits."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from retrodistill.language.pacing import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    tokens=st.lists(st.integers(1, 50), min_size=2, max_size=40),
    requests=st.integers(1, 600),
    limit=st.integers(50, 5000),
)
def test_no_minute_holds_more_than_its_limits(tokens, requests, limit):
    pace = Pace(requests, limit, Clock())
    starts = [pace.reserve(count) for count in tokens]
    assert starts == sorted(starts)
    for start in starts:
        window = [count for count, at in zip(tokens, starts, strict=True) if start <= at < start + 60 - 1e-6]
        assert len(window) <= requests
        # the last may reach over the end of its minute
        assert sum(window[:-1]) <= limit


def test_the_servers_count_stands_in_for_the_expected_one():
    pace = Pace(tokens_per_minute=60, clock=Clock())
    pace.reserve(10)
    pace.correct(10, 4)
    assert pace.reserve(1) == 4.0


def test_a_pause_holds_for_all(monkeypatch):
    clock = Clock()
    pace = Pace(clock=clock)
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace.pause(5)
    pace.pause(2)
    asyncio.run(pace.turn(1))
    asyncio.run(pace.turn(1))
    assert slept == [5]


def test_what_waited_through_a_pause_does_not_go_at_once():
    """Times are bounded from below alone, so that a slow machine passes too."""
    pace, went = Pace(requests_per_minute=1_000), []

    async def one():
        await pace.turn(1)
        went.append(time.monotonic())

    async def all_of_them():
        waiting = [asyncio.create_task(one()) for _ in range(5)]
        await asyncio.sleep(0.005)
        pace.pause(0.1)
        await asyncio.gather(*waiting)

    began = time.monotonic()
    asyncio.run(all_of_them())
    later = [at for at in went[1:] if at - began > 0.1]
    assert len(later) >= 2
    assert all(after - before > 0.05 for before, after in pairwise(later))
