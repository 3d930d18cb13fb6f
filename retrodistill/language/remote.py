"""Language models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, TGI, or one that sends bills."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from retrodistill.errors import InputError
from retrodistill.language import accounts, replies
from retrodistill.language.accounts import Account, Usage
from retrodistill.language.calls import Call, Caller, Terms
from retrodistill.language.model import Prompt
from retrodistill.language.pacing import Pace
from retrodistill.registry import Part

# Tokens that a label in words may take, quotes and all.
_LABEL_TOKENS = 16
_SECRET = re.compile(r"(?i).*(api[-_]?key|authorization|secret|password|bearer|access[-_]?token).*")
_OWN = ("model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "logprobs")


class Price(BaseModel):
    """What a million tokens cost, in any currency."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(None, ge=0, description="of a prompt's tokens that the server has already; as input")

    def of(self, usage: Usage) -> float:
        """The price of one request."""
        cached = self.input if self.cached is None else self.cached
        fresh = usage.prompt - usage.cached
        return (fresh * self.input + usage.cached * cached + usage.answer * self.output) / 1e6


class OpenAI(Part):
    """A model behind an OpenAI-compatible server: /v1/chat/completions for chats, /v1/completions for plain text."""

    argument: ClassVar[str | None] = "model"
    kind: Literal["openai"] = "openai"
    model: str = Field(min_length=1, description="as the server calls it")
    url: str = Field(description="such as http://localhost:8000 or https://HOST/v1")
    revision: str | None = Field(None, description="tells apart what a server serves under one name")
    url_decides: bool = Field(False, description="the same model behind another url is another teacher")
    answers: Literal["logprobs", "text"] = Field("logprobs", description="what a label's probability is read from")
    top_logprobs: int = Field(20, ge=1, description="log-probabilities asked of the server; OpenAI gives 20 at most")
    floor: float = Field(-10.0, lt=0, allow_inf_nan=False, description="of labels not chosen, with answers: text")
    temperature: float | None = Field(0.0, ge=0, description="not sent where null")
    body: dict[str, JsonValue] = Field({}, description="further fields of each request")
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # noqa: S105 - a field's name
    key_env: str | None = Field(None, description="the environment variable that holds the key")
    concurrency: int = Field(8, ge=1)
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    timeout_s: float = Field(120.0, gt=0)
    retries: int = Field(6, ge=0)
    backoff_s: float = Field(0.5, ge=0, description="before the first retry; doubled each time, up to a minute")
    price: Price | None = None

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("expected an address such as http://localhost:8000 or https://HOST/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "an address holds no user, key or query; name the environment variable of a key as key_env"
            )
        return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):  # it may be the key: not repeated
            raise ValueError("expected the name of an environment variable, such as OPENAI_API_KEY, not the key itself")
        return name

    @model_validator(mode="after")
    def _of_its_own(self) -> OpenAI:
        taken = [name for name in _OWN if name in self.body]
        if taken:
            raise ValueError(f"body: {taken[0]!r} is set by the request itself; leave it out")
        if _names_a_key(self.body):  # which would be in the store, and in every manifest
            raise ValueError("body: a key comes from the environment; name its variable as key_env")
        return self

    def check(self) -> None:
        """Look for the key and the HTTP client; the server is asked when there is something to judge."""
        self._key()
        if importlib.util.find_spec("httpx2") is None:
            raise InputError("a model behind a server needs an HTTP client; pip install 'retrodistill[remote]'")

    def open(self) -> RemoteModel:
        """Get ready to ask; nothing is sent yet."""
        self.check()
        return RemoteModel(self, self._key())

    def _key(self) -> str | None:
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise InputError(
                f"openai:{self.model}: the environment variable {self.key_env} is not set; it holds the key"
            )
        if not (key.isascii() and key.isprintable()):
            raise InputError(
                f"openai:{self.model}: the environment variable {self.key_env} holds characters that no key has; "
                "copy the key anew"
            )
        return key


