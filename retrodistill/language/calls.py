"""Asks a server many things at once, patiently: limits, retries, and a journal, so that each answer is paid once."""

from __future__ import annotations

import asyncio
import contextvars
import email.utils
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from retrodistill import console
from retrodistill.errors import InputError
from retrodistill.files import digest_of
from retrodistill.language import replies
from retrodistill.language.accounts import Account, Usage
from retrodistill.language.pacing import Pace
from retrodistill.language.replies import BadReplyError, NoLogprobsError, UnclearError

if TYPE_CHECKING:
    import httpx2

# Seconds that no wait goes beyond, whatever a server asks for or the doubling comes to.
_LONGEST_ASKED, _LONGEST_BACKOFF = 3600.0, 60.0
# After so many requests without one answer, the mistake is not the requests'.
_TELLING = 20
_TRY_AGAIN = frozenset({408, 409, 425, 429})
_USELESS = {
    401: "the key is missing or wrong; name the environment variable that holds it as key_env",
    402: "the account has no money left",
    403: "the key may not be used for this model",
    404: "there is no such model or address; look at model and url",
}


@dataclass(frozen=True)
class Call:
    """One request, and how its reply is read.

    Attributes:
        path: below the server's address, such as `chat/completions`.
        body: what is sent, JSON.
        read: makes the answer, a JSON value, of the reply; raises `BadReplyError`.
        reading: what `read` depends on besides the reply.
        without_logprobs: what a user can do where the server gives no log-probabilities.
    """

    path: str
    body: Mapping[str, Any]
    read: Callable[[dict[str, Any]], Any]
    reading: Any = None
    without_logprobs: str = ""

    @cached_property
    def key(self) -> str:
        """A digest (32 hexadecimal digits) of all that decides the answer."""
        return digest_of([self.path, self.body, self.reading])[:32]


@dataclass(frozen=True)
class Terms:
    """How a server is asked.

    Attributes:
        url: the address that paths are put behind.
        key: sent as a bearer token; never written anywhere.
        concurrency: requests under way at once.
        timeout_s: seconds for a whole reply.
        retries: times that a request is sent again.
        backoff_s: seconds before the first of them; doubled each time, times a random number between 0.5 and 1.
        price: money of a usage.
    """

    url: str
    key: str | None = field(repr=False)
    concurrency: int
    timeout_s: float
    retries: int
    backoff_s: float
    price: Callable[[Usage], float]


class _TroubleError(Exception):
    """An attempt that gave no answer."""

    def __init__(self, reason: str, *, wait: float | None = None, again: bool = True, detail: str = "") -> None:
        super().__init__(reason)
        self.wait, self.again, self.detail = wait, again, detail


