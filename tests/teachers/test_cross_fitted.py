"""Each labelled query is judged by the model that was not trained on its labels; others by the mean of all."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from retrodistill.errors import InputError
from retrodistill.folds import Folds, place_of
from retrodistill.recipe import part
from retrodistill.teachers.cross_encoder import CrossEncoder


@pytest.fixture(scope="module")
def folder(tiny_cross_encoder, collection, tmp_path_factory):
    """Two folds whose models differ in the sign of the last layer."""
    folder = tmp_path_factory.mktemp("folds")
    for fold in range(2):
        path = place_of(folder, fold)
        shutil.copytree(tiny_cross_encoder, path)
        weights = load_file(path / "model.safetensors")
        weights["classifier.weight"] = weights["classifier.weight"] * (3 - 4 * fold)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    Folds.of(collection, "train", 2).write(folder)
    return folder


def test_the_model_of_the_querys_fold_judges(folder, collection):
    teacher = part("teacher", f"cross_fitted:cross_encoder:{folder}")
    assert teacher.label == f"cross_fitted:cross_encoder:{folder}"
    judge = teacher.open(collection)
    singles = [CrossEncoder(model=str(place_of(folder, fold))).open(collection) for fold in range(2)]
    queries = collection.query_ids("train") + collection.query_ids("test")
    documents = [collection.corpus.ids[number % 24] for number in range(len(queries))]
    each = np.stack([single.score(queries, documents) for single in singles])
    assert np.abs(each[0] - each[1]).min() > 1e-3
    folds = Folds.read(folder)
    expected = []
    for row, query in enumerate(queries):
        fold = folds.fold_of(collection.queries.text(query))
        expected.append(each[:, row].mean() if fold is None else each[fold, row])
    np.testing.assert_allclose(judge.score(queries, documents), expected, rtol=1e-5, atol=1e-6)
    assert {folds.fold_of(collection.queries.text(query)) for query in queries} == {0, 1, None}


def test_who_is_in_which_fold_is_part_of_the_identity(folder, collection, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    first = part("teacher", f"cross_fitted:cross_encoder:{folder}").open(collection).identity
    assert part("teacher", f"cross_fitted:cross_encoder:{other}").open(collection).identity == first
    Folds(2, {}).write(other)
    assert part("teacher", f"cross_fitted:cross_encoder:{other}").open(collection).identity != first


def test_what_has_no_folds_or_no_model_is_refused(tiny_cross_encoder):
    with pytest.raises(InputError, match="holds no folds"):
        part("teacher", f"cross_fitted:cross_encoder:{tiny_cross_encoder}")
    with pytest.raises(InputError, match="bm25 is no teacher that scores by a model"):
        part("teacher", "cross_fitted:bm25")
