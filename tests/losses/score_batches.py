"""Score batches for the tests of losses, and the losses that they are put to."""

from dataclasses import replace

import torch

from retrodistill.losses.batch import ScoreBatch
from retrodistill.losses.contrastive import CPRD, InfoNCE
from retrodistill.losses.divergences import KL, InBatchKL, JensenShannon
from retrodistill.losses.listwise import ADRMSE, ListNet
from retrodistill.losses.ndcg import ApproxNDCG, Lambda
from retrodistill.losses.pairwise import MarginMSE, Preference, RankNet
from retrodistill.losses.permutation import PLD, ListMLE, PartialPlackettLuce, PListMLE
from retrodistill.losses.pointwise import BCE, MSE

APART = {"student_temperature": 0.25, "teacher_temperature": 2.0}

LOSSES = {
    "mse": MSE(),
    "mse, scaled": MSE(scale=4.0),
    "bce": BCE(student_temperature=0.5, teacher_temperature=2.0),
    "bce, labels": BCE(target="labels"),
    "margin_mse": MarginMSE(),
    "margin_mse, scaled": MarginMSE(scale=4.0),
    "margin_mse, all pairs": MarginMSE(scale=0.5, pairs="all"),
    "ranknet": RankNet(temperature=0.5),
    "ranknet, by difference": RankNet(weights="difference"),
    "ranknet, by ndcg": RankNet(weights="ndcg"),
    "ranknet, labels by ndcg": RankNet(weights="ndcg", target="labels"),
    "preference": Preference(student_temperature=0.5, teacher_temperature=2.0),
    "kl": KL(),
    "kl, two temperatures": KL(**APART),
    "kl, reverse": KL(direction="reverse", **APART),
    "kl, skewed": KL(skew=0.1, **APART),
    "kl, skewed reverse": KL(direction="reverse", skew=0.3),
    "in_batch_kl": InBatchKL(**APART),
    "in_batch_kl, all": InBatchKL(**APART, unjudged="lowest"),
    "jensen_shannon": JensenShannon(**APART),
    "jensen_shannon, near kl": JensenShannon(beta=0.1),
    "listnet": ListNet(**APART),
    "listnet, labels": ListNet(target="labels", teacher_temperature=0.5),
    "adr_mse": ADRMSE(temperature=0.5),
    "adr_mse, labels": ADRMSE(target="labels"),
    "listmle": ListMLE(temperature=0.5),
    "listmle, labels": ListMLE(target="labels"),
    "p_listmle": PListMLE(),
    "partial_plackett_luce": PartialPlackettLuce(top=2),
    "pld": PLD(**APART),
    "lambda": Lambda(temperature=0.5),
    "lambda, labels": Lambda(target="labels", mu=1.0, gains="linear"),
    "lambda, ndcg_loss1": Lambda(scheme="ndcg_loss1", cutoff=3),
    "lambda, ndcg_loss2": Lambda(scheme="ndcg_loss2"),
    "lambda, lambdarank": Lambda(scheme="lambdarank", cutoff=2),
    "approx_ndcg": ApproxNDCG(temperature=0.5),
    "approx_ndcg, labels": ApproxNDCG(temperature=0.5, target="labels", gains="linear"),
    "infonce": InfoNCE(temperature=0.5),
    "infonce, own": InfoNCE(temperature=0.5, in_batch_negatives=False),
    "infonce, false negatives": InfoNCE(temperature=0.5, false_negative_margin=1.0),
    "infonce, symmetric": InfoNCE(temperature=0.5, symmetric=True),
    "infonce, symmetric false negatives": InfoNCE(temperature=0.5, symmetric=True, false_negative_margin=0.0),
    "cprd": CPRD(temperature=0.5),
    "cprd, own": CPRD(temperature=0.5, in_batch_negatives=False, hard=2),
}

# Those that look at pairs of a query's own documents.
PAIRS = (RankNet, Preference, Lambda, ApproxNDCG, ADRMSE, CPRD)


def make_batch(
    student, *, teacher=None, positive=None, grades=None, own=None, judged=None, valid=None, preferences=None
):
    """A batch from lists; masks are all true, and positives none, where not given. Positives have grade 1."""
    student = torch.as_tensor(student, dtype=torch.float32)
    everywhere = torch.ones(student.shape, dtype=torch.bool)

    def mask(given, default):
        return default if given is None else torch.as_tensor(given, dtype=torch.bool)

    def scores(given, default):
        return default if given is None else torch.as_tensor(given, dtype=torch.float32)

    if positive is None and grades is not None:
        positive = torch.as_tensor(grades) > 0
    positive = mask(positive, ~everywhere)
    return ScoreBatch(
        student=student.clone().requires_grad_(),
        teacher=scores(teacher, torch.zeros(student.shape)),
        judged=mask(judged, everywhere),
        positive=positive,
        grades=scores(grades, positive.float()),
        own=mask(own, everywhere),
        valid=mask(valid, everywhere),
        preferences=scores(preferences, None),
    )


def random_batch(seed, queries=4, documents=9, own=0.7):
    """Ragged lists: random masks of every kind, with scores in [-3, 3], grades to 3; odd seeds bring preferences."""
    generator = torch.Generator().manual_seed(seed)
    shape = (queries, documents)

    def mask(share, shape=shape):
        return torch.rand(shape, generator=generator) < share

    def scores():
        return torch.rand(shape, generator=generator) * 6 - 3

    positive = mask(0.3)
    preferences = torch.rand((*shape, documents), generator=generator)
    return make_batch(
        scores(),
        teacher=scores(),
        positive=positive,
        grades=torch.randint(1, 4, shape, generator=generator) * positive,
        own=mask(own),
        judged=mask(0.8),
        valid=mask(0.85),
        preferences=preferences.where(mask(0.5, preferences.shape), float("nan")) if seed % 2 else None,
    )


def with_student(batch, student):
    return replace(batch, student=student.detach().clone().requires_grad_())


def only(batch, rows, columns=slice(None)):
    """Some queries and documents of a batch, in the order given."""
    kept = {name: tensor.detach()[rows][:, columns] for name, tensor in vars(batch).items() if tensor is not None}
    if batch.preferences is not None:
        kept["preferences"] = kept["preferences"][:, :, columns]
    return ScoreBatch(**kept)


def value_and_gradient(loss, batch):
    """The loss and its gradient at the student's scores."""
    student = batch.student.detach().clone().requires_grad_()
    value = loss(replace(batch, student=student))
    (gradient,) = torch.autograd.grad(value, student)
    return float(value.detach()), gradient
