"""A model behind a server: what it says is what comes out, whatever the server does on the way."""

from __future__ import annotations

import asyncio
import json
import math
import random

import numpy as np
import pytest
from chaos_server import MISHAPS, ChaosServer, truth

from retrodistill.errors import InputError
from retrodistill.language import accounts
from retrodistill.language.model import Message, Prompt
from retrodistill.language.remote import OpenAI
from retrodistill.recipe import part

KEY = "sk-very-secret-4711"


def chats(count: int) -> list[Prompt]:
    return [Prompt((Message("system", "Judge."), Message("user", f"query and document {n}"))) for n in range(count)]


def opened(server: ChaosServer, **options):
    quick = {"timeout_s": 0.5, "backoff_s": 0.001, "retries": 30}
    return OpenAI(**{"model": "judge", "url": server.url, **quick, **options}).open()


def expected(prompts: list[Prompt]) -> np.ndarray:
    texts = [p.messages if isinstance(p.messages, str) else p.messages[-1].content for p in prompts]
    return np.array([[math.log(truth(text)), math.log(1 - truth(text))] for text in texts], dtype=np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path):
    with accounts.kept_in(tmp_path / "account"):
        yield tmp_path / "account"


@pytest.mark.parametrize("seed", [0, 1])
def test_every_prompt_is_judged_rightly_whatever_goes_wrong_on_the_way(seed, folder):
    def mishap(prompt, attempt):
        draw = random.Random(f"{seed} {prompt} {attempt}")
        # the first answer names the model for good, so it is whole
        return draw.choice(MISHAPS) if folder.joinpath("server.json").exists() and draw.random() < 0.5 else None

    prompts = chats(40)
    with ChaosServer(mishap) as server:
        found = opened(server).choices(prompts, ["Yes", "No"])
    np.testing.assert_allclose(found, expected(prompts), rtol=1e-6)
    assert set(server.answered.values()) == {1}
    assert server.asked.total() > 45


@pytest.mark.parametrize("mishap", MISHAPS)
def test_what_fails_each_time_is_a_failure_and_the_others_are_not(mishap, capsys):
    prompts = chats(6)
    with ChaosServer(lambda prompt, _: mishap if prompt.endswith("3") else None) as server:
        found = opened(server, retries=2, timeout_s=0.3).choices(prompts, ["Yes", "No"])
    assert np.isnan(found).all(axis=1).tolist() == [False, False, False, True, False, False]
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(expected(prompts), 3, 0), rtol=1e-6)
    assert server.asked["query and document 3"] == 3
    assert "1 of 6 requests failed" in capsys.readouterr().err


def test_a_request_that_is_wrong_is_not_repeated():
    with ChaosServer(lambda prompt, _: "400" if prompt.endswith("3") else None) as server:
        found = opened(server).choices(chats(5), ["Yes", "No"])
    assert np.isnan(found[:, 0]).tolist() == [False, False, False, True, False]
    assert server.asked["query and document 3"] == 1


def test_nothing_answered_is_asked_again_by_another_process_or_for_another_copy(folder):
    prompts = chats(8)
    with ChaosServer() as server:
        first = opened(server).choices([*prompts[:5], *prompts[:5]], ["Yes", "No"])
        # the last line is torn, as by a power cut
        path = folder / accounts.ANSWERS
        path.write_bytes(path.read_bytes()[:-7])
        again = opened(server).choices(prompts, ["Yes", "No"])
        third = opened(server).choices(prompts, ["Yes", "No"])
        opened(server).choices(prompts[:1], ["No", "Yes"])
        opened(server, revision="b").choices(prompts[:1], ["Yes", "No"])
    np.testing.assert_array_equal(first[:5], first[5:])
    np.testing.assert_array_equal(again, third)
    np.testing.assert_allclose(again, expected(prompts), rtol=1e-6)
    torn = [prompt for prompt, count in server.answered.items() if count == 2 and not prompt.endswith(" 0")]
    assert len(torn) <= 1
    assert server.answered.total() == 8 + 1 + 2


def test_tokens_and_money_are_in_the_ledger_and_no_texts_are(folder):
    price = {"input": 2.0, "output": 8.0, "cached": 0.5}
    with ChaosServer(lambda prompt, attempt: "500" if attempt == 0 and prompt.endswith("1") else None) as server:
        opened(server, price=price).choices(chats(3), ["Yes", "No"])
    total = accounts.total(folder)
    assert (total.requests, total.answered, total.prompt_tokens, total.cached_tokens) == (4, 3, 30, 12)
    assert total.cost == pytest.approx(3 * (6 * 2.0 + 4 * 0.5 + 2 * 8.0) / 1e6)
    ledger = (folder / accounts.CALLS).read_text()
    assert "document" not in ledger and "Judge" not in ledger
    assert [json.loads(line)["outcome"] for line in ledger.splitlines()].count("status 500") == 1


