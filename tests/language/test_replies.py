"""What servers reply is read in each of its forms, and nothing is read that is not there."""

from __future__ import annotations

import contextlib
import json
from email.utils import formatdate
from time import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.language import replies
from retrodistill.language.calls import _retry_after

YES_NO = [("Yes", -0.1), (" Yes", -3.0), ("no", -4.0), (" No", -5.0), ("Y", -6.0)]


def test_a_choice_is_its_very_token_before_all_others():
    assert replies.choice_logprobs(YES_NO, ["Yes", "No"]) == [-0.1, -5.0]
    assert replies.choice_logprobs(YES_NO, [" Yes", " No"]) == [-3.0, -5.0]


def test_a_choice_may_begin_with_the_token_that_begins_no_other():
    tokens = [("Per", -0.2), ("R", -2.0), ("Not", -3.0)]
    found = replies.choice_logprobs(tokens, ["Perfectly relevant", "Relevant", "Related", "Not relevant"])
    assert found == [-0.2, -3.0, -3.0, -3.0]  # R begins two; they get the least that is listed
    assert replies.choice_logprobs([("1", -0.5), ("10", -1.0)], ["1", "10"]) == [-0.5, -1.0]
    with pytest.raises(replies.UnclearError):
        replies.choice_logprobs([("Maybe", -0.1)], ["Yes", "No"])


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Yes", 0), (" yes.", 0), ('"No"', 1), ("**No**, because", 1), ("Yesterday", None), ("I think Yes", None), ("", None),
    ],
)  # fmt: skip
def test_a_label_in_words(said, found):
    with pytest.raises(replies.UnclearError) if found is None else contextlib.nullcontext():
        assert replies.chosen(said, ["Yes", "No"]) == found


def test_the_longest_label_counts_and_case_only_where_it_matters():
    assert replies.chosen("10 of 10", ["1", "10"]) == 1
    assert replies.chosen("a", ["A", "a"]) == 1
    assert replies.chosen("Highly relevant", ["Highly", "Highly relevant"]) == 1


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4) | st.just(10**400) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["choices", "message", "content", "text", "logprobs", "top_logprobs", "token", "logprob", "index", "usage", "prompt_tokens", "text_offset", "token_logprobs"]), inner, max_size=4),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_comes_is_read_or_refused_and_never_breaks(content):
    assert replies.usage(content, {"prompt": "four"}).prompt >= 0
    for read in (replies.text, replies.first_token, lambda reply: replies.echoed_logprobs(reply, 1, 3)):
        with contextlib.suppress(replies.BadReplyError):
            found = read(replies.parse(content))
            assert found is not None
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode()  # as the journal has it


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"usage": {"prompt_tokens": 1e999}}', b"\xff", b"1" * 10_000])
def test_what_no_parser_takes_is_refused(content):
    assert not replies.usage(content, {"prompt": "four"}).counted
    with pytest.raises(replies.BadReplyError):
        replies.parse(content)


def test_retry_after_is_seconds_or_a_date():
    assert _retry_after({"retry-after": "7"}) == 7
    assert _retry_after({"retry-after": formatdate(time() + 30, usegmt=True)}) == pytest.approx(30, abs=2)
    assert _retry_after({"retry-after": "soon"}) is None and _retry_after({}) is None
    assert _retry_after({"retry-after": "1e9"}) == 3600
    assert _retry_after({"retry-after": "nan"}) is None
