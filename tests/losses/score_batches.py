"""Score batches for the tests of losses, and each loss once more: in loops, float64, straight from its formula."""

from dataclasses import replace

import torch

from retrodistill.losses.batch import ScoreBatch
from retrodistill.losses.listwise import KL, InfoNCE
from retrodistill.losses.pairwise import MarginMSE

LOSSES = {
    "kl": KL(),
    "kl, two temperatures": KL(student_temperature=0.25, teacher_temperature=2.0),
    "infonce": InfoNCE(temperature=0.5),
    "infonce, own": InfoNCE(temperature=0.5, in_batch_negatives=False),
    "margin_mse": MarginMSE(),
    "margin_mse, scaled": MarginMSE(scale=4.0),
}


def make_batch(student, *, teacher=None, positive=None, own=None, judged=None, valid=None):
    """A batch from lists; masks are all true, and positives none, where not given."""
    student = torch.as_tensor(student, dtype=torch.float32)
    everywhere = torch.ones(student.shape, dtype=torch.bool)

    def mask(given, default):
        return default if given is None else torch.as_tensor(given, dtype=torch.bool)

    return ScoreBatch(
        student=student.clone().requires_grad_(),
        teacher=torch.zeros(student.shape) if teacher is None else torch.as_tensor(teacher, dtype=torch.float32),
        judged=mask(judged, everywhere),
        positive=mask(positive, ~everywhere),
        own=mask(own, everywhere),
        valid=mask(valid, everywhere),
    )


def random_batch(seed, queries=4, documents=9):
    """Ragged lists: random masks of every kind, with scores in [-3, 3]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (queries, documents)

    def mask(share):
        return torch.rand(shape, generator=generator) < share

    def scores():
        return torch.rand(shape, generator=generator) * 6 - 3

    return make_batch(scores(), teacher=scores(), positive=mask(0.3), own=mask(0.7), judged=mask(0.8), valid=mask(0.85))


def with_student(batch, student):
    return replace(batch, student=student.detach().clone().requires_grad_())


def value_and_gradient(loss, batch):
    """The loss and its gradient at the student's scores."""
    student = batch.student.detach().clone().requires_grad_()
    value = loss(replace(batch, student=student))
    (gradient,) = torch.autograd.grad(value, student)
    return float(value.detach()), gradient


def reference(loss, batch, student=None):
    """What the loss's formula says, in loops and float64."""
    student = batch.student.detach().double() if student is None else student
    values = [_OF[type(loss)](loss, batch, student[query], query) for query in range(len(student))]
    counted = [value for value in values if value is not None]
    return sum(counted) / len(counted) if counted else torch.tensor(0.0, dtype=torch.float64)


def _rows(mask):
    return mask.nonzero().flatten().tolist()


def _kl(loss, batch, student, query):
    rows = _rows(batch.own[query] & batch.valid[query] & batch.judged[query])
    if len(rows) < 2:
        return None
    wanted = (batch.teacher[query, rows].double() / (loss.teacher_temperature or loss.temperature)).softmax(0)
    given = (student[rows] / (loss.student_temperature or loss.temperature)).softmax(0)
    return sum(w * (w.log() - g.log()) for w, g in zip(wanted, given, strict=True))


def _infonce(loss, batch, student, query):
    positive = _rows(batch.positive[query] & batch.own[query] & batch.valid[query])
    pool = batch.valid[query] & ~batch.positive[query]
    negative = _rows(pool if loss.in_batch_negatives else pool & batch.own[query])
    if not positive or not negative:
        return None
    weights = (student / loss.temperature).exp()
    losses = [-(weights[p] / (weights[p] + weights[negative].sum())).log() for p in positive]
    return sum(losses) / len(losses)


def _margin_mse(loss, batch, student, query):
    judged = batch.own[query] & batch.valid[query] & batch.judged[query]
    teacher = batch.teacher[query].double()
    errors = [
        (loss.scale * (student[p] - student[other]) - (teacher[p] - teacher[other])) ** 2
        for p in _rows(judged & batch.positive[query])
        for other in _rows(judged & ~batch.positive[query])
    ]
    return sum(errors) / len(errors) if errors else None


_OF = {KL: _kl, InfoNCE: _infonce, MarginMSE: _margin_mse}
