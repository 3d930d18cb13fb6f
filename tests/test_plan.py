"""What a recipe will ask is counted right, before and after mining, and what it takes is measured on the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from toy_models import Longer, Spelling

from retrodistill import steps
from retrodistill.cli import main
from retrodistill.pipeline import Walk
from retrodistill.plan import plan
from retrodistill.recipe import load
from retrodistill.teachers import judging
from retrodistill.training.footprint import Footprint

YES_NO = {
    "kind": "yes_no",
    "model": "toy_models:Knowing",
    "chat": False,
    "template": "{query} | {document}",
    "golden": False,
}


@pytest.fixture(autouse=True)
def tried(monkeypatch):
    """The students whose step was tried: a process of its own, which tests/training/test_footprint.py starts."""
    students = []
    footprint = Footprint(model=3_000_000_000, token=1_000_000, length=50.0)
    monkeypatch.setattr("retrodistill.plan.measured", lambda student, *_: students.append(student) or footprint)
    return students


@pytest.fixture
def recipe(tmp_path, tiny_model, collection_folder):
    def made(teachers, **score):
        tree = {
            "name": "planned",
            "runs": str(tmp_path / "runs"),
            "store": str(tmp_path / "scores"),
            "data": {"path": str(collection_folder)},
            "mine": {"sources": ["bm25"], "depth": 5},
            "score": {"teachers": teachers, **score},
            "train": {"student": f"dense:{tiny_model}", "losses": ["kl"]},
            "evaluate": {"teacher": False},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return load(path)

    return made


def mined(recipe):
    walk = Walk(recipe)
    walk.begin()
    return walk, walk.mine(walk.stages[0])


def test_before_mining_there_is_a_bound(recipe):
    (line,) = plan(recipe(["bm25"]), probe=0).lines
    walk, candidates = mined(recipe(["bm25"]))
    queries = walk.collection.query_ids("train")
    positives = sum(len(walk.collection.qrels("train")[query]) for query in queries)
    assert line.bound and line.stored == 0 and line.asked == 5 * len(queries) + positives >= len(candidates)


def test_after_mining_pairs_are_counted_against_the_store(recipe):
    asked = recipe([YES_NO])
    walk, candidates = mined(asked)
    some = candidates.select(candidates.queries[:3])
    judging.judge(some, walk.collection, asked.score.teachers, walk.store)
    (line,) = plan(asked, probe=0).lines
    assert (line.asked, line.stored, line.bound) == (len(candidates), len(some), False)
    judging.judge(candidates, walk.collection, asked.score.teachers, walk.store)
    assert plan(asked, probe=0).lines[0].missing == 0


@pytest.mark.parametrize(
    "teacher",
    [
        {"kind": "toy_models:ByLength"},
        {"kind": "toy_models:ByLength", "pairs": 4},
        {"kind": "toy_models:Alphabet", "window": 3, "stride": 2, "runs": 2},
    ],
)
def test_comparisons_and_windows_are_as_many_as_will_be_asked(recipe, teacher):
    asked = recipe([teacher])
    walk, candidates = mined(asked)
    (line,) = plan(asked, probe=0).lines
    assert line.stored == 0
    (judged,) = judging.judge(candidates, walk.collection, asked.score.teachers, walk.store)
    assert line.asked == judged.judged == judged.asked and line.unit == judged.unit
    (line,) = plan(asked, probe=0).lines
    assert line.missing == 0


def test_a_sort_is_bounded(recipe):
    asked = recipe([{"kind": "toy_models:ByLength", "pairs": "sort"}])
    (line,) = plan(asked, probe=0).lines
    walk, candidates = mined(asked)
    (judged,) = judging.judge(candidates, walk.collection, asked.score.teachers, walk.store)
    assert judged.asked <= line.asked
    assert plan(asked, probe=0).lines[0].missing == 0


def test_a_budget_bounds_what_is_asked(recipe):
    asked = recipe(["bm25", YES_NO], budget=17, hints=["bm25"])
    _, candidates = mined(asked)
    cheap, dear = plan(asked, probe=0).lines
    assert (cheap.asked, dear.asked) == (len(candidates), 17)


def test_a_budget_bounds_the_evaluation_of_the_teacher_too(recipe, tmp_path):
    recipe(["bm25", YES_NO], budget=17, hints=["bm25"])
    tree = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    path = tmp_path / "evaluated.yaml"
    for options, allowed in (({}, 0), ({"teacher_budget": 3}, 3)):
        path.write_text(yaml.safe_dump({**tree, "evaluate": {"teacher": True, **options}}))
        *_, cheap, dear = plan(load(path), probe=0).lines
        assert cheap.asked > 17 and (dear.asked, dear.bound) == (allowed, True)
        assert f"evaluation, left out if more than {allowed}" in dear.where and "left out" not in cheap.where


@pytest.mark.parametrize(
    "teacher", [{"kind": "toy_models:ByLength"}, {"kind": "toy_models:Alphabet", "window": 3, "stride": 2}]
)
def test_what_a_budget_bought_counts_as_stored(recipe, teacher):
    asked = recipe([teacher], budget=12)
    walk, candidates = mined(asked)
    steps.score(asked.score, candidates, walk.collection, walk.store, 0, lambda line: None)
    (line,) = plan(asked, probe=0).lines
    assert (line.asked, line.missing) == (12, 0)


def test_tokens_are_those_of_the_prompts_and_make_the_cost(recipe, monkeypatch):
    from toy_models import Knowing

    monkeypatch.setattr(Knowing, "price", type("Price", (), {"input": 2.0, "output": 8.0}), raising=False)
    asked = recipe([YES_NO])
    walk, candidates = mined(asked)
    (line,) = plan(asked, probe=200).lines
    texts = [
        f"{walk.collection.queries.text(q)} | {walk.collection.corpus.text(d)}"
        for q, d in zip(candidates.query_ids, candidates.doc_ids, strict=True)
    ]
    counts = [len(text.split()) for text in texts]
    assert min(counts) <= line.tokens <= max(counts)
    assert line.cost == pytest.approx((line.tokens * 2 + 8) / 1e6)
    assert line.seconds > 0
    assert np.isnan(judging.read(candidates, walk.collection, asked.score.teachers, walk.store)).all()  # nothing judged


@pytest.mark.parametrize("teacher", ["toy_models:ByLength", "toy_models:Alphabet"])
def test_those_that_compare_and_order_are_measured_too(recipe, teacher):
    Longer.asked.clear()
    Spelling.asked.clear()
    (line,) = plan(recipe([{"kind": teacher}]), probe=8).lines
    assert line.seconds > 0 and line.tokens is None


def test_a_cross_encoder_is_measured_in_its_own_tokens(recipe, tiny_cross_encoder):
    (line,) = plan(recipe([f"cross_encoder:{tiny_cross_encoder}"]), probe=8).lines
    assert 5 < line.tokens < 64 and line.seconds > 0
    assert line.weights == sum(file.stat().st_size for file in tiny_cross_encoder.glob("*.safetensors"))


def test_a_teacher_that_is_yet_to_be_trained_is_counted(tmp_path, recipe, tiny_cross_encoder):
    plain = recipe(["bm25"])
    tree = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    pairs = {
        "student": f"cross_encoder:{tiny_cross_encoder}",
        "losses": [{"kind": "infonce", "in_batch_negatives": False}],
    }
    tree["rounds"] = [
        {"name": "teach", "score": {"teachers": []}, "train": {**pairs, "folds": 2}},
        {"name": "learn", "score": {"teachers": ["bm25", "cross_fitted:cross_encoder:@teach"]}},
    ]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    _, line = plan(load(tmp_path / "recipe.yaml"), probe=8).lines
    assert line.bound and line.asked == plan(plain, probe=0).lines[0].asked and line.seconds is None


def test_the_table_says_what_is_asked_and_what_it_takes(recipe):
    from click.testing import CliRunner

    recipe([YES_NO])
    told = CliRunner().invoke(main, ["plan", str(recipe([YES_NO]).runs.parent / "recipe.yaml")])
    assert told.exit_code == 0, told.output
    for word in ("yes_no:", "at most", "pairs", "MB of judgements", "weights"):
        assert word in told.output


def test_the_memory_of_a_step_is_that_of_its_tokens(recipe, tried, monkeypatch):
    asked = recipe(["bm25"])
    (step,) = plan(asked).steps
    assert step.tokens == 16 * 8 * 50  # queries, documents, tokens of a document
    assert step.memory == pytest.approx(2.1e9 + 3e9 + step.tokens * 1e6)
    narrow = asked.model_copy(update={"train": (asked.train[0].model_copy(update={"max_tokens": 100}),)})
    assert plan(narrow).steps[0].tokens == 100
    assert len(tried) == 2
    assert not plan(asked, probe=0).steps
    monkeypatch.setattr("retrodistill.plan.installed", lambda: 8 * 10**9)
    told = plan(asked).table()
    assert "memory of training dense:" in told
    assert "that is more than the 8.0 GB of this machine: lower train.max_tokens" in told
    monkeypatch.setattr("retrodistill.plan.installed", lambda: 10**12)
    assert "more than" not in plan(asked).table()
