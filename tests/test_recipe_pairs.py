"""A recipe whose student emits pairs has no index, and no loss that looks across the batch."""

from pathlib import Path

import pytest

from retrodistill.errors import Problems
from retrodistill.recipe import load

RECIPES = Path(__file__).parents[1] / "recipes"
TEXT = """name: pairs
data: {data}
train:
  student: {{kind: {kind}, model: {model}}}
  losses: [{loss}]
index: {index}
"""
OWN = "{kind: infonce, in_batch_negatives: false}"


def recipe(tmp_path, tiny_model, kind="cross_encoder", loss=OWN, index="null"):
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT.format(data=tmp_path, kind=kind, model=tiny_model, loss=loss, index=index))
    return path


def test_it_re_ranks_without_an_index_and_reads_back(tmp_path, tiny_model):
    found = load(recipe(tmp_path, tiny_model))
    assert found.index is None
    (tmp_path / "copy.yaml").write_text(found.dump())
    assert load(tmp_path / "copy.yaml") == found


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"index": "flat"},
            "line 6: index: flat accepts dense, but train.student (cross_encoder) emits pairs; leave it out",
        ),
        (
            {"loss": "infonce"},
            "line 5: train.losses[0]: infonce looks at other queries' documents, which a cross_encoder student does "
            "not score; set in_batch_negatives: false",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(tmp_path, tiny_model, changed, said):
    with pytest.raises(Problems) as error:
        load(recipe(tmp_path, tiny_model, **changed))
    assert said in error.value.problems


def test_it_is_not_measured_while_it_is_trained(tmp_path, tiny_model):
    with pytest.raises(Problems) as error:
        load(recipe(tmp_path, tiny_model), ["index=null", "train.evaluate_every=10", "data.dev=dev"])
    (said,) = error.value.problems
    assert "train.evaluate_every: a cross_encoder student emits pairs, which is not searched; leave it out" in said


@pytest.mark.parametrize("kind", ["cross_encoder", "dense"])
def test_a_metric_of_training_is_one(tmp_path, tiny_model, kind):
    path = recipe(tmp_path, tiny_model, kind)
    assert load(path, ["train.metric=ndcg@5"]).train[0].metric == "nDCG@5"
    with pytest.raises(Problems) as error:
        load(path, ["train.metric=goodness@5"])
    (said,) = error.value.problems
    assert "train.metric: " in said and "goodness@5" in said


def test_it_needs_no_index(tmp_path, tiny_model):
    path = recipe(tmp_path, tiny_model)
    path.write_text(path.read_text().replace("index: null\n", ""))
    assert load(path).index is None


def test_the_recipe_in_the_tree_stands(tmp_path, tiny_model):
    found = load(
        RECIPES / "scifact-cross-encoder.yaml",
        [
            f"train.student.model={tiny_model}",
            "train.student.max_length=64",
            f"mine.sources=[bm25, 'dense:{tiny_model}']",
            "evaluate.baselines=[bm25]",
        ],
    )
    assert (found.train[0].student.emits, found.index) == ("pairs", None)
