"""What a recipe will ask is counted right, before and after mining, and what it takes is measured on the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from toy_models import Longer, Spelling

from retrodistill import steps
from retrodistill.cli import main
from retrodistill.errors import InputError
from retrodistill.mining.once import found_once
from retrodistill.pipeline import Walk
from retrodistill.plan import Line, Plan, Step, plan
from retrodistill.plan.rehearsed import rehearsed
from retrodistill.recipe import load
from retrodistill.students.dense import DenseStudent
from retrodistill.teachers import judging

YES_NO = {
    "kind": "yes_no",
    "model": "toy_models:Knowing",
    "chat": False,
    "template": "{query} | {document}",
    "golden": False,
}


STEPS = [
    Step("mining", 3 * 10**9, "set mine.memory"),
    "scoring by a teacher: it is not at hand",
    Step("training dense", 9 * 10**9, "lower train.max_tokens", 6_400),
]


@pytest.fixture(autouse=True)
def rehearsals(monkeypatch):
    """What each rehearsal was asked for: a process of its own, which other tests walk themselves."""
    asked = []

    def apart(work, recipe, missing):
        asked.append(missing)
        return iter(STEPS)

    monkeypatch.setattr("retrodistill.plan.making.apart", apart)
    return asked


@pytest.fixture(autouse=True)
def _nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "RETRODISTILL_CACHE", str(tmp_path / "cache")
    )  # candidates that another test found change counts


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
    for word in ("yes_no:", "at most", "pairs", "MB of judgements", "the most memory"):
        assert word in told.output


def test_the_largest_step_is_named_and_held_against_the_machine(recipe, rehearsals, monkeypatch):
    asked = recipe([YES_NO])
    monkeypatch.setattr("retrodistill.plan.making.installed", lambda: 8 * 10**9)
    planned = plan(asked)
    (missing,) = rehearsals
    assert list(missing.values()) == [planned.lines[0].missing]
    assert planned.largest == STEPS[-1] and len(planned.steps) == 2
    told = planned.table()
    assert "memory of training dense: about 9.0 GB, 6,400 tokens hold gradients at once" in told
    assert "memory is not known of scoring by a teacher: it is not at hand" in told
    assert "the most memory is taken by training dense: about 9.0 GB" in told
    assert "that is more than the 8.0 GB of this machine: lower train.max_tokens" in told
    monkeypatch.setattr("retrodistill.plan.making.installed", lambda: 10**12)
    assert "more than the" not in plan(asked).table()


def test_without_a_probe_no_step_is_tried(recipe, rehearsals):
    planned = plan(recipe(["bm25"]), probe=0)
    assert not planned.steps and not rehearsals and "no step was tried" in planned.table()


def test_a_process_that_ends_is_told_with_what_came_before(recipe, monkeypatch):
    def apart(*_):
        yield STEPS[0]
        raise InputError("the process that tried it ended (-9)")

    monkeypatch.setattr("retrodistill.plan.making.apart", apart)
    planned = plan(recipe(["bm25"]))
    assert planned.steps == (STEPS[0],)
    assert planned.untried == ("what comes after mining: the process that tried it ended (-9)",)


def test_counts_are_exact_or_said_to_be_bounds():
    exact, bound = Line("training", "a", "pairs", 3, 1), Line("training", "b", "pairs", 3, 0, bound=True)
    assert "counts that are exact: all" in Plan([exact]).table()
    assert "counts that are exact: none" in Plan([bound]).table()
    assert "counts that are exact: those without `at most`" in Plan([exact, bound]).table()


def test_what_is_found_for_the_evaluation_is_counted_where_it_is_kept(recipe, tmp_path):
    recipe(["bm25", YES_NO])
    tree = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    path = tmp_path / "evaluated.yaml"
    path.write_text(yaml.safe_dump({**tree, "evaluate": {"teacher": True}, "mine": {"sources": ["bm25"], "depth": 3}}))
    asked = load(path)
    *_, line = plan(asked, probe=0).lines
    assert line.bound and line.where == "evaluation"
    walk = Walk(asked)
    candidates = found_once(walk.collection, "test", asked.mine.sources, 3)
    judging.judge(candidates.select(candidates.queries[:1]), walk.collection, asked.score.teachers, walk.store)
    *_, line = plan(asked, probe=0).lines
    first = int(candidates.offsets[1])
    assert (line.asked, line.stored, line.bound) == (len(candidates), first, False)
    path.write_text(
        yaml.safe_dump(
            {**tree, "evaluate": {"teacher": True, "teacher_budget": 1}, "mine": {"sources": ["bm25"], "depth": 3}}
        )
    )
    *_, line = plan(load(path), probe=0).lines
    assert (line.asked, line.where) == (0, "evaluation, left out: more than 1")


def test_each_step_of_a_run_is_rehearsed(recipe, tmp_path, tiny_model, tiny_cross_encoder):
    recipe([f"cross_encoder:{tiny_cross_encoder}", "bm25"])
    tree = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    tree["mine"]["sources"] = ["bm25", f"dense:{tiny_model}"]
    tree["index"] = "flat"
    path = tmp_path / "rehearsed.yaml"
    path.write_text(yaml.safe_dump(tree))
    asked = load(path)
    teacher = asked.stages[0].score.teachers[0]
    steps = list(rehearsed(asked, {teacher.model_dump_json(): 100}))
    assert [step.name.split(":")[0] for step in steps] == [
        "mining",
        "scoring by cross_encoder",
        "training dense",
        "indexing dense",
    ]
    assert all(step.memory > 10**8 for step in steps)
    mined(asked)
    assert [step.name.split(":")[0] for step in rehearsed(asked, {})] == ["training dense", "indexing dense"]


def test_a_model_that_is_not_at_hand_is_told_and_the_rest_is_rehearsed(recipe, tmp_path):
    asked = recipe(["bm25"])
    nowhere = asked.train[0].model_copy(update={"student": DenseStudent(model=str(tmp_path / "nowhere"))})
    mining, training, indexing = rehearsed(asked.model_copy(update={"train": (nowhere,)}), {})
    assert mining.name == "mining"
    assert "nowhere" in training and training.startswith("training dense")
    assert "nowhere" in indexing and indexing.startswith("indexing dense")
