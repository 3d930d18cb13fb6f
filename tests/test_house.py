"""The house stands: floors, no cycles, rooms of a size one can read, parts that explain themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from retrodistill.registry import FAMILIES, Part, table

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "retrodistill"

# From the ground up; a module imports from its own room or from floors below.
FLOORS = [
    {"errors", "files", "console", "compiled", "rounding", "registry", "runs", "cache", "models", "collections", "candidates", "emissions", "encoders", "manifests", "packed", "vectors", "language", "formats", "memory", "apart", "words"},
    {"indexing", "scores", "losses", "evaluation"},
    {"retrieval"},
    {"folds"},
    {"querying", "teachers", "students"},
    {"mining", "training", "spending"},
    {"sections", "steps"},
    {"unfit"},
    {"recipe"},
    {"pipeline"},
    {"audit", "plan"},
    {"cli"},
    {"__init__", "__main__"},
]  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of ours that a module imports when it is loaded; what only type checkers read does not count."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return frozenset(found & set(modules()))


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_from_its_own_room_or_from_below(module):
    floor = {name: number for number, rooms in enumerate(FLOORS) for name in rooms}
    for other in imports(module) - {"retrodistill"}:
        if room(other) != room(module):
            ground = floor[room(other)] == floor[room(module)] == 0
            assert ground or floor[room(other)] < floor[room(module)], f"{module} imports {other}"


def test_there_is_no_import_cycle():
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in imports(module) - {module, "retrodistill"}:
                if not other.startswith(module + "."):  # a package's __init__ hands on its modules' names
                    walk(other, (*path, module))
            done.add(module)

    for module in modules():
        walk(module, ())


@pytest.mark.parametrize("module", modules())
def test_no_module_is_too_long_to_read(module):
    assert len(modules()[module].read_text(encoding="utf-8").splitlines()) <= 400


def test_help_does_not_wait_for_torch():
    code = "import sys, retrodistill, retrodistill.cli; print([m for m in ('torch', 'transformers', 'faiss') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_explains_itself_and_stands_under_its_own_kind(family):
    for kind, part in table(family).items():
        assert issubclass(part, Part)
        assert part.__doc__ and part.__doc__ != Part.__doc__
        assert part.model_fields["kind"].default == kind


def test_a_loss_from_elsewhere_needs_nothing_but_its_own_file(tmp_path, monkeypatch):
    (tmp_path / "toy_losses.py").write_text(
        '''
from typing import Literal
from retrodistill.losses.batch import Loss

class Squared(Loss):
    """The mean squared distance to the teacher's scores."""
    kind: Literal["squared"] = "squared"

    def terms(self, batch):
        mask = batch.taught
        error = (batch.student - batch.teacher).square().masked_fill(~mask, 0.0).sum(-1)
        return error / mask.sum(-1).clamp(min=1), mask.any(-1)
'''
    )
    monkeypatch.syspath_prepend(tmp_path)
    from retrodistill.recipe import part

    loss = part("loss", "toy_losses:Squared")
    assert loss.label == "squared"
    assert part("loss", "{kind: 'toy_losses:Squared', weight: 2}").weight == 2


def test_the_python_names_at_the_top_exist():
    import retrodistill

    for name in retrodistill.__all__:
        assert callable(getattr(retrodistill, name)), name
