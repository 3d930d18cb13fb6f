"""Tokens are made once a text, whichever trainings ask for it, and can be dropped at any time."""

import numpy as np
import pytest

from retrodistill.cache import cache_folder, drop_passing
from retrodistill.students.dense import DenseStudent
from retrodistill.training.tokens import TokenCache


@pytest.fixture
def opened(tiny_model, collection, tmp_path, monkeypatch):
    """Opens the tokens of some documents; with what was tokenised for it, by role."""
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path))
    tokenize, asked = DenseStudent.tokenize, []
    monkeypatch.setattr(
        DenseStudent,
        "tokenize",
        lambda self, model, texts, role: asked.append((role, list(texts))) or tokenize(self, model, texts, role),
    )

    def opened(documents, **options):
        asked.clear()
        student = DenseStudent(model=str(tiny_model), **options)
        cache = TokenCache(student, student.load("cpu"), collection, np.arange(3), np.array(documents))
        made = {
            role: [text for asked_role, texts in asked if asked_role == role for text in texts] for role, _ in asked
        }
        expected = tokenize(student, student.load("cpu"), collection.corpus.texts(documents), "document")
        for found, tokens in zip(cache("document", np.array(documents)), expected, strict=True):
            np.testing.assert_array_equal(found, tokens)
        return made

    return opened


def test_only_what_no_training_before_had_is_tokenised(opened, collection):
    texts = collection.corpus.texts()
    assert opened([5, 2, 9, 2])["document"] == [texts[2], texts[5], texts[9]]
    assert opened([2, 9]) == {}
    assert opened([9, 1, 5, 7]) == {"document": [texts[1], texts[7]]}
    assert opened([7, 9, 2, 1]) == {}
    assert opened([9], max_length=5).keys() == {"query", "document"}  # another reading


def test_what_is_dropped_is_made_again(opened):
    opened([1, 2])
    opened([2, 3])
    entries, size = drop_passing()["tokens"]
    assert entries == 3 and size > 0 and not list(cache_folder("tokens").iterdir())
    assert len(opened([1, 2])["document"]) == 2
