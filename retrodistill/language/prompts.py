"""Prompts as the tokens that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrodistill.errors import InputError
from retrodistill.language.model import Prompt


def tokens_of(tokenizer: Any, prompt: Prompt, model: str, positions: int | None) -> list[int]:
    """A prompt's tokens, a chat in the model's own template.

    Args:
        tokenizer: of transformers.
        prompt: plain text or a chat.
        model: its name, for messages.
        positions: how many tokens the model reads at most, where that is known.

    Raises:
        InputError: the model has no chat template, or the prompt is too long for it.
    """
    if isinstance(prompt.messages, str):
        read = tokenizer(prompt.messages)["input_ids"]
    else:
        if not tokenizer.chat_template:
            raise InputError(
                f"language model {model!r} has no chat template; choose a teacher's template of plain text "
                "(`chat: false`), or an instruction-tuned model"
            )
        turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        read = tokenizer(text, add_special_tokens=False)["input_ids"]
    if positions is not None and len(read) > positions:
        raise InputError(
            f"a prompt has {len(read):,} tokens, more than the {positions:,} positions of {model!r}; "
            "lower the teacher's max_words"
        )
    return list(read)


def first_tokens(tokenizer: Any, choices: Sequence[str], model: str) -> list[int]:
    """The first token of each choice.

    Raises:
        InputError: two choices begin with the same token.
    """
    first = [tokenizer(choice, add_special_tokens=False)["input_ids"][0] for choice in choices]
    if len(set(first)) < len(first):
        raise InputError(f"{list(choices)} begin with the same token of {model!r}, which cannot tell them apart")
    return first
