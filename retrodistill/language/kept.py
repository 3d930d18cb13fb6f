"""What models on this machine wrote, kept as what servers answered is: asked for once, whatever kills the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from retrodistill import console
from retrodistill.files import digest_of
from retrodistill.language.accounts import Account, folder_for
from retrodistill.language.model import LanguageModel, Prompt

if TYPE_CHECKING:
    from retrodistill.language.local import LocalModel
    from retrodistill.language.sampling import Sampling

_AT_ONCE = 32


def generate(model: LanguageModel, prompts: Sequence[Prompt], max_tokens: int, what: str) -> list[str | None]:
    """Answers in words; None where the model failed.

    A model behind a server keeps its own accounts; those of a local one lie in the same kind of journal.

    Args:
        model: opened.
        prompts: what it is asked.
        max_tokens: of an answer.
        what: for the person who waits.
    """
    if not getattr(model, "local", False):
        return model.generate(prompts, max_tokens)
    keys = [digest_of([model.identity, asdict(prompt), max_tokens]) for prompt in prompts]
    return _answered(
        model.identity, keys, lambda rows: model.generate([prompts[row] for row in rows], max_tokens), what
    )


def draw(
    model: LocalModel, prompts: Sequence[Prompt], max_tokens: int, sampling: Sampling, seeds: Sequence[int], what: str
) -> list[str | None]:
    """As `generate`, of a model on this machine whose answers are drawn, each by a seed of its own."""
    how = sampling.model_dump()
    keys = [
        digest_of([model.identity, asdict(prompt), max_tokens, how, seed])
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]

    def ask(rows: list[int]) -> list[str | None]:
        return model.generate([prompts[row] for row in rows], max_tokens, sampling, [seeds[row] for row in rows])

    return _answered(model.identity, keys, ask, what)


def _answered(
    identity: dict[str, Any], keys: Sequence[str], ask: Callable[[list[int]], list[str | None]], what: str
) -> list[str | None]:
    """The answers by their keys, those that the journal lacks asked for and put into it some at a time."""
    account = Account(folder_for(identity))
    missing = list({key: row for row, key in reversed(list(enumerate(keys))) if account.answer(key) is None}.values())
    with console.progress(len(missing), what, "prompts") as bar:
        for start in range(0, len(missing), _AT_ONCE):
            rows = missing[start : start + _AT_ONCE]
            for row, answer in zip(rows, ask(rows), strict=True):
                if answer is not None:
                    account.keep(keys[row], answer)
            bar.update(len(rows))
    account.sync()
    return [account.answer(key) for key in keys]
