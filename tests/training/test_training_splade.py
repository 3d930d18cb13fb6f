"""A SPLADE student under the training loop: penalties of the whole batch, whatever is held in memory."""

import json
from dataclasses import replace

import pytest
import torch
from small_training import candidates_over, lists_over, teacher_over

from retrodistill.encoders import TOKENS_A_BATCH
from retrodistill.errors import InputError
from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.divergences import KL
from retrodistill.students.splade import Flops, Sparsity, SpladeStudent
from retrodistill.training.objective import Objective
from retrodistill.training.options import TrainOptions
from retrodistill.training.tokens import TokenCache
from retrodistill.training.train import train

EVERYTHING = 10**6


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    # Several chunks a role, so that what happens between them is seen.
    monkeypatch.setitem(TOKENS_A_BATCH, "cpu", 48)


def step(tiny_splade, collection, losses, max_tokens, progress=0.2, **options):
    """The gradient of one step, and what it logs."""
    student = SpladeStudent(model=str(tiny_splade), dropout=0, **options)
    model = student.load("cpu").train()
    lists = lists_over(collection, batch_size=5)
    tokens = TokenCache(student, model, collection, lists.queries, lists.document_rows)
    objective = Objective(student, model, losses, tokens, precision="fp32", max_tokens=max_tokens)
    logged = objective.backward(lists.batch(1), progress)
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}, logged


PENALTIES = {"flops": Flops(query=0.3, document=0.2), "l1": Sparsity(document=0.1), "anti_zero": Sparsity(query=0.1)}


@pytest.mark.parametrize(
    ("losses", "options"),
    [
        ([KL()], PENALTIES),
        ([KL(), InfoNCE()], {**PENALTIES, "pooling": "sum"}),
        ([KL()], {**PENALTIES, "top_k": 8}),
        ([KL()], {**PENALTIES, "query": "idf"}),
        ([KL()], {**PENALTIES, "query": "idf", "train_idf": False}),
        ([KL()], {"flops": Flops(query=0, document=0)}),
        ([InfoNCE()], {"flops": Flops(query=0, document=0)}),
    ],
    ids=["penalties", "sum", "top_k", "idf", "frozen idf", "groups", "in the batch"],
)
def test_a_budget_of_one_token_gives_the_same_gradient(tiny_splade, collection, losses, options):
    at_once, logged = step(tiny_splade, collection, losses, EVERYTHING, **options)
    cached, same = step(tiny_splade, collection, losses, 1, **options)
    assert cached.keys() == at_once.keys()
    largest = float(max(gradient.abs().max() for gradient in at_once.values()))
    assert largest > 1e-3
    for name, gradient in at_once.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-4, atol=1e-5 * max(1.0, largest))
    assert {"query_active", "document_active"} <= logged.keys() == same.keys()
    for name in logged:
        assert same[name] == pytest.approx(logged[name], rel=1e-4, abs=1e-5)


def test_the_loss_is_the_sum_by_weight_and_terms_are_logged(tiny_splade, collection):
    _, logged = step(tiny_splade, collection, [KL(weight=2)], EVERYTHING, progress=0.165, **PENALTIES)
    rise = 0.5**2
    expected = 2 * logged["kl"] + rise * (
        0.3 * logged["flops_query"] + 0.2 * logged["flops_document"] + 0.1 * logged["l1_document"]
        + 0.1 * logged["anti_zero_query"]
    )  # fmt: skip
    assert logged["loss"] == pytest.approx(expected, rel=1e-5)
    assert 1 < logged["query_active"] < 100
    assert 1 < logged["document_active"] < 100


def test_a_student_that_has_lost_every_term_stops_although_its_groups_are_single_queries(
    tiny_splade, collection, monkeypatch
):
    embed = SpladeStudent.embed

    def nothing(self, model, tokens, role):
        found = embed(self, model, tokens, role)
        return replace(found, values=found.values * 0)

    monkeypatch.setattr(SpladeStudent, "embed", nothing)
    for max_tokens in (EVERYTHING, 1):
        with pytest.raises(InputError, match="collapsed: no query of the batch has a term left"):
            step(tiny_splade, collection, [KL()], max_tokens, flops=Flops(query=0, document=0))


def trained(tiny_splade, collection, folder, steps=12, **options):
    candidates = candidates_over(collection)
    student = SpladeStudent(model=str(tiny_splade), dropout=0, **options)
    loop = TrainOptions(max_steps=steps, epochs=steps, batch_size=6, documents=6, learning_rate=5e-3, precision="fp32")
    return train(student, [KL()], candidates, collection, folder, teacher=teacher_over(candidates), options=loop)


def test_a_table_that_training_pushes_below_0_stays_at_0_for_the_dev_split_too(tiny_splade, collection, tmp_path):
    terms = json.loads((tiny_splade / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "idf.json").write_text(json.dumps(dict.fromkeys(list(terms)[5:], 1e-3)))
    student = SpladeStudent(model=str(tiny_splade), dropout=0, query="idf", idf=tmp_path / "idf.json")
    candidates = candidates_over(collection)
    loop = TrainOptions(
        max_steps=4, epochs=4, batch_size=6, documents=6, learning_rate=5e-2, precision="fp32", evaluate_every=1
    )
    manifest = train(
        student,
        [KL()],
        candidates,
        collection,
        tmp_path / "m",
        teacher=teacher_over(candidates),
        options=loop,
        dev="test",
    )
    assert len(manifest["dev"]["by_step"]) == 4
    weights = (
        student.model_copy(update={"model": str(tmp_path / "m"), "idf": None})
        .load("cpu")[0]
        .sub_modules["query"][0]
        .weight
    )
    assert (weights == 0).sum() > 5 < (weights > 0).sum()


def test_flops_make_a_student_sparser(tiny_splade, collection, tmp_path):
    light, heavy = (
        trained(tiny_splade, collection, tmp_path / str(weight), flops=Flops(query=weight, document=weight))
        for weight in (1e-5, 0.1)
    )
    last = [manifest["log"][-1]["document_active"] for manifest in (light, heavy)]
    assert last[1] < 0.8 * last[0]
    assert light["log"][-1]["loss"] < light["log"][0]["loss"]
    assert (tmp_path / "0.1" / "modules.json").exists()


def test_a_student_that_loses_every_term_stops_with_the_remedy(tiny_splade, collection, tmp_path):
    with pytest.raises(InputError, match=r"collapsed: no (query|document) of the batch has a term left"):
        trained(tiny_splade, collection, tmp_path / "m", 60, flops=Flops(query=1e4, document=1e4, warmup=0))
