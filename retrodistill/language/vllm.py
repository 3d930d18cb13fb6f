"""Language models in this process through vLLM, for machines with GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, JsonValue

from retrodistill import models
from retrodistill.encoders.common import quiet_libraries
from retrodistill.errors import InputError
from retrodistill.language.model import Prompt
from retrodistill.language.prompts import first_tokens, tokens_of
from retrodistill.registry import Part

# What vLLM gives of the likeliest next tokens unless it is told otherwise.
_LIKELIEST = 20

# Options of the engine that say where and in what portions it computes.
_SPREADING = frozenset(
    {
        "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend",
        "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "block_size", "swap_space",
        "cpu_offload_gb", "enforce_eager", "enable_prefix_caching", "enable_chunked_prefill", "disable_log_stats",
        "download_dir",
    }
)  # fmt: skip


class VLLM(Part):
    """A language model in this process through vLLM: the same answers as `transformers`, in large batches on GPUs.

    `engine` holds further options of vLLM's engine, such as `{tensor_parallel_size: 2, gpu_memory_utilization: 0.8}`.
    """

    argument: ClassVar[str | None] = "model"
    kind: Literal["vllm"] = "vllm"
    model: str = Field(min_length=1, description="a folder or a Hub name, with safetensors")
    precision: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_length: int | None = Field(None, ge=16, description="tokens of a prompt and its answer; less takes less memory")
    engine: dict[str, JsonValue] = Field(default_factory=dict, description="further options of vLLM's engine")

    def check(self) -> None:
        """Find the model and the package."""
        models.locate(self.model)
        if find_spec("vllm") is None:
            raise InputError("language_model vllm needs the package vllm; pip install 'retrodistill[vllm]'")
        if "trust_remote_code" in self.engine:
            raise InputError("engine: trust_remote_code runs code of the model's authors, which is not done here")

    def open(self) -> InProcess:
        """Find the model; its weights are loaded when first needed."""
        self.check()
        return InProcess(self)


class InProcess:
    """A model that vLLM runs."""

    local: ClassVar[bool] = True

    def __init__(self, options: VLLM) -> None:
        self.options = options

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Weights, precision and what the engine is told, but for how it spreads the work, which decides nothing."""
        options = self.options
        told = {name: value for name, value in options.engine.items() if name not in _SPREADING}
        known = {"quantization": told.pop("quantization")} if told.get("quantization") is not None else {}
        known |= {"engine": told} if told else {}
        return {"kind": "vllm", "weights": models.digest(options.model), "precision": options.precision, **known}

    @cached_property
    def _llm(self) -> Any:
        quiet_libraries()
        from vllm import LLM

        options = self.options
        settings = {"dtype": options.precision, "max_model_len": options.max_length, **options.engine}
        try:
            return LLM(
                str(models.locate(options.model)), load_format="safetensors", trust_remote_code=False, **settings
            )
        except Exception as error:  # whatever an engine meets, the user needs the model's name
            raise InputError(
                f"language model {options.model!r} cannot be loaded by vLLM: {type(error).__name__}: {error}"
            ) from error

    @cached_property
    def _tokenizer(self) -> Any:
        return self._llm.get_tokenizer()

    def choices(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """Log-probabilities of the choices' first tokens behind each prompt, float32 (prompts, choices).

        They are looked for among the likeliest next tokens; those that are not there are asked for one by one.

        Raises:
            InputError: two choices begin with the same token, or a prompt is too long.
        """
        first, read = first_tokens(self._tokenizer, choices, self.options.model), self._read(prompts)
        rows = np.full((len(read), len(first)), np.nan, dtype=np.float32)
        for row, output in zip(rows, self._asked(read, max_tokens=1, logprobs=_LIKELIEST), strict=True):
            known = output.outputs[0].logprobs[0]
            row[:] = [known[token].logprob if token in known else np.nan for token in first]
        unlikely = [(row, column) for row, column in zip(*np.nonzero(np.isnan(rows)), strict=True)]
        asked = self._asked([[*read[row], first[column]] for row, column in unlikely], max_tokens=1, prompt_logprobs=0)
        for (row, column), output in zip(unlikely, asked, strict=True):
            rows[row, column] = _own(output.prompt_logprobs[-1], first[column])
        return rows

    def likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> np.ndarray:
        """Mean log-probability of the tokens of continuations, float32 (n,); NaN for one without tokens."""
        read = self._read(prompts)
        said = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in continuations]
        values = np.full(len(read), np.nan, dtype=np.float32)
        told = [row for row, tokens in enumerate(said) if tokens]
        asked = self._asked([[*read[row], *said[row]] for row in told], max_tokens=1, prompt_logprobs=0)
        for row, output in zip(told, asked, strict=True):
            places = zip(output.prompt_logprobs[-len(said[row]) :], said[row], strict=True)
            values[row] = np.mean([_own(place, token) for place, token in places])
        return values

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[str | None]:
        """What the model says, the likeliest token at each step."""
        return [output.outputs[0].text.strip() for output in self._asked(self._read(prompts), max_tokens=max_tokens)]

    def count_tokens(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Tokens of prompts, int64 (prompts,)."""
        return np.array([len(tokens) for tokens in self._read(prompts)], dtype=np.int64)

    def _read(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        positions = self._llm.llm_engine.model_config.max_model_len
        return [tokens_of(self._tokenizer, prompt, self.options.model, positions) for prompt in prompts]

    def _asked(self, tokens: Sequence[Sequence[int]], **settings: Any) -> list[Any]:
        from vllm import SamplingParams

        if not tokens:
            return []
        asked = [{"prompt_token_ids": list(each)} for each in tokens]
        return self._llm.generate(asked, SamplingParams(temperature=0.0, **settings), use_tqdm=False)


def _own(place: Mapping[int, Any], token: int) -> float:
    """The log-probability of the token that stands at a place."""
    return float(place[token].logprob)


LANGUAGE_MODELS = {"vllm": VLLM}
