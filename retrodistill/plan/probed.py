"""A few judgements made now: how many tokens, seconds and how much money one of them takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from retrodistill import console
from retrodistill.candidates import Candidates
from retrodistill.errors import InputError
from retrodistill.language import accounts
from retrodistill.models import locate
from retrodistill.pipeline import Walk
from retrodistill.registry import Part
from retrodistill.scores.store import fingerprint
from retrodistill.sections import Stage
from retrodistill.teachers.asking import Asker
from retrodistill.teachers.comparing import Comparing
from retrodistill.teachers.ordering import Ordering
from retrodistill.teachers.teacher import Teacher, Window


def to_be_trained(walk: Walk, part: Part) -> bool:
    """Whether a round of this recipe makes the model of a teacher or a retriever, and has not yet."""
    made = {str(stage.place("train", name)) for stage in walk.stages for name in stage.students}
    model = str(getattr(part, "model", getattr(getattr(part, "teacher", None), "model", "")))
    return model in made and not Path(model).exists()


def measured(walk: Walk, stage: Stage, teacher: Part, candidates: Candidates | None, probe: int) -> dict[str, Any]:
    """What a judgement takes, as a line has it."""
    if to_be_trained(walk, teacher):
        return {}
    weights = sum(file.stat().st_size for file in _weights(teacher))
    some = sample(walk, stage, candidates, 8 if isinstance(teacher, Comparing | Ordering) else max(probe, 8))
    found: dict[str, Any] = {"weights": weights}
    try:
        opened = cast(Any, teacher).open(walk.collection)
        found["tokens"] = tokens = _tokens(teacher, opened, some)
        price = getattr(getattr(teacher, "model", None), "price", None)
        if price is not None and tokens is not None:
            found["cost"] = (tokens * price.input + _said(teacher) * price.output) / 1e6
        if probe and isinstance(teacher, Teacher):
            # a retriever's time is the encoding of its corpus, which mining or searching pays for
            with accounts.kept_in(walk.store.root / fingerprint(opened.identity)):
                found["seconds"] = _seconds(teacher, opened, some)
    except InputError as error:
        console.say(f"{teacher.label} is not measured: {error}")
    return found


def _said(teacher: Part) -> int:
    """Tokens of an answer: one, or an order of all that a window shows, at four a document such as `[12] > `."""
    return 4 * teacher.window if isinstance(teacher, Ordering) and teacher.kind == "listwise" else 1


def _weights(teacher: Part) -> list[Path]:
    """Files of the model's weights on this machine."""
    model = getattr(teacher, "model", None)
    name = getattr(model, "model", model)
    if not isinstance(name, str) or getattr(model, "url", None):
        return []
    if name.endswith(".gguf"):
        return [Path(name)]
    try:
        return list(locate(name).rglob("*.safetensors"))
    except InputError:
        return []


def sample(walk: Walk, stage: Stage, candidates: Candidates | None, rows: int) -> Candidates:
    """Some candidates, from queries far apart: mined ones, or queries of the split with documents by chance."""
    if candidates is not None:
        step = max(1, len(candidates.queries) // max(1, rows // 4))
        chosen = candidates.select(candidates.queries[::step])
        starts = chosen.offsets[:-1]
        stops = np.minimum(starts + 4, chosen.offsets[1:])
        taken = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])[:rows]
        return Candidates(chosen.table.take(taken))
    queries = walk.collection.query_ids(walk.recipe.data.train)
    generator = np.random.default_rng(0)
    some = [queries[int(row)] for row in generator.permutation(len(queries))[: max(1, rows // 4)]]
    count = min(4, len(walk.collection.corpus))
    found = {
        query: [
            (walk.collection.corpus.ids[int(row)], "sample", rank, 0.0, None)
            for rank, row in enumerate(generator.choice(len(walk.collection.corpus), count, replace=False), start=1)
        ]
        for query in some
    }
    return Candidates.of(found)


def _tokens(teacher: Part, opened: Any, some: Candidates) -> float | None:
    """Tokens of a judgement, by the teacher's own tokenizer; the answer is not counted."""
    if hasattr(opened, "tokens"):  # a cross-encoder
        pairs = zip(some.query_ids, some.doc_ids, strict=True)
        lengths = opened.tokens([(opened.query_text(q), opened.document_text(d)) for q, d in pairs]).lengths
        return float(np.mean(lengths))
    if isinstance(opened, Asker):
        model, sure = opened.model, opened._sure
        heard = _Listener(model)
        opened.model, opened._sure = cast(Any, heard), True
        ask(teacher, opened, some)
        opened.model, opened._sure = model, sure
        counts = heard.tokens()
        return float(np.mean(counts)) if len(counts) else None
    return None


class _Listener:
    """Stands in for a language model: it hears the prompts, and answers nothing."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._prompts: list[Any] = []

    def choices(self, prompts: Sequence[Any], choices: Sequence[str]) -> np.ndarray:
        self._prompts += prompts
        return np.full((len(prompts), len(choices)), np.nan, dtype=np.float32)

    def likelihood(self, prompts: Sequence[Any], continuations: Sequence[str]) -> np.ndarray:
        self._prompts += prompts
        return np.full(len(prompts), np.nan, dtype=np.float32)

    def generate(self, prompts: Sequence[Any], max_tokens: int) -> list[None]:
        self._prompts += prompts
        return [None] * len(prompts)

    def tokens(self) -> np.ndarray:
        """Of each prompt that was heard."""
        return cast(np.ndarray, self._model.count_tokens(self._prompts))


def ask(teacher: Part, opened: Any, some: Candidates) -> int:
    """Ask about a few candidates, whatever the form; returns how many judgements that were."""
    queries, docs, bounds = some.query_ids, some.doc_ids, some.offsets.tolist()
    if isinstance(teacher, Comparing):
        pairs = [
            (queries[row], docs[row], docs[row + 1]) for row in range(len(docs) - 1) if queries[row] == queries[row + 1]
        ]
        if pairs:
            opened.prefer(*zip(*pairs, strict=True))
        return len(pairs)
    if isinstance(teacher, Ordering):
        # few candidates, shown as often as a window has room: what is long is as long as it will be
        lists = [(queries[a], docs[a:b] * teacher.window) for a, b in pairwise(bounds)]
        opened.order([Window(query, tuple(shown[: teacher.window])) for query, shown in lists])
        return len(lists)
    opened.score(queries, docs)
    return len(docs)


def _seconds(teacher: Teacher, opened: Any, some: Candidates) -> float | None:
    """Seconds a judgement: half of a sample is judged so that all is loaded, the other is measured."""
    half = max(1, len(some.queries) // 2)
    first, rest = some.select(some.queries[:half]), some.select(some.queries[half:])
    ask(teacher, opened, first)
    if not len(rest):
        return None
    began = time.perf_counter()
    asked = ask(teacher, opened, rest)
    return (time.perf_counter() - began) / asked if asked else None
