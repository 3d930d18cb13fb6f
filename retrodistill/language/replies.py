"""Reads what OpenAI-compatible servers reply, and believes nothing that is not there.

Forms, as vLLM, SGLang, llama.cpp, TGI and OpenAI give them: `choices[0].message.content` or `choices[0].text`;
log-probabilities as a list of tokens (`logprobs.content`) or, from /v1/completions, as columns (`logprobs.tokens`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retrodistill.language.accounts import Usage

CHARACTERS_A_TOKEN = 4
# Beyond this no count of tokens is one.
_COUNTABLE = 2**40


class BadReplyError(Exception):
    """A reply that cannot be believed; the message says why, without a word of it."""


class UnclearError(BadReplyError):
    """A whole answer that names nothing of what was asked for: the same question would bring the same again."""

    def __init__(self) -> None:
        super().__init__("the answer names none of what was asked for")


class NoLogprobsError(BadReplyError):
    """A reply that is whole, but without the log-probabilities that were asked for."""

    reason = "the server gives no log-probabilities"

    def __init__(self) -> None:
        super().__init__(self.reason)


def parse(content: bytes) -> dict[str, Any]:
    """A reply as a JSON object with one choice at least.

    Raises:
        BadReplyError: it is no JSON, or half of it, or has another form.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadReplyError("the reply is no JSON, or not all of it") from error
    if not isinstance(value, dict) or not isinstance(value.get("choices"), list):
        raise BadReplyError("the reply has no choices")
    if not value["choices"] or not isinstance(value["choices"][0], dict):
        raise BadReplyError("the reply's choices are empty")
    first = value["choices"][0]
    if first.get("index", 0) != 0:
        raise BadReplyError(f"the reply's first choice has the index {first.get('index')!r:.20}")
    if first.get("finish_reason") == "content_filter":
        raise BadReplyError("the server's content filter kept the answer back")
    return value


def usage(content: bytes, body: Mapping[str, Any]) -> Usage:
    """Tokens that a reply took, by the server's count; estimated by characters where it gives none that can be."""
    try:
        told = json.loads(content)["usage"]
        details = told.get("prompt_tokens_details") or {}
        prompt, answer = int(told["prompt_tokens"]), int(told.get("completion_tokens") or 0)
        cached = int(details.get("cached_tokens") or 0)
        if min(prompt, answer, cached, prompt - cached) >= 0 and max(prompt, answer) < _COUNTABLE:
            return Usage(prompt, answer, cached)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        pass  # what is no JSON, or has no count: the estimate stands in
    return Usage(expected_tokens(body), 0, counted=False)


def expected_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a request's prompt, four characters each."""
    texts = [body.get("prompt", ""), *(message["content"] for message in body.get("messages", ()))]
    return math.ceil(sum(map(len, texts)) / CHARACTERS_A_TOKEN)


def text(reply: Mapping[str, Any]) -> str:
    """The answer in words.

    Raises:
        BadReplyError: there is none.
    """
    first = reply["choices"][0]
    found = first["message"].get("content") if isinstance(first.get("message"), dict) else first.get("text")
    if not isinstance(found, str) or not found.strip():
        raise BadReplyError("the reply holds no text")
    return whole(found)


def whole(words: str) -> str:
    """Words of a server without halves of surrogate pairs, which JSON can bring and no file can hold."""
    return words.encode("utf-8", "replace").decode()


def first_token(reply: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The likeliest first tokens of the answer with their log-probabilities, as many as the server gives.

    Raises:
        NoLogprobsError: the server gives none.
        BadReplyError: they cannot be read.
    """
    given = reply["choices"][0].get("logprobs")
    if not given:
        raise NoLogprobsError
    try:
        if given.get("content"):
            listed = given["content"][0].get("top_logprobs") or [given["content"][0]]
            found = [(row["token"], row["logprob"]) for row in listed]
        else:
            found = list(given["top_logprobs"][0].items())
        return [(_word(token), _logprob(value)) for token, value in found]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise BadReplyError("the reply's log-probabilities have an unknown form") from error


def choice_logprobs(tokens: Sequence[tuple[str, float]], choices: Sequence[str]) -> list[float]:
    """The log-probability of each choice among the likeliest first tokens.

    A token stands for a choice where it is the choice, or else begins it and no other choice; where no token does as
    it stands, the white space around tokens is left out. The likeliest of them counts. A choice that is not listed is
    less likely than all that are: it gets the least listed log-probability, its upper bound.

    Returns:
        A number a choice.

    Raises:
        UnclearError: none of them is listed.
    """
    found = [_of_choice(tokens, choice, choices) for choice in choices]
    if all(value is None for value in found):
        raise UnclearError
    least = min(value for _, value in tokens)
    return [least if value is None else value for value in found]


def _of_choice(tokens: Sequence[tuple[str, float]], choice: str, choices: Sequence[str]) -> float | None:
    def begins_only(token: str) -> bool:
        return bool(token) and [other for other in choices if other.startswith(token)] == [choice]

    # White space matters before length does: a local model, too, reads the very token.
    rules: tuple[Callable[[str], bool], ...] = (
        lambda token: token == choice,
        begins_only,
        lambda token: token.strip() == choice.strip(),
        lambda token: begins_only(token.strip()),
    )
    for stands_for in rules:
        values = [value for token, value in tokens if stands_for(token)]
        if values:
            return max(values)
    return None


def chosen(answer: str, choices: Sequence[str]) -> int:
    """Which choice an answer in words begins with, marks before it aside.

    Case counts only where it tells two choices apart. The longest choice counts: `10` is not `1`.

    Raises:
        UnclearError: that is none or several.
    """
    said = answer.lstrip(" \t\r\n\"'`*([{<").rstrip()
    for fold in (str, str.casefold):
        fits = [row for row, choice in enumerate(choices) if _starts_with_word(fold(said), fold(choice.strip()))]
        if fits:
            longest = max(len(choices[row].strip()) for row in fits)
            best = [row for row in fits if len(choices[row].strip()) == longest]
            if len(best) == 1:
                return best[0]
            break
    raise UnclearError


def _starts_with_word(said: str, word: str) -> bool:
    return bool(word) and said.startswith(word) and not said[len(word) : len(word) + 1].isalnum()


def echoed_logprobs(reply: Mapping[str, Any], start: int, end: int) -> list[float]:
    """Log-probabilities of the tokens that begin between two characters of the prompt that the server repeats.

    Raises:
        NoLogprobsError: the server repeats no prompt, or gives no log-probabilities for it.
        BadReplyError: they cannot be read.
    """
    given = reply["choices"][0].get("logprobs")
    if not isinstance(given, dict) or not given.get("token_logprobs") or not given.get("text_offset"):
        raise NoLogprobsError
    places, values = given["text_offset"], given["token_logprobs"]
    try:
        if len(places) != len(values):
            raise ValueError("columns of different lengths")
        if min(places) != 0 or max(places) < start:
            raise NoLogprobsError
        return [_logprob(value) for place, value in zip(places, values, strict=True) if start <= place < end]
    except (TypeError, ValueError) as error:
        raise BadReplyError("the reply's log-probabilities have an unknown form") from error


def _word(token: Any) -> str:
    if not isinstance(token, str):
        raise TypeError("a token must be text")
    return token


def _logprob(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= 1e-6:
        raise ValueError("a log-probability must be a number of at most 0")
    return max(float(value), -1e4)  # -inf, and what servers put for it