class Caller:
    """Sends requests to one server, in one process."""

    def __init__(self, terms: Terms, pace: Pace) -> None:
        self.terms = terms
        self.pace = pace
        self._answered = 0
        self._failures: Counter[str] = Counter()
        self._details: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        """Why a request that was asked last was not answered, by its key."""

    def ask(self, calls: Sequence[Call], account: Account) -> list[Any]:
        """The answer to each request; None where there was none after all retries, which is said.

        What the journal has is not asked again; what stands twice is asked once. The requests go out in their order.
        Safe to call where an event loop runs already, as in a notebook.

        Raises:
            InputError: the server cannot be reached, refuses the key, or answers nothing at all.
        """
        self.reasons = {}
        answers: dict[str, Any] = {call.key: account.answer(call.key) for call in calls}
        # an empty answer is what an earlier version kept of one that names nothing
        missing = list({call.key: call for call in calls if answers[call.key] in (None, [])}.values())
        if missing:
            before = self._failures.copy()
            try:
                answers.update(_run(self._all(missing, account)))
            finally:
                account.sync()
            for reason, count in (self._failures - before).items():
                console.say(f"{count:,} of {len(missing):,} requests failed: {reason}{self._details[reason]}")
        return [answers[call.key] for call in calls]

    async def _all(self, calls: Sequence[Call], account: Account) -> dict[str, Any]:
        import httpx2

        headers = {"Authorization": f"Bearer {self.terms.key}"} if self.terms.key else {}
        connections = httpx2.Limits(max_connections=self.terms.concurrency)
        async with httpx2.AsyncClient(
            base_url=self.terms.url, headers=headers, timeout=self.terms.timeout_s, limits=connections
        ) as client:
            waiting, answers = iter(calls), dict[str, Any]()
            if not self._answered:  # what is wrong with all of them shows with the first
                first = next(waiting)
                answers[first.key] = await self._one(client, first, account, alone=True)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.terms.concurrency, len(calls))):
                        group.create_task(self._work(client, waiting, account, answers))
            except BaseExceptionGroup as errors:
                raise _first(errors) from None
        return answers

    async def _work(
        self, client: httpx2.AsyncClient, waiting: Iterator[Call], account: Account, answers: dict[str, Any]
    ) -> None:
        for call in waiting:
            answers[call.key] = await self._one(client, call, account)

    async def _one(self, client: httpx2.AsyncClient, call: Call, account: Account, alone: bool = False) -> Any:
        for attempt in range(self.terms.retries + 1):
            try:
                return await self._attempt(client, call, account, attempt)
            except _TroubleError as trouble:
                reason, detail = str(trouble), trouble.detail
                if not trouble.again or attempt == self.terms.retries:
                    break
                await asyncio.sleep(self._pause_after(trouble, attempt))
        self.reasons[call.key] = reason + detail
        self._failures[reason] += 1
        self._details.setdefault(reason, detail)
        if not self._answered:
            self._tell_what_all_share(call, reason, attempt + 1, alone)
        return None

    def _tell_what_all_share(self, call: Call, reason: str, attempts: int, alone: bool) -> None:
        """Raise where it is not this request that is wrong."""
        if reason == NoLogprobsError.reason:
            raise InputError(f"{self.terms.url}: {reason}; {call.without_logprobs}")
        if reason == str(UnclearError()) and self._failures[reason] >= _TELLING:
            raise InputError(
                f"{self.terms.url}: {reason}, {_TELLING} times and from the first; look at the template, which has to "
                "say what to answer, or choose a model that follows it. They are asked again in the next run"
            )
        if (alone and reason.startswith(_UNREACHED)) or self._failures.total() >= _TELLING:
            raise InputError(
                f"{self.terms.url}: {reason}{self._details[reason]}, {attempts} times; no request was answered. Is the "
                "server up, and its address url? What was answered before is kept"
            )

    def _pause_after(self, trouble: _TroubleError, attempt: int) -> float:
        own = min(_LONGEST_BACKOFF, self.terms.backoff_s * 2**attempt) * random.uniform(0.5, 1)
        if trouble.wait is None:
            return own
        self.pace.pause(trouble.wait)  # the server speaks to all of us
        return trouble.wait + own

    async def _attempt(self, client: httpx2.AsyncClient, call: Call, account: Account, attempt: int) -> Any:
        expected = replies.expected_tokens(call.body) + int(call.body.get(_limit_of(call.body), 0))
        await self.pace.turn(expected)
        began, took, outcome = time.perf_counter(), None, "answered"
        try:
            content = await self._post(client, call)
            took = replies.usage(content, call.body)
            answer = self._read(content, call, account)
            account.keep(call.key, answer)
            self._answered += 1
            return answer
        except (_TroubleError, InputError) as trouble:
            outcome = str(trouble) if isinstance(trouble, _TroubleError) else "refused"
            raise
        except asyncio.CancelledError:
            outcome = "given up"
            raise
        finally:
            cost = self.terms.price(took) if took else 0.0
            seconds = time.perf_counter() - began
            account.record(call.key, outcome, attempt=attempt + 1, seconds=seconds, usage=took, cost=cost)
            self.pace.correct(expected, took.prompt + took.answer if took else 0)

    def _read(self, content: bytes, call: Call, account: Account) -> Any:
        try:
            reply = replies.parse(content)
            self._expect_same_model(reply, account)
            return call.read(reply)
        except BadReplyError as error:
            raise _TroubleError(str(error), again=not isinstance(error, UnclearError)) from error

    def _expect_same_model(self, reply: Mapping[str, Any], account: Account) -> None:
        found = reply.get("model")
        if isinstance(found, str) and account.served(replies.whole(found)) != replies.whole(found):
            raise BadReplyError("another model answered than at first; set `revision` to begin anew with it")

    async def _post(self, client: httpx2.AsyncClient, call: Call) -> bytes:
        import httpx2

        try:
            async with asyncio.timeout(self.terms.timeout_s):
                response = await client.post(call.path, json=dict(call.body))
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _TroubleError(f"no reply in {self.terms.timeout_s:g} s") from error
        except httpx2.ConnectError as error:
            raise _TroubleError(f"{_UNREACHED} ({type(error).__name__})") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _TroubleError(f"the connection broke ({type(error).__name__})") from None
        self._look_at(response)
        return response.content

    def _look_at(self, response: httpx2.Response) -> None:
        """Go on with a status of 200 only."""
        status = response.status_code
        if status == 200:
            return
        if status in _USELESS:
            raise InputError(f"{self.terms.url} answers with status {status}: {_USELESS[status]}")
        if 300 <= status < 400:
            raise InputError(f"{self.terms.url} sends elsewhere (status {status}); give the address itself as url")
        if status == 429 and b"insufficient_quota" in response.content:
            raise InputError(f"{self.terms.url} answers with status 429: {_USELESS[402]}")
        again = status in _TRY_AGAIN or status >= 500
        detail = _said(response.content, self.terms.key)
        raise _TroubleError(f"status {status}", wait=_retry_after(response.headers), again=again, detail=detail)


_UNREACHED = "the server cannot be reached"


def _limit_of(body: Mapping[str, Any]) -> str:
    return "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After, which is a number or a date (RFC 9110, 10.2.3); None where there is none to be read."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_ASKED) if seconds == seconds else None


def _said(content: bytes, key: str | None) -> str:
    """A server's own words about a mistake, for the person who waits: the first of them, and no key."""
    try:
        value = json.loads(content)
        error = value.get("error", value)
        words = str(error.get("message") if isinstance(error, dict) else error)
    except (ValueError, AttributeError, RecursionError):
        return ""
    words = replies.whole(words)
    if key:
        words = words.replace(key, "(key)")
    return f" ({' '.join(words.split())[:200]})"


def _first(errors: BaseExceptionGroup) -> BaseException:
    """The mistake among what went wrong together; the others were stopped by it."""
    for error in errors.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, InputError):
            return found
    return errors.exceptions[0]


def _run(work: Any) -> Any:
    """Run a coroutine to its end, in a thread of its own where this one has an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, work).result()
