"""Language models on this machine, through transformers: decoders and T5-like encoder-decoders, GGUF files too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from retrodistill import models
from retrodistill.encoders.common import Precision, autocast, device_of, quiet_libraries, token_batches
from retrodistill.errors import InputError
from retrodistill.files import digest_of_file
from retrodistill.language.model import Prompt
from retrodistill.language.prompts import first_tokens, tokens_of
from retrodistill.language.sampling import Drawn, Sampling
from retrodistill.registry import Part

if TYPE_CHECKING:
    from torch import Tensor

# Logits that may be held at once, texts x positions x vocabulary.
_CELLS = {"cpu": 2**24, "cuda": 2**28}


class Transformers(Part):
    """A language model on this machine: a folder or Hub name with safetensors, or the path of a GGUF file."""

    argument: ClassVar[str | None] = "model"
    kind: Literal["transformers"] = "transformers"
    model: str = Field(min_length=1, description="a folder, a Hub name or a .gguf file")
    precision: Precision = "fp32"
    batch_tokens: int = Field(4_096, ge=1, description="tokens computed at once; changes memory, not what is found")

    @property
    def gguf(self) -> Path | None:
        """The GGUF file, where it is one."""
        return Path(self.model).expanduser() if self.model.endswith(".gguf") else None

    def check(self) -> None:
        """Find the model."""
        if self.gguf is None:
            models.locate(self.model)
            return
        if not self.gguf.is_file():
            raise InputError(f"language model {self.model!r}: there is no such GGUF file")
        if find_spec("gguf") is None:
            raise InputError("a GGUF file needs the package gguf; pip install 'retrodistill[gguf]'")

    def open(self) -> LocalModel:
        """Find the model; its weights are loaded when first needed."""
        self.check()
        return LocalModel(self)


class LocalModel:
    """A language model of transformers; the same answers in whatever batches."""

    local: ClassVar[bool] = True

    def __init__(self, options: Transformers) -> None:
        self.options = options

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Weights, tokenizer and template among them, and precision."""
        gguf = self.options.gguf
        weights = models.digest(self.options.model) if gguf is None else digest_of_file(gguf)
        return {"kind": "transformers", "weights": weights, "precision": self.options.precision}

    @property
    def _folder(self) -> Path:
        return self.options.gguf.parent if self.options.gguf is not None else models.locate(self.options.model)

    @property
    def _source(self) -> dict[str, Any]:
        gguf = self.options.gguf
        return {"local_files_only": True, "trust_remote_code": False, **({"gguf_file": gguf.name} if gguf else {})}

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, which pads on the left of decoders' prompts.

        Raises:
            InputError: it cannot be loaded.
        """
        quiet_libraries()
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self._folder, **self._source)
        except Exception as error:
            raise self._broken(error) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer

    @cached_property
    def model(self) -> Any:
        """The model with its language-model head: in float32, but for the weights of products where these are bf16.

        Raises:
            InputError: it cannot be loaded.
        """
        quiet_libraries()
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        try:
            config = AutoConfig.from_pretrained(self._folder, **self._source)
            family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            safe = {} if self.options.gguf else {"use_safetensors": True}
            model = family.from_pretrained(self._folder, dtype=torch.float32, **safe, **self._source)
        except Exception as error:
            raise self._broken(error) from error
        if self.options.precision == "bf16":
            _narrow(model)
        return model.to(device_of(None)).eval()

    def _broken(self, error: Exception) -> InputError:
        return InputError(
            f"language model {self.options.model!r} cannot be loaded from {self._folder}: "
            f"{type(error).__name__}: {error}"
        )

    @property
    def _encodes(self) -> bool:
        return bool(self.model.config.is_encoder_decoder)

    def choices(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """Log-probabilities of the choices' first tokens behind each prompt, float32 (prompts, choices).

        Raises:
            InputError: two choices begin with the same token, or a prompt is longer than the model's positions.
        """
        import torch

        first = first_tokens(self.tokenizer, choices, self.options.model)
        rows = np.empty((len(prompts), len(first)), dtype=np.float32)
        for places, logits in self._next([self._tokens(prompt) for prompt in prompts]):
            rows[places] = torch.log_softmax(logits.float(), dim=-1)[:, first].cpu().numpy()
        return rows

    def likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> np.ndarray:
        """Mean log-probability of the tokens of continuations, float32 (n,); NaN for one without tokens."""
        read = [self._tokens(prompt) for prompt in prompts]
        said = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in continuations]
        values = np.full(len(read), np.nan, dtype=np.float32)
        told = [row for row, tokens in enumerate(said) if tokens]
        for places in self._batches([len(read[row]) + len(said[row]) for row in told]):
            rows = [told[place] for place in places]
            longest = max(len(said[row]) for row in rows)
            at_once = max(1, _CELLS[self._where] // ((longest + 1) * int(self.model.config.vocab_size)))
            for start in range(0, len(rows), at_once):
                part = rows[start : start + at_once]
                values[part] = self._mean_logs([read[row] for row in part], [said[row] for row in part])
        return values

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int,
        sampling: Sampling | None = None,
        seeds: Sequence[int] = (),
    ) -> list[str | None]:
        """What the model says, the likeliest token at each step, or one that is drawn, by a seed for each prompt."""
        import torch

        read = [self._tokens(prompt) for prompt in prompts]
        said: list[str | None] = [None] * len(read)
        for places in self._batches([len(tokens) + max_tokens for tokens in read]):
            inputs = self._padded([read[place] for place in places], left=not self._encodes)
            drawn = [] if sampling is None else [Drawn(sampling, [seeds[place] for place in places])]
            with torch.inference_mode(), self._autocast():
                found = self.model.generate(
                    **inputs,
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    pad_token_id=self.tokenizer.pad_token_id,
                    logits_processor=drawn,
                )
            kept = found[:, 1 if self._encodes else inputs["input_ids"].shape[1] :]
            for place, text in zip(places, self.tokenizer.batch_decode(kept, skip_special_tokens=True), strict=True):
                said[place] = text.strip()
        return said

    def count_tokens(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Tokens of prompts, int64 (prompts,)."""
        return np.array([len(self._tokens(prompt)) for prompt in prompts], dtype=np.int64)

    @property
    def _where(self) -> str:
        return "cuda" if str(self.model.device).startswith("cuda") else "cpu"

    def _autocast(self) -> Any:
        return autocast(str(self.model.device), self.options.precision)

    def _batches(self, lengths: Sequence[int]) -> Iterator[np.ndarray]:
        yield from token_batches(list(lengths), self.options.batch_tokens)

    def _tokens(self, prompt: Prompt) -> list[int]:
        positions = getattr(self.model.config, "max_position_embeddings", None)
        known = positions if isinstance(positions, int) else None
        return tokens_of(self.tokenizer, prompt, self.options.model, known)

    def _padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> dict[str, Tensor]:
        import torch

        width = max(map(len, rows))
        ids = torch.full((len(rows), width), int(self.tokenizer.pad_token_id or 0))
        mask = torch.zeros((len(rows), width), dtype=torch.int64)
        for row, tokens in enumerate(rows):
            place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
            ids[row, place], mask[row, place] = torch.tensor(tokens), 1
        return {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}

    def _decoder_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Positions count from a prompt's first token, wherever the padding ends."""
        positions = inputs["attention_mask"].cumsum(-1) - 1
        return {**inputs, "position_ids": positions.clamp(min=0)}

    def _next(self, read: Sequence[list[int]]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Logits of what comes next, (prompts, vocabulary), for some places at a time."""
        import torch

        for places in self._batches([len(tokens) for tokens in read]):
            inputs = self._padded([read[place] for place in places], left=not self._encodes)
            with torch.inference_mode(), self._autocast():
                if self._encodes:
                    start = torch.full((len(places), 1), int(self.model.config.decoder_start_token_id))
                    logits = self.model(**inputs, decoder_input_ids=start.to(self.model.device)).logits
                else:
                    logits = self.model(**self._decoder_inputs(inputs), logits_to_keep=1, use_cache=False).logits
            yield places, logits[:, -1]

    def _mean_logs(self, read: Sequence[list[int]], said: Sequence[list[int]]) -> np.ndarray:
        import torch

        longest = max(map(len, said))
        targets = self._padded(said, left=not self._encodes)
        with torch.inference_mode(), self._autocast():
            if self._encodes:
                inputs = self._padded(read, left=False)
                start = torch.full((len(said), 1), int(self.model.config.decoder_start_token_id))
                before = torch.cat([start.to(self.model.device), targets["input_ids"][:, :-1]], dim=1)
                logits = self.model(**inputs, decoder_input_ids=before).logits
            else:
                inputs = self._padded([[*a, *b] for a, b in zip(read, said, strict=True)], left=True)
                found = self.model(**self._decoder_inputs(inputs), logits_to_keep=longest + 1, use_cache=False).logits
                logits = found[:, -longest - 1 : -1]
            logs = torch.log_softmax(logits.float(), dim=-1).gather(2, targets["input_ids"][..., None])[..., 0]
        mask = targets["attention_mask"].bool()
        return (logs.masked_fill(~mask, 0).sum(1) / mask.sum(1)).cpu().numpy()


def _narrow(model: Any) -> None:
    """Round weights once that autocast would round at each call, which is all that a step of generating costs."""
    import torch

    for module in model.modules():
        if type(module) is torch.nn.Linear:
            # its own, where the head shares its weights with the embeddings, which stay as they are
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False))


LANGUAGE_MODELS = {"transformers": Transformers}
