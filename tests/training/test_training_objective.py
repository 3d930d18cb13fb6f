from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from small_training import candidates_over, lists_over

from retrodistill.candidates import Candidates
from retrodistill.collections import Collection
from retrodistill.encoders import TOKENS_A_BATCH
from retrodistill.errors import InputError
from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.divergences import KL
from retrodistill.losses.pairwise import MarginMSE
from retrodistill.students.dense import DenseStudent
from retrodistill.training.lists import Lists
from retrodistill.training.objective import Objective, score_batch

OWN = [KL(student_temperature=0.1), MarginMSE(weight=0.1)]
IN_BATCH = [InfoNCE(temperature=0.1)]
EVERYTHING = 10**6


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    # Several chunks a role, so that what happens between them is seen.
    monkeypatch.setitem(TOKENS_A_BATCH, "cpu", 48)


@pytest.fixture
def batch(collection):
    return lists_over(collection, batch_size=5).batch(1)


@pytest.fixture
def embedded(monkeypatch):
    """What the student was asked to embed: (with gradients, tokens of the items), in order."""
    calls = []
    embed = DenseStudent.embed

    def watched(self, model, tokens, role):
        calls.append((torch.is_grad_enabled(), [item.tolist() for item in tokens]))
        return embed(self, model, tokens, role)

    monkeypatch.setattr(DenseStudent, "embed", watched)
    return calls


@pytest.fixture
def make(tiny_model, collection):
    def made(losses, max_tokens=EVERYTHING, dropout=0.0, precision="fp32"):
        student = DenseStudent(model=str(tiny_model), dropout=dropout, layers=2)
        model = student.load("cpu").train()

        def tokens(role, rows):  # lengths of their own, so that chunks by length are not in the order of the texts
            texts = (collection.queries if role == "query" else collection.corpus).texts(rows)
            uneven = [text + " and the storm" * (place * 7 % 5) for place, text in zip(rows, texts, strict=True)]
            return student.tokenize(model, uneven, role)

        return Objective(student, model, losses, tokens, precision=precision, max_tokens=max_tokens)

    return made


def gradient(objective, batch, seed=0, **options):
    objective.model.zero_grad()
    torch.manual_seed(seed)
    parts = objective.backward(batch, **options)
    found = [weight.grad for weight in objective.model.parameters() if weight.grad is not None]
    return torch.cat([part.flatten() for part in found]), parts


def agree(first, second, tolerance=1e-6):
    torch.testing.assert_close(first[0], second[0], rtol=1e-4, atol=tolerance)
    assert first[1] == pytest.approx(second[1], rel=1e-5, abs=1e-6)


def test_at_once_where_the_budget_allows(make, batch, embedded):
    gradient(make(OWN + IN_BATCH), batch)
    assert all(with_gradients for with_gradients, _ in embedded)
    assert sum(len(items) for _, items in embedded) == len(batch.queries) + len(batch.documents)


@pytest.mark.parametrize("max_tokens", [1, 80, 200])
def test_groups_of_whole_queries_give_the_same_gradient(make, batch, embedded, max_tokens):
    at_once = gradient(make(OWN), batch)
    embedded.clear()
    agree(gradient(make(OWN, max_tokens), batch), at_once)
    assert at_once[0].abs().max() > 1e-3
    assert all(with_gradients for with_gradients, _ in embedded)
    # A document that two groups share is embedded twice.
    assert sum(len(texts) for _, texts in embedded) > len(batch.queries) + len(batch.documents)


@pytest.mark.parametrize("losses", [IN_BATCH, IN_BATCH + OWN])
def test_the_gradient_cache_gives_the_same_gradient(make, batch, embedded, losses):
    at_once = gradient(make(losses), batch)
    embedded.clear()
    agree(gradient(make(losses, max_tokens=1), batch), at_once)
    assert at_once[0].abs().max() > 1e-3
    without = [texts for with_gradients, texts in embedded if not with_gradients]
    assert [texts for with_gradients, texts in embedded if with_gradients] == without
    assert len(without) > 4
    assert [with_gradients for with_gradients, _ in embedded] == [False] * len(without) + [True] * len(without)


