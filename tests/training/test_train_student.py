import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer
from small_training import candidates_over, teacher_over

from retrodistill.collections import Collection
from retrodistill.collections.texts import Texts
from retrodistill.errors import InputError
from retrodistill.files import digest_of
from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.divergences import KL
from retrodistill.losses.pairwise import MarginMSE
from retrodistill.models import digest
from retrodistill.students.dense import DenseStudent
from retrodistill.training.objective import Objective
from retrodistill.training.options import TrainOptions
from retrodistill.training.train import describe, loss_line, resolve_precision, train
from retrodistill.training.trainer import StudentTrainer

SHORT = TrainOptions(epochs=1, batch_size=6, documents=4, precision="fp32", learning_rate=1e-3)


@pytest.fixture
def problem(tiny_model, collection):
    """The arguments of a training, but for the folder and the options."""
    candidates = candidates_over(collection)
    return {
        "student": DenseStudent(model=str(tiny_model), layers=2),
        "losses": [KL(student_temperature=0.1)],
        "candidates": candidates,
        "collection": collection,
        "teacher": teacher_over(candidates),
    }


@pytest.mark.parametrize("loss", [KL(student_temperature=0.1), MarginMSE(scale=10), InfoNCE()])
def test_the_loss_falls_and_the_student_ranks_as_it_was_taught(problem, tmp_path, loss):
    student = problem["student"]
    manifest = train(
        **{**problem, "losses": [loss]},
        out=tmp_path / "m",
        options=TrainOptions(epochs=12, batch_size=6, documents=6, precision="fp32", learning_rate=2e-3),
    )
    steps = [line["loss"] for line in manifest["log"]]
    assert len(steps) == 24
    assert np.mean(steps[-4:]) < 0.7 * np.mean(steps[:4])
    teacher = np.nan_to_num(problem["teacher"], nan=-np.inf)

    def agreement(model):
        candidates, collection = problem["candidates"], problem["collection"]
        queries = model.encode([collection.queries.text(query) for query in candidates.query_ids])
        documents = model.encode([collection.corpus.text(doc) for doc in candidates.doc_ids])
        scores, known = (queries * documents).sum(axis=1), np.isfinite(teacher)
        return np.corrcoef(scores[known], teacher[known])[0, 1]

    assert agreement(SentenceTransformer(str(tmp_path / "m"), device="cpu")) > agreement(student.load("cpu")) + 0.1


def test_the_folder_holds_a_model_and_its_manifest(problem, tmp_path):
    out = tmp_path / "deep" / "er" / "m"
    losses = [KL(weight=0.5), MarginMSE()]
    manifest = train(**{**problem, "losses": losses}, out=out, options=SHORT, seed=3, extra={"note": "by hand"})
    manifest = json.loads(json.dumps(manifest))  # tuples are lists there
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert [path.name for path in out.parent.iterdir()] == ["m"]  # nothing of OUT.partial
    assert len(SentenceTransformer(str(out), device="cpu")[0].auto_model.encoder.layer) == 2
    candidates = problem["candidates"]
    asked = describe(
        problem["student"], losses, candidates, problem["collection"], teacher=problem["teacher"], options=SHORT, seed=3
    )
    expected = {
        "artefact": "model",
        "student": problem["student"].model_dump(mode="json"),
        "options": SHORT.model_dump(mode="json"),
        "seed": 3,
        "collection": problem["collection"].name,
        "inputs": json.loads(json.dumps(asked)),
        "note": "by hand",
        "queries": 12,
        "pairs": len(candidates),
        "judged": int((~np.isnan(problem["teacher"])).sum()),
        "positives": 18,
        "steps": 2,
        "device": "cpu",
        "precision": "fp32",
    }
    assert {key: manifest[key] for key in expected} == expected
    assert [line["step"] for line in manifest["log"]] == [1, 2]
    for line in manifest["log"]:
        assert line["loss"] == pytest.approx(0.5 * line["kl"] + line["margin_mse"], abs=1e-5)
        assert line["kl_without_entries"] == 0
    assert manifest["seconds"] > 0