def test_no_more_requests_than_asked_for_are_under_way():
    with ChaosServer(delay=0.05) as server:
        opened(server, concurrency=3).choices(chats(12), ["Yes", "No"])
    assert server.most_under_way == 3


def test_prompts_that_begin_alike_stand_together():
    prompts = [Prompt(f"{query} {document}") for document in "abc" for query in ("one", "two")]
    with ChaosServer() as server:
        opened(server, concurrency=1).choices(prompts, ["Yes", "No"])
    assert [body["prompt"] for body in server.requests] == sorted(body["prompt"] for body in server.requests)


def test_plain_text_goes_to_completions_and_its_columns_are_read():
    prompts = [Prompt(f"plain {n}") for n in range(3)]
    with ChaosServer() as server:
        found = opened(server).choices(prompts, ["Yes", "No"])
    np.testing.assert_allclose(found, expected(prompts), rtol=1e-6)


def test_labels_in_words_get_0_and_the_others_the_floor():
    said = {
        "query and document 0": " **Yes**, it does.",
        "query and document 1": "no",
        "query and document 2": "Perhaps",
    }
    with ChaosServer(logprobs=False, words=said.__getitem__) as server:
        found = opened(server, answers="text", floor=-7).choices(chats(3), ["Yes", "No"])
    np.testing.assert_array_equal(found, np.array([[0, -7], [-7, 0], [np.nan, np.nan]], np.float32))


def test_an_answer_that_names_nothing_is_asked_again_in_the_next_run_only(folder):
    said = dict.fromkeys(("query and document 0", "query and document 2"), "Yes") | {"query and document 1": "Perhaps"}
    with ChaosServer(logprobs=False, words=said.__getitem__) as server:
        model = opened(server, answers="text")
        assert np.isnan(model.choices(chats(3), ["Yes", "No"])[1]).all()
        assert model.reasons == ["", "the answer names none of what was asked for", ""]
        assert server.asked["query and document 1"] == 1
        said["query and document 1"] = "No"
        found = opened(server, answers="text", floor=-7).choices(chats(3), ["Yes", "No"])
        assert opened(server, answers="text").choices(chats(3), ["Yes", "No"])[1].tolist() == [-10, 0]
    assert found[1].tolist() == [-7, 0]
    assert accounts.total(folder).requests == 3 + 3 + 1


def test_a_model_that_names_nothing_from_the_first_is_left_after_a_few():
    with ChaosServer(logprobs=False, words=lambda _: "Perhaps") as server:
        with pytest.raises(InputError, match=r"names none of what was asked for, 20 times.*look at the template"):
            opened(server, answers="text", concurrency=1).choices(chats(40), ["Yes", "No"])
        assert server.asked.total() == 20


def test_halves_of_surrogate_pairs_are_replaced(folder):
    with ChaosServer(words=lambda _: "Yes \ud83d") as server:
        assert opened(server).generate(chats(1), 4) == ["Yes ?"]
        assert opened(server).generate(chats(1), 4) == ["Yes ?"]
        assert server.asked.total() == 1


def test_a_server_without_logprobs_is_told_clearly_and_soon():
    with ChaosServer(logprobs=False) as server:
        with pytest.raises(InputError, match="gives no log-probabilities; with `answers: text`"):
            opened(server, retries=2).choices(chats(50), ["Yes", "No"])
        with pytest.raises(InputError, match="a likelihood needs `echo`"):
            opened(server, retries=2).likelihood([Prompt("a b")] * 3, [" c", " d", " e"])
    assert server.asked.total() == 6


def test_the_likelihood_is_the_mean_over_the_continuations_tokens():
    with ChaosServer() as server:
        model = opened(server)
        found = model.likelihood([Prompt("a document"), Prompt("another")], [" asks this", " x"])
        with pytest.raises(InputError, match="plain text"):
            model.likelihood(chats(1), ["x"])
    np.testing.assert_allclose(found, [-(5 + 5) / 2, -2], rtol=1e-6)


def test_words_come_back_as_they_are_and_none_where_there_are_none():
    with ChaosServer(words=lambda prompt: "[2] > [1]" if prompt.endswith("0") else " ") as server:
        assert opened(server, retries=1).generate(chats(2), 20) == ["[2] > [1]", None]
    assert {body["max_tokens"] for body in server.requests} == {20}


