"""vLLM in this process: what is asked of its engine, and what is made of what it gives.

The engine is stood in for by transformers with vLLM's interface, so that answers can be held against `transformers`;
a machine with a GPU and vLLM runs the real one.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from small_decoder import CHAT, decoder

from retrodistill.errors import InputError
from retrodistill.language.local import Transformers
from retrodistill.language.model import Message, Prompt
from retrodistill.language.vllm import VLLM

PROMPTS = [Prompt("storm wind rain"), Prompt("chess"), Prompt((Message("user", "wind rain"),))]


class SamplingParams:
    def __init__(self, *, temperature, max_tokens, logprobs=None, prompt_logprobs=None):
        assert temperature == 0.0
        self.max_tokens, self.logprobs, self.prompt_logprobs = max_tokens, logprobs, prompt_logprobs


class LLM:
    """Just enough of vLLM's engine: one sequence at a time, log-probabilities of a few tokens only."""

    calls: ClassVar[list[int]] = []

    def __init__(self, model, *, load_format, trust_remote_code, dtype, max_model_len):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        assert load_format == "safetensors" and trust_remote_code is False and dtype == "float32"
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model).eval()
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=max_model_len or 64))

    def get_tokenizer(self):
        return self.tokenizer

    def generate(self, prompts, params, use_tqdm):
        LLM.calls.append(len(prompts))
        return [self._one(prompt["prompt_token_ids"], params) for prompt in prompts]

    @torch.no_grad()
    def _one(self, ids, params):
        logs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        best = logs[-1].topk(params.logprobs or 1)
        likely = {int(t): SimpleNamespace(logprob=float(v)) for v, t in zip(best.values, best.indices, strict=True)}
        prompt = None
        if params.prompt_logprobs is not None:
            own = [{t: SimpleNamespace(logprob=float(logs[place, t]))} for place, t in enumerate(ids[1:])]
            prompt = [None, *own]
        said = list(ids)
        while len(said) < len(ids) + params.max_tokens:
            said.append(int(self.model(torch.tensor([said])).logits[0, -1].argmax()))
            if said[-1] == self.tokenizer.eos_token_id:
                break
        text = self.tokenizer.decode(said[len(ids) :], skip_special_tokens=True)
        return SimpleNamespace(outputs=[SimpleNamespace(text=text, logprobs=[likely])], prompt_logprobs=prompt)


@pytest.fixture(scope="module")
def llama(tiny_model, tmp_path_factory):
    return decoder(tiny_model, tmp_path_factory.mktemp("llama"), CHAT)


@pytest.fixture
def opened(llama, monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    module.__spec__ = SimpleNamespace(name="vllm")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "vllm", module)
    LLM.calls.clear()
    return VLLM(model=llama, precision="float32").open()


def test_answers_are_those_of_transformers(opened, llama):
    plain = Transformers(model=llama).open()
    words = ["yes", "no", "bread", "storm", "chess"]
    np.testing.assert_allclose(opened.choices(PROMPTS, words), plain.choices(PROMPTS, words), atol=1e-5)
    said = ["wind storm", "", "bread"]
    np.testing.assert_allclose(opened.likelihood(PROMPTS, said), plain.likelihood(PROMPTS, said), atol=1e-5)
    assert opened.generate(PROMPTS, 4) == plain.generate(PROMPTS, 4)
    np.testing.assert_array_equal(opened.count_tokens(PROMPTS), plain.count_tokens(PROMPTS))


def test_only_unlikely_choices_are_asked_for_again(opened):
    words = [word for word in opened._tokenizer.get_vocab() if word.isalpha()][:40]
    rows = opened.choices(PROMPTS[:1], words)
    assert not np.isnan(rows).any()
    likely, unlikely = LLM.calls
    assert likely == 1 and 40 - 20 <= unlikely < 40


def test_what_cannot_be_asked_is_told(opened, llama, monkeypatch):
    with pytest.raises(InputError, match="begin with the same token"):
        opened.choices(PROMPTS, ["storm wind", "storm rain"])
    with pytest.raises(InputError, match=r"70 tokens, more than the 64 positions"):
        opened.choices([Prompt("storm " * 70)], ["yes", "no"])
    with pytest.raises(InputError, match="runs code of the model's authors"):
        VLLM(model=llama, engine={"trust_remote_code": True}).check()
    monkeypatch.delitem(sys.modules, "vllm")
    with pytest.raises(InputError, match=r"pip install 'retrodistill\[vllm\]'"):
        VLLM(model=llama).check()


def test_where_it_runs_decides_nothing_but_how_it_computes_does(opened, llama):
    def identity(**engine):
        return VLLM(model=llama, precision="float32", engine=engine).open().identity

    assert identity() == identity(tensor_parallel_size=2) == opened.identity
    for engine in ({"quantization": "fp8"}, {"kv_cache_dtype": "fp8"}, {"dtype": "bfloat16"}):
        assert identity(**engine) != opened.identity


@pytest.mark.gpu
def test_the_real_engine_agrees(llama):
    pytest.importorskip("vllm")
    if not torch.cuda.is_available():
        pytest.skip("vLLM wants a GPU")
    real, plain = VLLM(model=llama, precision="float32").open(), Transformers(model=llama).open()
    np.testing.assert_allclose(real.choices(PROMPTS, ["yes", "no"]), plain.choices(PROMPTS, ["yes", "no"]), atol=1e-3)
