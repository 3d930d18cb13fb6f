import numpy as np
import pytest
import torch
from small_training import candidates_over, lists_over, teacher_over

from retrodistill.encoders import TOKENS_A_BATCH
from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.divergences import KL
from retrodistill.students.colbert import ColBERTStudent
from retrodistill.training.objective import Objective
from retrodistill.training.options import TrainOptions
from retrodistill.training.train import train

OWN = [KL(student_temperature=0.5)]
IN_BATCH = [InfoNCE(temperature=0.5)]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setitem(TOKENS_A_BATCH, "cpu", 48)  # several chunks a role


def gradient(model_folder, collection, losses, max_tokens, seed=3, **options):
    student = ColBERTStudent(model=str(model_folder), **{"dropout": 0.0, **options})
    model = student.load("cpu").train()
    sides = {"query": collection.queries, "document": collection.corpus}

    def tokens(role, rows):
        return student.tokenize(model, sides[role].texts(rows), role)

    objective = Objective(student, model, losses, tokens, precision="fp32", max_tokens=max_tokens)
    torch.manual_seed(seed)
    parts = objective.backward(lists_over(collection, batch_size=5).batch(1))
    found = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return torch.cat(found), parts


@pytest.mark.parametrize("losses", [OWN, IN_BATCH, OWN + IN_BATCH])
@pytest.mark.parametrize("options", [{}, {"pooling": 2.0}])
def test_however_a_batch_is_computed_the_gradient_is_the_same(tiny_colbert, collection, losses, options):
    at_once, parts = gradient(tiny_colbert, collection, losses, 10**6, **options)
    in_turns, same = gradient(tiny_colbert, collection, losses, 1, **options)
    assert at_once.abs().max() > 1e-3
    torch.testing.assert_close(in_turns, at_once, rtol=1e-4, atol=1e-5)
    assert same == pytest.approx(parts, rel=1e-5, abs=1e-6)


def test_the_gradient_cache_repeats_its_dropout(tiny_colbert, collection):
    at_once, _ = gradient(tiny_colbert, collection, IN_BATCH, 10**6, dropout=0.3)
    in_turns, _ = gradient(tiny_colbert, collection, IN_BATCH, TOKENS_A_BATCH["cpu"], dropout=0.3)  # the same chunks
    torch.testing.assert_close(in_turns, at_once, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        gradient(tiny_colbert, collection, IN_BATCH, 1, seed=4, dropout=0.3)[0], at_once, atol=1e-4
    )


def test_it_learns_and_what_it_learnt_is_in_the_folder(tiny_model, collection, tmp_path):
    candidates = candidates_over(collection)
    manifest = train(
        ColBERTStudent(model=str(tiny_model), dimensions=8, expansion="fixed", query_length=8, dropout=0.0),
        OWN + IN_BATCH,
        candidates,
        collection,
        tmp_path / "model",
        teacher=teacher_over(candidates),
        options=TrainOptions(epochs=4, batch_size=4, documents=5, learning_rate=2e-3, precision="fp32"),
    )
    losses = [line["loss"] for line in manifest["log"]]
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    trained = ColBERTStudent(model=str(tmp_path / "model"))
    model = trained.load("cpu")
    assert (model.get_embedding_dimension(), model[0].query_expansion["length"]) == (8, 8)