def test_the_same_training_twice_gives_the_same_weights_and_another_seed_others(problem, tmp_path):
    weights = [
        train(**problem, out=tmp_path / name, options=SHORT, seed=seed)
        and (tmp_path / name / "model.safetensors").read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"epochs": 3}, 6), ({"epochs": 3, "max_steps": 4}, 4), ({"max_steps": 9}, 2), ({"batch_size": 5}, 3)],
)
def test_steps_are_epochs_of_batches_or_what_is_allowed(problem, tmp_path, options, steps):
    manifest = train(**problem, out=tmp_path / "m", options=SHORT.model_copy(update=options))
    assert manifest["steps"] == manifest["log"][-1]["step"] == steps


def test_the_rate_rises_and_falls(problem, tmp_path):
    options = SHORT.model_copy(update={"epochs": 5, "warmup": 0.4})
    manifest = train(**problem, out=tmp_path / "m", options=options)
    rates = [line["learning_rate"] for line in manifest["log"]]
    shares = [step / 4 if step < 4 else (10 - step) / 6 for step in range(10)]
    np.testing.assert_allclose(rates, [1e-3 * share for share in shares], rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"seed": 1}, False),
        ({"losses": [KL(student_temperature=0.2)]}, False),
        ({"losses": [KL(student_temperature=0.1, weight=2)]}, False),
        ({"teacher": None}, False),
        *(({"options": SHORT.model_copy(update={name: value})}, False) for name, value in [
         ("epochs", 2), ("max_steps", 1), ("batch_size", 4), ("documents", 5), ("pick", "top"), ("precision", "bf16"),
         ("learning_rate", 1e-4), ("warmup", 0.5), ("schedule", "cosine"), ("weight_decay", 0.1), ("max_grad_norm", 0), ("max_tokens", 5),
        ]),
        *(({"options": SHORT.model_copy(update={name: value})}, True) for name, value in [
            ("checkpoint_every", 3), ("report_to", ("wandb",)),
        ]),
    ],
)  # fmt: skip
def test_the_fingerprint_changes_with_what_decides_the_weights(problem, changed, same):
    asked = {**problem, "options": SHORT, "seed": 0}
    before, after = (digest_of(describe(**arguments)) for arguments in (asked, {**asked, **changed}))
    assert (before == after) == same


def test_the_fingerprint_changes_with_texts_candidates_judgements_and_the_student(problem, collection):
    asked = {**problem, "options": SHORT, "seed": 0}
    teacher = problem["teacher"].copy()
    teacher[1] += 1e-6
    others = [
        {"teacher": teacher},
        {"candidates": candidates_over(collection, depth=9)},
        {"candidates": candidates_over(collection, labels=False)},
        {"student": problem["student"].model_copy(update={"layers": 3})},
        {"collection": Collection("other", collection.corpus, Texts.queries("other", [("q", "other")]), {})},
    ]
    digests = {digest_of(describe(**{**asked, **other})) for other in [{}, *others]}
    assert len(digests) == 1 + len(others)


def test_the_fingerprint_changes_with_labels_that_candidates_do_not_have_and_only_with_them(problem, collection):
    asked = {**problem, "options": SHORT, "seed": 0}
    query, doc = problem["candidates"].queries[0], collection.corpus.ids[-1]
    assert doc not in problem["candidates"].doc_ids[:10]

    def inputs(grades):
        qrels = {**collection.qrels("train"), query: {**collection.qrels("train")[query], **grades}}
        return describe(
            **{**asked, "collection": Collection("c", collection.corpus, collection.queries, {"train": qrels})}
        )

    assert inputs({}) == inputs({doc: 0}) == describe(**asked)
    assert digest_of(inputs({doc: 1})) not in {digest_of(inputs({})), digest_of(inputs({doc: 2}))}


