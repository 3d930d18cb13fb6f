"""Audits: what each system makes of the same candidates, and warnings that cannot be overlooked."""

import pytest
import yaml

from retrodistill.audit import audit
from retrodistill.errors import InputError
from retrodistill.recipe import load


@pytest.fixture
def recipe(tmp_path, tiny_model, collection_folder):
    def make(**changes):
        tree = {
            "name": "audited",
            "runs": str(tmp_path / "runs"),
            "store": str(tmp_path / "scores"),
            "data": {"path": str(collection_folder)},
            "mine": {"sources": ["bm25"], "depth": 8},
            "score": {"teachers": ["bm25", f"dense:{tiny_model}"]},
            "train": {
                "student": {"kind": "dense", "model": str(tiny_model)},
                "losses": [{"kind": "kl"}],
            },
        } | changes
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return load(path)

    return make


def test_every_system_is_measured_on_the_same_candidates(recipe):
    found = audit(recipe())
    values = {name: value for name, part, value in found.rows if part != "source"}
    (dense,) = [name for name in values if name.startswith("dense:")]
    # the student before training is one of its teachers
    assert values["student before training"] == pytest.approx(values[dense])
    assert {part for _, part, _ in found.rows} == {"source", "teacher", "student"}
    assert "all of them" in values
    assert found.table().startswith("| ")
    again = audit(recipe(), 3)
    assert again.queries == 3


def test_a_teacher_that_is_no_better_is_told_in_capitals(recipe, tiny_model):
    found = audit(recipe(score={"teachers": [f"dense:{tiny_model}"]}))
    assert any(line.startswith("WARNING: THE TEACHER") and "STUDENT BEFORE TRAINING" in line for line in found.warnings)
    same = audit(recipe(score={"teachers": ["bm25"]}))
    assert any("NO BETTER THAN THE BEST SOURCE ALONE" in line for line in same.warnings)


def test_an_audit_needs_a_teacher(recipe):
    with pytest.raises(InputError, match="no teacher to audit"):
        audit(
            recipe(
                score={},
                train={"student": {"kind": "dense", "model": "x"}, "losses": ["infonce"]}
                if False
                else {"student": recipe().train[0].student.model_dump(), "losses": [{"kind": "infonce"}]},
            )
        )


def test_a_budget_is_not_passed_and_stored_judgements_cost_nothing(recipe, tiny_model, capsys):
    dense = f"dense:{tiny_model}"
    cheap = recipe(score={"teachers": [dense, "bm25"], "budget": 20, "hints": ["bm25"]})
    found = audit(cheap)
    assert 0 < found.queries < audit(recipe()).queries
    assert f"score.budget: 20 pays for {found.queries} of" in capsys.readouterr().err
    assert audit(cheap).queries > found.queries  # all are in the store by now


def test_a_budget_that_pays_for_no_query_is_told_before_anything_is_asked(recipe, tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"score.budget: 3 does not pay for the audit of one query, which takes 4"):
        audit(recipe(score={"teachers": [f"dense:{tiny_model}"], "budget": 3}))
    assert not list((tmp_path / "scores").glob("*/part-*"))
