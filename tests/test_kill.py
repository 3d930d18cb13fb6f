"""SIGKILL at random moments, through the real command line: the end is the same as if nothing had happened."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import yaml

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill_and_resume.py"


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path, tiny_model, tiny_cross_encoder, collection_folder):
    spec = importlib.util.spec_from_file_location("kill_and_resume", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    recipe = tmp_path / "recipe.yaml"
    tree = {
        "name": "killed",
        "data": str(collection_folder),
        "mine": {"sources": ["bm25", f"dense:{tiny_model}"], "depth": 10},
        "score": {"teachers": [f"cross_encoder:{tiny_cross_encoder}", f"dense:{tiny_model}"]},
        "train": {
            "student": f"dense:{tiny_model}",
            "losses": ["kl", "infonce"],
            "epochs": 20,
            "batch_size": 2,
            "documents": 4,
            "checkpoint_every": 7,
            "precision": "fp32",
        },
    }
    recipe.write_text(yaml.safe_dump(tree))
    assert script.compare(str(recipe), [], kills=3, seed=5, folder=tmp_path) == []
