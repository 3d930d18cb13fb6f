"""What models on this machine wrote, kept as what servers answered is: asked for once, whatever kills the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from retrodistill import console
from retrodistill.files import digest_of
from retrodistill.language.accounts import Account, folder_for
from retrodistill.language.model import LanguageModel, Prompt

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
    account = Account(folder_for(model.identity))
    keys = [digest_of([model.identity, asdict(prompt), max_tokens]) for prompt in prompts]
    missing = list({key: row for row, key in reversed(list(enumerate(keys))) if account.answer(key) is None}.values())
    with console.progress(len(missing), what, "prompts") as bar:
        for start in range(0, len(missing), _AT_ONCE):
            rows = missing[start : start + _AT_ONCE]
            for row, answer in zip(rows, model.generate([prompts[row] for row in rows], max_tokens), strict=True):
                if answer is not None:
                    account.keep(keys[row], answer)
            bar.update(len(rows))
    account.sync()
    return [account.answer(key) for key in keys]
