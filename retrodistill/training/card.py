"""The model card: what a student is, learnt from and is worth, as README.md in its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from retrodistill.console import markdown_table
from retrodistill.emissions import Emission

if TYPE_CHECKING:
    from retrodistill.students.student import Student

CARD = "README.md"

_DOCUMENT = "Bread is baked from flour, water, yeast and salt."
_ENCODE = f"""queries = model.encode_query(["what is bread made of"])
documents = model.encode_document(["{_DOCUMENT}"])
print(model.similarity(queries, documents))"""
# What a student emits -> sentence-transformers' class, the Hub's name of its task, how it is used, what it is called.
_CLASSES: Mapping[Emission, tuple[str, str, str, str]] = {
    "dense": ("SentenceTransformer", "sentence-similarity", _ENCODE, "a dense bi-encoder"),
    "sparse": ("SparseEncoder", "feature-extraction", _ENCODE, "a learned sparse encoder"),
    "multi": ("MultiVectorEncoder", "feature-extraction", _ENCODE, "a late-interaction encoder"),
    "pairs": (
        "CrossEncoder",
        "text-ranking",
        f'print(model.predict([("what is bread made of", "{_DOCUMENT}")]))  # logits: no sigmoid is applied',
        "a cross-encoder for re-ranking",
    ),
}


def card(
    student: Student, manifest: Mapping[str, Any], metrics: Mapping[str, float] | None = None, measured_on: str = ""
) -> str:
    """The card as Markdown with YAML before it.

    Args:
        student: what learnt.
        manifest: what `train` says of it.
        metrics: what it was measured at, by metric, where it was.
        measured_on: the collection and the split of the metrics.
    """
    name, task, use, what = _CLASSES[student.emits]
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", student.model)
    head = {
        "library_name": "sentence-transformers",
        "pipeline_tag": task,
        **({"base_model": student.model.partition("@")[0]} if hub else {}),
        "tags": ["sentence-transformers", "retrodistill", "knowledge-distillation", student.kind.replace("_", "-")],
    }
    learnt = {
        "student": manifest["student"],
        "losses": manifest["inputs"]["losses"],
        "teachers": manifest.get("teachers", []),
        "options": manifest["options"],
        "seed": manifest["seed"],
    }
    parts = [
        f"---\n{_yaml(head)}---",
        f"# {_text(str(manifest.get('recipe') or student.kind))}",
        f"This is {what}, trained by retrodistill from {_text(student.model)}.",
        "## Use",
        _fenced(f'from sentence_transformers import {name}\n\nmodel = {name}("FOLDER")\n{use}', "python"),
        "`FOLDER` is where this file lies. To share the model: `hf upload USER/NAME FOLDER`.",
        "## Training",
        f"{manifest['queries']:,} queries of {_text(manifest['collection'])} with {manifest['pairs']:,} candidates, of "
        f"which {manifest['positives']:,} are labelled relevant and {manifest['judged']:,} have a teacher's score; "
        f"{manifest['steps']:,} steps.",
        _fenced(_yaml(learnt), "yaml"),
    ]
    if metrics:
        rows = [(metric, f"{value:.4f}") for metric, value in metrics.items()]
        parts += ["## Evaluation", f"On {_text(measured_on)}:", markdown_table(["Metric", "Mean"], rows)]
    return "\n\n".join(parts) + "\n"


def _yaml(value: Any) -> str:
    plain = json.loads(json.dumps(value, default=str))  # no tuples and paths, which YAML would tag
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _text(value: str) -> str:
    """A name in a line of Markdown: nothing in it is markup, and it stays on its line."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!~&$-])", r"\\\1", " ".join(value.split()))


def _fenced(text: str, language: str) -> str:
    """A block of code, between fences longer than any in it."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text.strip()}\n{fence}"