def test_a_folder_of_something_else_is_refused_before_any_work(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(Objective, "backward", None)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else, which would be replaced"):
        train(**problem, out=tmp_path / "m", options=SHORT)
    assert [path.name for path in tmp_path.rglob("*")] == ["m", "thesis.txt"]


def test_what_others_find_at_the_place_changes_only_at_the_end(problem, tmp_path, monkeypatch):
    out = tmp_path / "m"
    out.mkdir()
    for name in ("manifest.json", "precious"):
        (out / name).write_text("{}")
    seen = []
    backward = Objective.backward

    def watched(self, batch, progress=0.0):
        seen.append((sorted(path.name for path in out.iterdir()), (tmp_path / "m.partial").is_dir()))
        return backward(self, batch, progress)

    monkeypatch.setattr(Objective, "backward", watched)
    train(**problem, out=out, options=SHORT)
    assert seen == [(["manifest.json", "precious"], True)] * 2
    assert not (out / "precious").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_a_loss_that_is_not_finite_ends_it_and_leaves_the_folder_alone(problem, tmp_path):
    teacher = problem["teacher"].copy()
    teacher[np.isfinite(teacher)] = np.inf
    with pytest.raises(InputError, match=r"^loss kl is nan"):
        train(**{**problem, "teacher": teacher}, out=tmp_path / "m", options=SHORT)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("loss", [KL(), MarginMSE()])
@pytest.mark.parametrize("missing", [True, False])
def test_a_loss_that_learns_from_a_teacher_needs_one(problem, tmp_path, loss, missing):
    teacher = None if missing else np.full_like(problem["teacher"], np.nan)
    with pytest.raises(
        InputError, match=f"^loss {loss.kind} learns from a teacher, but none of the 120 candidates has a score"
    ):
        train(**{**problem, "teacher": teacher, "losses": [InfoNCE(), loss]}, out=tmp_path / "m", options=SHORT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loss", [InfoNCE(), MarginMSE()])
def test_a_loss_that_learns_from_labels_needs_them(problem, collection, tmp_path, loss):
    unlabelled = {**problem, "candidates": candidates_over(collection, labels=False)}
    with pytest.raises(
        InputError, match=f"^loss {loss.kind} needs labelled positives, but no candidate is labelled relevant"
    ):
        train(**{**unlabelled, "losses": [KL(), loss]}, out=tmp_path / "m", options=SHORT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [5, 240])
def test_one_score_a_candidate(problem, tmp_path, count):
    with pytest.raises(InputError, match=f"^teacher: got {count} scores for 120 candidates; give one for each"):
        train(**{**problem, "teacher": np.resize(problem["teacher"], count)}, out=tmp_path / "m", options=SHORT)


def test_a_logger_that_is_not_installed_is_told_before_any_work(problem, tmp_path, monkeypatch):
    monkeypatch.setattr("retrodistill.training.train.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^train.report_to: trackio is not installed; pip install trackio"):
        train(**problem, out=tmp_path / "m", options=SHORT.model_copy(update={"report_to": ("trackio",)}))
    assert not list(tmp_path.iterdir())


def test_labels_alone_are_enough_for_infonce_and_a_teacher_alone_for_kl(problem, collection, tmp_path):
    train(**{**problem, "teacher": None, "losses": [InfoNCE()]}, out=tmp_path / "a", options=SHORT)
    train(**{**problem, "candidates": candidates_over(collection, labels=False)}, out=tmp_path / "b", options=SHORT)


def test_the_model_it_starts_from_is_left_as_it_is(problem, tiny_model, tmp_path):
    before = digest(str(tiny_model))
    train(**problem, out=tmp_path / "m", options=SHORT)
    digest.__globals__["_digest"].cache_clear()
    assert digest(str(tiny_model)) == before != digest(str(tmp_path / "m"))


def test_it_trains_with_dropout(problem, tmp_path):
    weights = []
    for rate in (0.0, 0.5):
        student = DenseStudent(model=problem["student"].model, layers=2, dropout=rate)
        train(**{**problem, "student": student}, out=tmp_path / "m", options=SHORT)
        weights.append((tmp_path / "m" / "model.safetensors").read_bytes())
    assert weights[0] != weights[1]


def test_bf16_trains(problem, tmp_path):
    manifest = train(**problem, out=tmp_path / "m", options=SHORT.model_copy(update={"precision": "bf16"}))
    assert manifest["precision"] == "bf16"
    weights = SentenceTransformer(str(tmp_path / "m"), device="cpu").state_dict()
    assert all(weight.isfinite().all() for weight in weights.values())
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}


def test_fp16_without_a_gpu_is_refused_before_any_work(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(Objective, "backward", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        InputError, match=r"^train.precision: fp16 is for a GPU, and torch sees none here; use auto, bf16"
    ):
        train(**problem, out=tmp_path / "m", options=SHORT.model_copy(update={"precision": "fp16"}))
    assert not list(tmp_path.iterdir())


class _Scaled(StudentTrainer):
    """Scales as on a GPU, from where the first steps overflow."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-80)
        self.objective.scaled = self.accelerator.scaler.scale


def test_a_step_that_overflows_when_scaled_is_left_out_and_the_rest_is_trained(problem, tmp_path, monkeypatch):
    options = SHORT.model_copy(update={"epochs": 4, "max_grad_norm": 0.0})
    plain = train(**problem, out=tmp_path / "plain", options=options)
    monkeypatch.setattr("retrodistill.training.trainer.StudentTrainer", _Scaled)
    scaled = train(**problem, out=tmp_path / "scaled", options=options)
    assert scaled["steps"] == plain["steps"] == 8
    assert not np.isfinite(scaled["log"][0]["grad_norm"]) and np.isfinite(scaled["log"][-1]["grad_norm"])
    assert scaled["log"][0]["loss"] == plain["log"][0]["loss"] == scaled["log"][0]["kl"] < 10
    assert scaled["log"][-1]["loss"] < scaled["log"][0]["loss"]
    weights = SentenceTransformer(str(tmp_path / "scaled"), device="cpu").state_dict()
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_fp16_trains_on_a_gpu(problem, tmp_path):
    manifest = train(**problem, out=tmp_path / "m", options=SHORT.model_copy(update={"epochs": 6, "precision": "fp16"}))
    assert manifest["precision"] == "fp16" and manifest["steps"] == 12
    assert manifest["log"][-1]["loss"] < manifest["log"][0]["loss"]
    weights = SentenceTransformer(str(tmp_path / "m"), device="cpu").state_dict()
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_small_budget_of_tokens_trains_the_same(problem, tmp_path):
    still = {**problem, "student": DenseStudent(model=problem["student"].model, layers=2, dropout=0.0)}
    found = []
    for budget in (10**6, 1):
        train(**still, out=tmp_path / "m", options=SHORT.model_copy(update={"max_tokens": budget}))
        found.append(SentenceTransformer(str(tmp_path / "m"), device="cpu").encode(["storm wind", "bread"]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_how_the_loss_went_in_words():
    log = [{"loss": value} for value in (4, 2, 9, 9, 9, 9, 9, 9, 1.5, 0.5, 7)]
    assert loss_line(log) == "loss 3.0000 in the first fifth, 3.7500 in the last"
    assert loss_line(log[:1]) == "loss 4.0000 in the first fifth, 4.0000 in the last"


def test_precision(monkeypatch):
    assert resolve_precision("fp32", "cuda:0") == "fp32"
    assert resolve_precision("bf16", "cpu") == "bf16"
    for has in (True, False):
        wanted = "bf16" if has else "fp32"
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert resolve_precision("auto", "cpu") == wanted
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert resolve_precision("auto", "cuda") == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"documents": 1},
        {"learning_rate": 0},
        {"warmup": 1},
        {"pick": "best"},
        {"epoch": 1},
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ValidationError):
        TrainOptions(**options)
