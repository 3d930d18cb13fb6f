"""Weights of candidates on their way into a training step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_training import by_id, candidates_over, lists_over, read, teacher_over

from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.divergences import KL
from retrodistill.losses.pointwise import MSE
from retrodistill.students.dense import DenseStudent
from retrodistill.training.fit import check
from retrodistill.training.lists import Lists
from retrodistill.training.objective import Objective, score_batch


def weights_over(candidates):
    return np.random.default_rng(2).uniform(0.1, 1, len(candidates)).astype(np.float32)


def weighed_over(collection, weights=None, **options):
    candidates = candidates_over(collection)
    weights = weights_over(candidates) if weights is None else weights
    options = {"documents": 6, "pick": "uniform", "batch_size": 5, "seed": 0, **options}
    return Lists(candidates.weighed(weights), teacher_over(candidates), collection, **options)


def test_weights_stand_where_their_documents_do():
    # "p" is a candidate of both, "x" and "y" of one each: where a document was not mined for a query it counts whole.
    rows = {
        "a": [("p", "bm25", 1, 2.0, 1), ("x", "bm25", 2, 1.0, None)],
        "b": [("y", "bm25", 1, 2.0, 1), ("p", "bm25", 2, 1.0, None)],
    }
    corpus = Texts.documents("made", [(doc, "", f"text of {doc}") for doc in "pxy"])
    queries = Texts.queries("made", [(query, f"text of {query}") for query in rows])
    candidates = Candidates.of(rows).weighed(np.array([1, 0.25, 2, 0.5]))
    lists = Lists(
        candidates, None, Collection("made", corpus, queries, {}), documents=2, pick="top", batch_size=2, seed=0
    )
    assert by_id(read(lists, 0), "weights") == {
        ("a", "p"): 1, ("a", "x"): 0.25, ("a", "y"): 1, ("b", "y"): 2, ("b", "p"): 0.5, ("b", "x"): 1,
    }  # fmt: skip


def test_weights_change_nothing_else(collection):
    plain, weighed = lists_over(collection, batch_size=5), weighed_over(collection)
    for number in range(4):
        before, after = plain.batch(number), weighed.batch(number)
        assert before.weights is None and after.weights.dtype == np.float32
        for name in ("queries", "documents", "teacher", "grades", "own", "valid"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_a_split_batch_keeps_its_weights(collection):
    batch = weighed_over(collection).batch(0)
    whole = by_id(replace(batch, **named(batch)), "weights")
    parts = list(batch.split(np.full(len(batch.queries), 10), 20))
    assert len(parts) > 1
    for part in parts:
        assert by_id(replace(part, **named(part)), "weights").items() <= whole.items()


def named(batch):
    return {name: np.array([f"{row}" for row in getattr(batch, name)]) for name in ("queries", "documents")}


def test_a_document_of_weight_zero_is_no_candidate(collection):
    candidates = candidates_over(collection)
    weights = weights_over(candidates)
    weights[np.isnan(candidates.labels)] = 0
    batch = weighed_over(collection, weights).batch(0)
    scores = score_batch(batch, torch.zeros(batch.own.shape))
    assert not scores.valid[scores.own & ~scores.positive].any()
    assert scores.valid[scores.own & scores.positive].all()
    assert InfoNCE()(scores).isfinite()


def test_the_loss_is_told_what_does_not_weigh(collection, tiny_model, capsys):
    student = DenseStudent(model=str(tiny_model))
    check(student, [KL(), InfoNCE(), MSE()], weighed_over(collection))
    assert "note: the candidates have weights, which kl does not look at" in capsys.readouterr().err
    check(student, [InfoNCE()], weighed_over(collection))
    check(student, [KL()], lists_over(collection))
    assert capsys.readouterr().err == ""


@pytest.fixture
def gradient(tiny_model, collection):
    def found(losses, batch, max_tokens=10**6):
        student = DenseStudent(model=str(tiny_model), dropout=0, layers=2)
        model = student.load("cpu").train()

        def tokens(role, rows):
            texts = (collection.queries if role == "query" else collection.corpus).texts(rows)
            return student.tokenize(model, texts, role)

        objective = Objective(student, model, losses, tokens, precision="fp32", max_tokens=max_tokens)
        torch.manual_seed(0)
        objective.backward(batch)
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    return found


@pytest.mark.parametrize("losses", [[MSE()], [InfoNCE(temperature=0.1), MSE()]], ids=["groups", "cached"])
def test_the_gradient_is_that_of_the_weighted_loss_however_it_is_computed(gradient, collection, losses):
    batch = weighed_over(collection).batch(1)
    at_once = gradient(losses, batch)
    torch.testing.assert_close(gradient(losses, batch, max_tokens=80), at_once, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(gradient(losses, replace(batch, weights=None)), at_once, rtol=1e-2)


def test_weights_of_one_train_as_none(gradient, collection):
    candidates = candidates_over(collection)
    losses = [InfoNCE(temperature=0.1), MSE(), KL()]
    plain = gradient(losses, lists_over(collection, batch_size=5).batch(0))
    ones = gradient(losses, weighed_over(collection, np.ones(len(candidates), dtype=np.float32)).batch(0))
    assert torch.equal(ones, plain)
