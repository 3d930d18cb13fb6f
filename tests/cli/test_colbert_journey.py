"""The whole road for a late-interaction student, through the real command line."""

import json

import yaml
from test_journeys import done


def test_a_colbert_learns_is_indexed_and_is_found_by_its_type(tmp_path, tiny_model, tiny_colbert, collection_folder):
    tree = {
        "name": "late",
        "runs": str(tmp_path / "runs"),
        "store": str(tmp_path / "scores"),
        "data": str(collection_folder),
        "mine": {"sources": ["bm25", f"colbert:{tiny_colbert}"], "depth": 8},
        "score": {"teachers": ["bm25", f"colbert:{tiny_colbert}"]},
        "train": {
            "student": {
                "kind": "colbert", "model": str(tiny_model), "dimensions": 8, "expansion": "fixed", "query_length": 8,
                "skip_punctuation": True, "dropout": 0,
            },
            "losses": ["kl", {"kind": "infonce", "temperature": 1}],
            "epochs": 2, "batch_size": 4, "documents": 4, "learning_rate": 0.001, "precision": "fp32",
        },
        "index": {"kind": "multivector_probed", "candidates": 24},
        "evaluate": {"metrics": ["nDCG@10"], "baselines": ["bm25"]},
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    done("run", path)
    folder = tmp_path / "runs" / "late"
    report = (folder / "report.md").read_text()
    assert "late interaction" in (folder / "search" / "manifest.json").read_text()
    assert "student after" in report
    # The model alone, searched exhaustively: every document was a candidate, so the numbers are the same.
    done("evaluate", folder / "train", "--data", collection_folder, "--out", tmp_path / "again", "--metric", "nDCG@10")
    numbers = [
        json.loads((place / "results.json").read_text())["metrics"]
        for place in (folder / "evaluate" / "student", tmp_path / "again")
    ]
    assert numbers[0] == numbers[1]
    done("index", folder / "train", "--data", collection_folder, "--out", tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["index"] == {"kind": "multivector", "precision": "float32"}
    found = done("evaluate", f"index:{tmp_path / 'index'}", "--data", collection_folder, "--out", tmp_path / "third")
    assert "nDCG@10" in found.output
    assert json.loads((tmp_path / "third" / "results.json").read_text())["metrics"]["nDCG@10"] == numbers[0]["nDCG@10"]