class RemoteModel:
    """A model behind a server. Every answer is kept, and asked for once: see `accounts`."""

    local: ClassVar[bool] = False

    def __init__(self, options: OpenAI, key: str | None) -> None:
        self.options = options
        terms = Terms(
            url=f"{options.url}/",
            key=key,
            concurrency=options.concurrency,
            timeout_s=options.timeout_s,
            retries=options.retries,
            backoff_s=options.backoff_s,
            price=options.price.of if options.price else _free,
        )
        self._caller = Caller(terms, Pace(options.requests_per_minute, options.tokens_per_minute))
        self._account: Account | None = None
        self.reasons: Sequence[str] = ()
        """Why each of the prompts asked last has no answer; empty where it has one."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The model's name and how it is asked; neither its address, unless `url_decides`, nor its key.

        Known without the server, so that stored judgements can be read when it is gone.
        """
        options = self.options
        read = {"top_logprobs": options.top_logprobs} if options.answers == "logprobs" else {"floor": options.floor}
        return {
            "kind": "openai",
            "model": options.model,
            "revision": options.revision,
            "answers": options.answers,
            **read,
            "temperature": options.temperature,
            "body": options.body,
            **({"url": options.url} if options.url_decides else {}),
        }

    def choices(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """How likely each choice is to be what comes next, float32 (prompts, choices); a NaN row where that failed.

        With `answers: logprobs`, the log-probability of a choice's first token among the likeliest that the server
        lists; one that is not listed gets the least listed, its upper bound. With `answers: text`, the label that the
        answer begins with gets 0 and every other the `floor`: an order of labels, no probability.

        Raises:
            InputError: the server cannot be asked, or gives no log-probabilities.
        """
        listed = list(choices)
        by_text = self.options.answers == "text"

        def read(reply: dict[str, Any]) -> list[float]:
            if by_text:
                row = replies.chosen(replies.text(reply), listed)
                return [0.0 if place == row else self.options.floor for place in range(len(listed))]
            return replies.choice_logprobs(replies.first_token(reply), listed)

        reading = {"choices": listed, "answers": self.options.answers, "floor": self.options.floor}
        calls = [self._label_call(prompt, by_text, read, reading) for prompt in prompts]
        rows = np.full((len(calls), len(listed)), np.nan, dtype=np.float32)
        for row, answer in enumerate(self._ask(calls)):
            if answer:
                rows[row] = answer
        return rows

    def likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> np.ndarray:
        """The mean log-probability of a continuation's tokens, float32 (n,); NaN where that failed.

        The server repeats prompt and continuation with log-probabilities (`echo`); tokens that begin within the
        continuation count.

        Raises:
            InputError: a prompt is a chat, which only the server could render, or the server repeats no prompts.
        """
        calls = []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            start = len(_plain(prompt))
            calls.append(self._likelihood_call(_plain(prompt) + continuation, start))
        return np.array([np.nan if value is None else value for value in self._ask(calls)], dtype=np.float32)

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[str | None]:
        """The answer to each prompt in words; None where that failed."""
        return self._ask([self._call(prompt, max_tokens, {}, replies.text, {"text": True}) for prompt in prompts])

    def count_tokens(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Tokens of prompts, int64 (prompts,), by their characters: the server alone has the tokenizer."""
        return np.array([replies.expected_tokens(_asked(prompt)) for prompt in prompts], dtype=np.int64)

    @property
    def account(self) -> Account:
        """The journal and the ledger that count now."""
        folder = accounts.folder_for(self.identity)
        if self._account is None or self._account.folder != folder:
            self._account = Account(folder)
        return self._account

    def _ask(self, calls: Sequence[Call]) -> list[Any]:
        """Answers in the order of the calls.

        They go out sorted by their text, so that prompts that begin alike stand together: a server that keeps
        prefixes computes them once.
        """
        order = sorted(range(len(calls)), key=lambda row: _text_of(calls[row]))
        answers = self._caller.ask([calls[row] for row in order], self.account)
        placed: list[Any] = [None] * len(calls)
        for row, answer in zip(order, answers, strict=True):
            placed[row] = answer
        said = self._caller.reasons
        self.reasons = [said.get(call.key, "") for call in calls]
        return placed

    def _label_call(self, prompt: Prompt, by_text: bool, read: Any, reading: Any) -> Call:
        if by_text:
            return self._call(prompt, _LABEL_TOKENS, {}, read, reading)
        count = self.options.top_logprobs
        asked = {"logprobs": count} if isinstance(prompt.messages, str) else {"logprobs": True, "top_logprobs": count}
        help_ = "with `answers: text` a label in words is taken, if that is enough"
        return self._call(prompt, 1, asked, read, reading, help_)

    def _likelihood_call(self, text: str, start: int) -> Call:
        def read(reply: dict[str, Any]) -> float:
            values = replies.echoed_logprobs(reply, start, len(text))
            if not values:
                raise replies.BadReplyError("no token begins in the continuation")
            return sum(values) / len(values)

        help_ = "a likelihood needs `echo` with `logprobs`, as vLLM has it; choose a teacher that asks for labels"
        return self._call(Prompt(text), 1, {"echo": True, "logprobs": 1}, read, {"start": start}, help_)

    def _call(
        self, prompt: Prompt, max_tokens: int, asked: Mapping[str, Any], read: Any, reading: Any, without: str = ""
    ) -> Call:
        options = self.options
        warmth = {} if options.temperature is None else {"temperature": options.temperature}
        limit = options.token_limit if not isinstance(prompt.messages, str) else "max_tokens"
        body = {"model": options.model, **_asked(prompt), limit: max_tokens, **warmth, **asked, **options.body}
        path = "completions" if isinstance(prompt.messages, str) else "chat/completions"
        return Call(path, body, read, {"revision": options.revision, **reading}, without)


def _names_a_key(body: JsonValue) -> bool:
    if isinstance(body, list):
        return any(map(_names_a_key, body))
    if not isinstance(body, dict):
        return False
    return any(_SECRET.fullmatch(name) or _names_a_key(value) for name, value in body.items())


def _free(_usage: Usage) -> float:
    return 0.0


def _asked(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt.messages, str):
        return {"prompt": prompt.messages}
    return {"messages": [{"role": message.role, "content": message.content} for message in prompt.messages]}


def _plain(prompt: Prompt) -> str:
    if not isinstance(prompt.messages, str):
        raise InputError(
            "the likelihood of a text behind a chat cannot be asked of a server, which alone can render the chat; "
            "give the teacher a template of plain text"
        )
    return prompt.messages


def _text_of(call: Call) -> str:
    return str(call.body.get("prompt") or "\n".join(message["content"] for message in call.body["messages"]))


LANGUAGE_MODELS = {"openai": OpenAI}
