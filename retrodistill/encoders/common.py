"""Where and in what pieces encoders compute: devices, precision, batches of like length."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from retrodistill.errors import InputError

Role = Literal["query", "document"]
Precision = Literal["fp32", "bf16"]
TrainPrecision = Literal["fp32", "bf16", "fp16"]

# On a CPU, large outputs lose speed to page faults (1,024 to 2,048 tokens were best); a GPU wants more at once.
TOKENS_A_BATCH = {"cpu": 2_048, "cuda": 65_536}


def tokens_a_batch(device: str) -> int:
    """How many tokens to compute at once on a device."""
    return TOKENS_A_BATCH["cuda" if device.startswith("cuda") else "cpu"]


def device_of(name: str | None) -> str:
    """The device to compute on: the one asked for, else a GPU where there is one; under torchrun the process's own."""
    import torch

    if name is None:
        number = os.environ.get("LOCAL_RANK")
        gpu = "cuda" if number is None else f"cuda:{number}"
        return gpu if torch.cuda.is_available() else "cpu"
    try:
        torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is not known to torch; use cpu, cuda or cuda:N") from error
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but torch sees no GPU here; use cpu")
    return name


def autocast(device: str, precision: TrainPrecision) -> contextlib.AbstractContextManager[Any]:
    """Run matrix products in half precision where asked for; everything else stays float32."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device_type=torch.device(device).type, dtype=half)


def quiet_libraries() -> None:
    """Keep the progress bars and warnings of transformers away from ours."""
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[np.ndarray]:
    """Rows in batches of like length, the longest first, each padded to at most `budget` tokens.

    The first batch is the largest in memory, so that a machine too small for the work shows it at once.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size