def test_options_reach_the_server_and_the_identity_says_what_decides():
    options = {"body": {"chat_template_kwargs": {"enable_thinking": False}}, "token_limit": "max_completion_tokens"}
    with ChaosServer() as server:
        model = opened(server, temperature=None, **options)
        model.choices(chats(1), ["Yes", "No"])
    (body,) = server.requests
    assert body["max_completion_tokens"] == 1 and "temperature" not in body and "max_tokens" not in body
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    here, there = (OpenAI(model="m", url=url).open().identity for url in ("http://a", "http://b"))
    assert here == there
    assert OpenAI(model="m", url="http://a", url_decides=True).open().identity != here
    assert OpenAI(model="m", url="http://a", revision="2").open().identity != here
    assert OpenAI(model="m", url="http://a", concurrency=99, timeout_s=1).open().identity == here


def test_a_key_is_sent_and_written_nowhere(monkeypatch, tmp_path, folder, capsys):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with ChaosServer(key=KEY) as server:
        asked = OpenAI(model="judge", url=server.url, key_env="JUDGE_KEY", backoff_s=0.001)
        model = asked.open()
        model.choices(chats(3), ["Yes", "No"])
        monkeypatch.setenv("JUDGE_KEY", KEY + "-wrong")
        with pytest.raises(InputError, match="status 401") as refused:
            asked.open().choices(chats(4), ["Yes", "No"])
        server.key = None
        server.mishap = lambda prompt, attempt: "500"
        asked.model_copy(update={"retries": 1}).open().choices(chats(5), ["Yes", "No"])
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}", f"Bearer {KEY}-wrong"}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    shown = "".join(capsys.readouterr())
    for said in (
        str(refused.value),
        repr(refused.value.__context__),
        shown,
        repr(model.__dict__),
        repr(model._caller.terms),
    ):
        assert KEY not in said
    assert KEY.encode() not in written and written
    assert KEY not in json.dumps(model.identity) and KEY not in asked.model_dump_json()


def test_a_missing_key_and_a_key_in_the_wrong_place_are_told_without_it(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(InputError, match="JUDGE_KEY is not set"):
        OpenAI(model="m", url="http://a", key_env="JUDGE_KEY").check()
    for options in ({"key_env": KEY}, {"url": f"http://user:{KEY}@host/v1"}, {"url": f"http://host/v1?key={KEY}"}):
        with pytest.raises(InputError) as told:
            part("language_model", {"kind": "openai", "model": "m", "url": "http://a", **options})
        assert KEY not in str(told.value)


@pytest.mark.parametrize(
    "body", [{"api_key": KEY}, {"extra_headers": {"Authorization": KEY}}, {"a": [{"X-API-Key": KEY}]}]
)
def test_a_key_in_the_body_is_refused_without_it(body):
    with pytest.raises(InputError, match="key_env") as told:
        part("language_model", {"kind": "openai", "model": "m", "url": "http://a", "body": body})
    assert KEY not in str(told.value)


def test_a_key_that_no_header_takes_is_told_without_it(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\N{EN DASH}")
    with pytest.raises(InputError, match="JUDGE_KEY holds characters") as told:
        OpenAI(model="m", url="http://a", key_env="JUDGE_KEY").check()
    assert KEY not in str(told.value)


def test_a_server_that_is_not_there_is_told_at_once():
    with ChaosServer() as server:
        pass
    with pytest.raises(InputError, match="cannot be reached"):
        opened(server, retries=1).choices(chats(50), ["Yes", "No"])


def test_a_server_that_answers_nothing_is_left_after_a_few():
    refused = pytest.raises(InputError, match=r"status 400 \(no\).*no request was answered")
    with ChaosServer(lambda prompt, attempt: "400") as server, refused:
        opened(server).choices(chats(100), ["Yes", "No"])
    assert server.asked.total() <= 30


def test_it_works_where_an_event_loop_runs(folder):
    async def notebook():
        return opened(server).choices(chats(3), ["Yes", "No"])

    with ChaosServer() as server:
        found = asyncio.run(notebook())
    np.testing.assert_allclose(found, expected(chats(3)), rtol=1e-6)
    assert (folder / accounts.ANSWERS).exists()


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("https://host/api/v1/", "https://host/api/v1"),
    ],
)
def test_an_address_without_a_path_is_that_of_v1(url, made):
    assert OpenAI(model="m", url=url).url == made


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_address_is_told(url):
    with pytest.raises(ValueError, match="expected an address"):
        OpenAI(model="m", url=url)
