import pytest
from small_training import candidates_over, lists_over, teacher_over

from retrodistill.losses.divergences import KL
from retrodistill.losses.schedules import Schedule
from retrodistill.students.dense import DenseStudent
from retrodistill.training.objective import Objective
from retrodistill.training.options import TrainOptions
from retrodistill.training.train import train


def test_a_loss_weighs_what_its_schedule_says(tiny_model, collection):
    student = DenseStudent(model=str(tiny_model), dropout=0.0, layers=2)
    losses = [KL(weight=Schedule(start=1, end=3)), KL(temperature=0.5, weight=2)]
    model = student.load("cpu")

    def tokens(role, rows):
        return student.tokenize(model, (collection.queries if role == "query" else collection.corpus).texts(rows), role)

    objective = Objective(student, model, losses, tokens, precision="fp32", max_tokens=10**6)
    batch = lists_over(collection).batch(0)
    for progress, weight in [(0, 1), (0.5, 2), (1, 3)]:
        parts = objective.backward(batch, progress)
        assert parts["loss"] == pytest.approx(weight * parts["kl_1"] + 2 * parts["kl_2"])


def test_training_tells_how_far_it_is(tiny_model, collection, tmp_path, monkeypatch):
    seen = []
    at = Schedule.at
    monkeypatch.setattr(Schedule, "at", lambda self, progress: seen.append(progress) or at(self, progress))
    candidates = candidates_over(collection)
    train(
        DenseStudent(model=str(tiny_model), layers=2),
        [KL(weight=Schedule(over=0.5))],
        candidates,
        collection,
        tmp_path / "m",
        teacher=teacher_over(candidates),
        options=TrainOptions(epochs=2, max_steps=4, batch_size=4, documents=4, precision="fp32"),
    )
    assert sorted(set(seen)) == [0, 0.25, 0.5, 0.75]
