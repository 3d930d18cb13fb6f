"""Keeps to a server's limits: requests and tokens a minute, evenly spaced, and the pauses that it asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pace:
    """Says when the next request may go; one for all requests of a model, however many wait.

    The generic cell rate algorithm without bursts (ITU-T I.371): each request takes `60 / limit` seconds of its minute,
    and each token likewise, so that no window of a minute holds more than the limit.

    Args:
        requests_per_minute: no limit where None.
        tokens_per_minute: of prompts and answers together; no limit where None.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._a_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._a_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._requests_from = self._tokens_from = self._paused_until = clock()

    def reserve(self, tokens: float) -> float:
        """Take the next free moment for a request of so many tokens; returns it, on the clock."""
        start = max(self._clock(), self._requests_from, self._tokens_from, self._paused_until)
        self._requests_from = start + self._a_request
        self._tokens_from = start + tokens * self._a_token
        return start

    def correct(self, expected: float, counted: float) -> None:
        """Put the server's own count in the place of the tokens that a request was expected to take."""
        self._tokens_from += (counted - expected) * self._a_token

    def pause(self, seconds: float) -> None:
        """Let nothing go for a while, as a server's Retry-After asks."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    async def turn(self, tokens: float) -> None:
        """Wait until a request of so many tokens may go.

        A moment that falls into a pause is lost, and another one taken behind it: what waited does not go at once.
        """
        until = self.reserve(tokens)
        while (left := until - self._clock()) > 0:
            await asyncio.sleep(left)
            if until < self._paused_until:
                until = self.reserve(tokens)
