"""Teachers that search score whole batches: what they say is what they would have stored, for every pair."""

import json

import numpy as np
import pytest
from small_training import candidates_over, lists_over

from retrodistill import steps
from retrodistill.errors import InputError, Problems
from retrodistill.losses.divergences import InBatchKL
from retrodistill.recipe import load
from retrodistill.registry import build
from retrodistill.scores.combine import Mean
from retrodistill.scores.store import ScoreStore
from retrodistill.students.dense import DenseStudent
from retrodistill.training.lists import Lists
from retrodistill.training.options import TrainOptions
from retrodistill.training.train import describe, train
from retrodistill.training.whole import WholeBatch

ASKED = InBatchKL(unjudged="asked", student_temperature=0.1)
OPTIONS = TrainOptions(batch_size=4, documents=4, precision="fp32", epochs=3, learning_rate=2e-3)


@pytest.fixture
def teachers(tiny_model, tiny_splade, tiny_colbert):
    specs = ["bm25", f"dense:{tiny_model}", f"splade:{tiny_splade}", f"colbert:{tiny_colbert}"]
    return [build("teacher", spec) for spec in specs]


@pytest.mark.parametrize("place", range(4))
def test_a_batch_has_the_scores_of_every_pair(collection, teachers, place):
    whole = WholeBatch([teachers[place]], None, collection)
    lists = lists_over(collection, batch_size=5)
    whole.prepare(lists.queries)
    searcher = teachers[place].open(collection)
    batch = lists.batch(1)
    queries, documents = (
        side.ids_of(rows) for side, rows in ((collection.queries, batch.queries), (collection.corpus, batch.documents))
    )
    found = whole(batch.queries, batch.documents)
    assert found.shape == batch.own.shape and found.dtype == np.float32
    for row, query in enumerate(queries):
        expected = searcher.score([query] * len(documents), documents)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-5)
    assert np.unique(found.round(5)).size > 5


def test_several_become_one_over_the_documents_of_the_batch(collection, teachers):
    rows = np.arange(3), np.array([4, 0, 7, 9])
    each = [WholeBatch([teacher], None, collection)(*rows).astype(np.float64) for teacher in teachers[:2]]
    scaled = [(one - one.mean(1, keepdims=True)) / one.std(1, keepdims=True) for one in each]
    found = WholeBatch(teachers[:2], Mean(weights=(1, 3)), collection)(*rows)
    np.testing.assert_allclose(found, (scaled[0] + 3 * scaled[1]) / 4, rtol=1e-4, atol=1e-5)


def test_a_student_learns_from_it_without_a_stored_score(collection, teachers, tiny_model, tmp_path):
    candidates = candidates_over(collection, labels=False)
    taught = steps.taught([ASKED], candidates, collection, teachers[:1], ScoreStore(tmp_path / "scores"))
    assert np.isnan(taught["teacher"]).all()
    student = DenseStudent(model=str(tiny_model), layers=2, dropout=0.0)
    arguments = {"student": student, "losses": [ASKED], "candidates": candidates, "collection": collection, **taught}
    manifest = train(**arguments, out=tmp_path / "m", options=OPTIONS)
    assert manifest["log"][-1]["loss"] < manifest["log"][0]["loss"]
    assert manifest["log"][0]["in_batch_kl_without_entries"] == 0
    asked = {**arguments, "options": OPTIONS, "seed": 0}
    inputs = describe(**asked)
    assert json.loads(json.dumps(inputs["whole"])) == inputs["whole"]
    other = WholeBatch(teachers[:1], Mean(normalise="minmax"), collection)
    assert describe(**{**asked, "whole": other})["whole"] != inputs["whole"]
    assert "whole" not in describe(**{**asked, "whole": None})
    with pytest.raises(InputError, match="in_batch_kl asks teachers about whole batches, and there is none to ask"):
        train(**{**arguments, "whole": None}, out=tmp_path / "n", options=OPTIONS)


def test_nobody_is_asked_for_losses_that_do_not_ask(collection, teachers, tmp_path):
    candidates = candidates_over(collection)
    taught = steps.taught([InBatchKL()], candidates, collection, teachers[:1], ScoreStore(tmp_path / "scores"))
    assert taught["whole"] is None
    lists = Lists(candidates, None, collection, documents=4, pick="top", batch_size=4, seed=0)
    assert lists.batch(0).whole is None


RECIPE = """name: asked
data: {data}
score: {{teachers: [{teacher}], combine: {combine}}}
train:
  student: {{kind: dense, model: {model}}}
  losses: [{{kind: in_batch_kl, unjudged: asked}}]
"""


def test_teachers_that_cannot_be_asked_are_told_before_anything_runs(tmp_path, tiny_model, tiny_cross_encoder):
    path = tmp_path / "recipe.yaml"

    def problems(teacher, combine="null"):
        path.write_text(RECIPE.format(data=tmp_path, model=tiny_model, teacher=teacher, combine=combine))
        with pytest.raises(Problems) as error:
            load(path)
        return error.value.problems

    (said,) = problems(f"bm25, 'cross_encoder:{tiny_cross_encoder}'")
    assert "train.losses[0]: unjudged: asked has teachers score every query against every document" in said
    assert f"cross_encoder:{tiny_cross_encoder} is none: leave it out, or choose lowest" in said
    (said,) = problems("bm25", "reinforced")
    assert "and reinforced looks at more than these; combine by mean" in said
    path.write_text(RECIPE.format(data=tmp_path, model=tiny_model, teacher="bm25", combine="mean"))
    assert load(path).train[0].losses == (InBatchKL(unjudged="asked"),)