@pytest.mark.parametrize("max_tokens", [1, 30, 48, 60])
def test_a_chunk_of_the_gradient_cache_stays_within_the_budget(make, batch, embedded, max_tokens):
    gradient(make(IN_BATCH, max_tokens), batch)
    chunks = [sum(map(len, texts)) for _, texts in embedded]
    longest = max(len(text) for _, texts in embedded for text in texts)
    assert max(chunks) <= max(min(max_tokens, 48), longest)


def test_only_a_loss_that_looks_at_the_batch_forces_the_cache(make, batch, embedded):
    gradient(make([*OWN, InfoNCE(in_batch_negatives=False)], max_tokens=1), batch)
    assert all(with_gradients for with_gradients, _ in embedded)
    gradient(make([*OWN, InfoNCE()], max_tokens=1), batch)
    assert not all(with_gradients for with_gradients, _ in embedded)


def test_all_three_ways_agree_where_no_loss_looks_at_the_batch(make, batch, monkeypatch):
    at_once, groups = (gradient(make(OWN, budget), batch) for budget in (EVERYTHING, 1))
    monkeypatch.setattr(KL, "in_batch", property(lambda self: True))
    cached = gradient(make(OWN, max_tokens=1), batch)
    agree(groups, at_once)
    agree(cached, at_once)


def test_the_cache_repeats_its_dropout(make, batch):
    cached = make(IN_BATCH, max_tokens=TOKENS_A_BATCH["cpu"], dropout=0.3)
    first = gradient(cached, batch, seed=4)
    after = torch.rand(1)
    again = gradient(cached, batch, seed=4)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    # The same chunks at once draw the same random numbers: dropout was the same in both passes, and drawn on after it.
    at_once = gradient(make(IN_BATCH, dropout=0.3), batch, seed=4)
    assert torch.rand(1) == after
    agree(first, at_once)
    assert not torch.allclose(gradient(cached, batch, seed=5)[0], first[0], atol=1e-4)


@pytest.mark.parametrize("max_tokens", [EVERYTHING, 1])
def test_what_only_the_collection_calls_relevant_pushes_nobody_away(make, collection, max_tokens):
    candidates = candidates_over(collection)
    mined = candidates.table.filter(pc.not_equal(candidates.table.column("rank"), 1))  # as without added positives
    objective = make(IN_BATCH, max_tokens)
    found = []
    for qrels in ({}, {"train": collection.qrels("train")}):
        known = Collection("c", collection.corpus, collection.queries, qrels)
        lists = Lists(Candidates(mined), None, known, documents=4, pick="top", batch_size=12, seed=0)
        found.append((lists.batch(0), gradient(objective, lists.batch(0))))
    (blind, without), (batch, masked) = found
    missed = batch.positive & ~blind.positive
    assert missed.any() and not (missed & batch.own).any()
    agree(gradient(objective, replace(blind, valid=blind.valid & ~missed)), masked)
    assert not torch.allclose(without[0], masked[0], atol=1e-4)


def test_losses_are_summed_by_weight(make, batch):
    parts = [gradient(make([loss]), batch) for loss in (KL(), MarginMSE(), InfoNCE())]
    both, values = gradient(make([KL(weight=2), MarginMSE(weight=0), InfoNCE(weight=0.5)]), batch)
    torch.testing.assert_close(both, 2 * parts[0][0] + 0.5 * parts[2][0], rtol=1e-4, atol=1e-6)
    alone = [value["loss"] for _, value in parts]
    assert [values["kl"], values["margin_mse"], values["infonce"]] == pytest.approx(alone)
    assert values["loss"] == pytest.approx(2 * alone[0] + 0.5 * alone[2])


def test_gradients_add_up(make, batch):
    objective = make(OWN)
    once, _ = gradient(objective, batch)
    objective.backward(batch)
    twice = torch.cat([weight.grad.flatten() for weight in objective.model.parameters() if weight.grad is not None])
    torch.testing.assert_close(twice, 2 * once, rtol=1e-4, atol=1e-6)


