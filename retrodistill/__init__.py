"""Distil rerankers into retrievers: mine, score, train, index, evaluate.

    import retrodistill as rd
    results = rd.run("recipes/quickstart.yaml", "train.epochs=2")
    print(results["student"].metrics["nDCG@10"])

Names are loaded when they are first used, so that `import retrodistill` costs nothing.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrodistill.evaluation.protocol import Evaluation

_WHERE = {
    "open_collection": "retrodistill.collections",
    "mine": "retrodistill.mining",
    "Candidates": "retrodistill.candidates",
    "judge": "retrodistill.teachers.judging",
    "ScoreStore": "retrodistill.scores.store",
    "teacher_scores": "retrodistill.steps",
    "train": "retrodistill.training.train",
    "TrainOptions": "retrodistill.training.options",
    "write_index": "retrodistill.retrieval.indexed",
    "evaluate": "retrodistill.steps",
    "save_evaluation": "retrodistill.steps",
    "part": "retrodistill.recipe",
    "InputError": "retrodistill.errors",
}

__all__ = ["run"]
__all__ += list(_WHERE)


def run(recipe: str | Path, *overrides: str) -> dict[str, Evaluation]:
    """Walk the whole road of a recipe; what is there already is skipped.

    Args:
        recipe: a YAML file.
        overrides: such as `train.epochs=1`.

    Returns:
        The evaluation of each system: `before`, `student`, `teacher` and the baselines.

    Raises:
        InputError: the recipe, or what it names, is wrong.
    """
    from retrodistill import pipeline
    from retrodistill.recipe import load

    return pipeline.run(load(Path(recipe), overrides))


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        found = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'retrodistill' has no attribute {name!r}")