def test_the_value_is_the_loss_on_the_score_matrix(make, batch):
    objective = make([KL(), KL(temperature=2)])
    _, parts = gradient(objective, batch)
    with torch.no_grad():
        queries, documents = (
            objective.student.embed(objective.model, objective.tokens(role, rows), role).values
            for role, rows in (("query", batch.queries), ("document", batch.documents))
        )
    scores = score_batch(batch, queries @ documents.T)
    assert torch.equal(scores.judged, torch.from_numpy(~np.isnan(batch.teacher)))
    assert scores.teacher.isfinite().all()
    expected = {"kl_1": KL()(scores).item(), "kl_2": KL(temperature=2)(scores).item()}
    silent = {"kl_1_without_entries": 0.0, "kl_2_without_entries": 0.0}
    assert parts == pytest.approx({"loss": sum(expected.values()), **expected, **silent}, rel=1e-5)


@pytest.mark.parametrize("max_tokens", [EVERYTHING, 1])
def test_a_loss_without_entries_says_so_and_teaches_nothing(make, batch, max_tokens):
    unjudged = replace(batch, teacher=np.full_like(batch.teacher, np.nan))
    with_infonce = [KL(), InfoNCE(in_batch_negatives=False)]
    found, parts = gradient(make(with_infonce, max_tokens), unjudged)
    assert (parts["kl"], parts["kl_without_entries"], parts["infonce_without_entries"]) == (0, 1, 0)
    alone, _ = gradient(make(with_infonce[1:], max_tokens), unjudged)
    torch.testing.assert_close(found, alone)
    nothing, parts = gradient(make([KL()], max_tokens), unjudged)
    assert parts["loss"] == 0
    assert not nothing.any()


@pytest.mark.parametrize("losses", [OWN, IN_BATCH])
@pytest.mark.parametrize("max_tokens", [EVERYTHING, 1])
def test_bf16_gives_about_the_same_gradient(make, batch, losses, max_tokens):
    exact, values = gradient(make(losses, max_tokens), batch)
    rough, near = gradient(make(losses, max_tokens, precision="bf16"), batch)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.cosine_similarity(rough, exact, dim=0) > 0.97
    assert near["loss"] == pytest.approx(values["loss"], rel=0.05)


@pytest.mark.parametrize("losses", [OWN, IN_BATCH])
@pytest.mark.parametrize("max_tokens", [EVERYTHING, 1])
def test_a_scaled_sum_in_fp16_gives_about_the_same_gradient_once_it_is_scaled_back(make, batch, losses, max_tokens):
    exact, values = gradient(make(losses, max_tokens), batch)
    objective = make(losses, max_tokens, precision="fp16")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    objective.scaled = scaler.scale
    rough, near = gradient(objective, batch)
    assert torch.cosine_similarity(rough, exact, dim=0) > 0.99
    assert rough.norm().item() / 1024 == pytest.approx(exact.norm().item(), rel=0.05)
    assert near["loss"] == pytest.approx(values["loss"], rel=0.02)  # as it was before it was scaled


@pytest.mark.parametrize("max_tokens", [EVERYTHING, 1])
@pytest.mark.parametrize("losses", [[KL()], [MarginMSE(), InfoNCE()]])
def test_a_loss_that_is_not_finite_is_named(make, batch, losses, max_tokens):
    objective = make(losses, max_tokens)
    with torch.no_grad():
        next(objective.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match=f"^loss {losses[0].kind} is nan; a lower train.learning_rate"):
        objective.backward(batch)


def test_an_infinite_judgement_is_named(make, batch):
    teacher = batch.teacher.copy()
    teacher[tuple(np.argwhere(~np.isnan(teacher))[0])] = np.inf
    with pytest.raises(InputError, match=r"^loss kl is (nan|inf)"):
        make([InfoNCE(), KL()]).backward(replace(batch, teacher=teacher))


def test_words_that_are_added_one_by_one_have_the_gradient_that_all_at_once_would_have(make, batch):
    """And a gradient that any optimizer takes, which a second pass adds to."""
    objective = make(IN_BATCH, max_tokens=1)
    words = objective.model[0].auto_model.get_input_embeddings()
    assert words.sparse
    one_by_one = gradient(objective, batch)
    assert words.weight.grad.layout == torch.strided
    words.sparse = False
    agree(gradient(objective, batch), one_by_one)
    once = words.weight.grad.clone()
    words.sparse = True
    objective.backward(batch)
    torch.testing.assert_close(words.weight.grad, 2 * once)
