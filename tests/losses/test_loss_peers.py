import pytest
import torch
from score_batches import make_batch
from sentence_transformers.cross_encoder import losses as peers
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import dot_score

from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.divergences import KL
from retrodistill.losses.listwise import ADRMSE, ListNet
from retrodistill.losses.ndcg import Lambda
from retrodistill.losses.pairwise import MarginMSE, RankNet
from retrodistill.losses.permutation import ListMLE, PListMLE

NAN = float("nan")

# sentence-transformers' losses of bi-encoders see a column of positives and columns of hard negatives, all of them apart.


def columns(seed, queries=5, ways=4, dimensions=7):
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randn((1 + ways, queries, dimensions), generator=generator)
    texts = torch.nn.functional.normalize(texts, dim=-1) if seed % 2 else texts * 0.5
    return texts.requires_grad_(), torch.randn((queries, ways), generator=generator) * 3


def as_batch(texts, labels):
    """Queries against all columns' documents, column after column."""
    queries, ways = labels.shape
    own = torch.eye(queries, dtype=torch.bool).repeat(1, ways)
    teacher = torch.full(own.shape, NAN)
    teacher[own] = labels.flatten()
    positive = torch.zeros_like(own)
    positive[:, :queries] = own[:, :queries]
    batch = make_batch(torch.zeros(own.shape), teacher=teacher, judged=own, own=own, positive=positive)
    object.__setattr__(batch, "student", texts[0] @ texts[1:].flatten(0, 1).T)
    return batch


PAIRS = [
    (MarginMSE(), MarginMSELoss(None), 1),
    (KL(), DistillKLDivLoss(None), 1),
    # theirs multiplies with the student's temperature squared
    (KL(temperature=0.5), DistillKLDivLoss(None, temperature=0.5), 0.25),
    (
        KL(student_temperature=0.2, teacher_temperature=3),
        DistillKLDivLoss(None, student_temperature=0.2, teacher_temperature=3),
        0.04,
    ),
    # their scale is one over the temperature
    (InfoNCE(temperature=0.05), MultipleNegativesRankingLoss(None, scale=20, similarity_fct=dot_score), 1),
    (InfoNCE(temperature=0.5), MultipleNegativesRankingLoss(None, scale=2, similarity_fct=dot_score), 1),
    (
        InfoNCE(temperature=0.5, symmetric=True),
        MultipleNegativesRankingLoss(
            None,
            scale=2,
            similarity_fct=dot_score,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        ),
        1,
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "factor"), PAIRS)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ways", [2, 4])
def test_equal_to_sentence_transformers(ours, theirs, factor, seed, ways):
    texts, labels = columns(seed, ways=ways)
    expected = theirs.compute_loss_from_embeddings(list(texts), labels)
    got = factor * ours(as_batch(texts, labels))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, texts)[0] for value in (got, expected)), rtol=1e-4, atol=1e-5
    )


def test_default_infonce_is_the_default_ranking_loss_on_cosines():
    texts, labels = columns(1)
    expected = MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(list(texts), labels)
    torch.testing.assert_close(InfoNCE()(as_batch(texts, labels)), expected, rtol=1e-6, atol=1e-6)


# Its losses of cross-encoders see a list of documents a query, and a label for each.


class Scores:
    """A cross-encoder that gives the scores it was made with; a document is its place among all of them."""

    num_labels, device = 1, torch.device("cpu")

    def __init__(self, scores):
        self.scores = scores

    def preprocess(self, pairs, **_):
        return {"places": torch.tensor([int(document) for _, document in pairs])}

    def __call__(self, tokens):
        return {"scores": self.scores[tokens["places"]]}


def ragged(seed, queries, steps=None):
    """Student's scores of lists of 2 to 9 documents, and a label >= 0 for each, in `steps` steps where given."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 10, (queries,), generator=generator).tolist()
    scores = torch.randn(sum(lengths), generator=generator) * 2
    labels = torch.rand(sum(lengths), generator=generator) * 3
    return scores.requires_grad_(), (labels if steps is None else (labels * steps / 3).round()).split(lengths)


def by_theirs(make, scores, labels):
    places = [str(place) for place in range(len(scores))]
    documents = [[places.pop(0) for _ in list_] for list_ in labels]
    return make(Scores(scores))([["a query"] * len(labels), documents], list(labels))


def by_ours(loss, scores, labels):
    own = torch.block_diag(*[torch.ones(1, len(list_)) for list_ in labels]).bool()
    grades = torch.cat(labels).expand(own.shape) * own
    batch = make_batch(torch.zeros(own.shape), teacher=grades, own=own, grades=grades, positive=own)
    object.__setattr__(batch, "student", scores.expand(own.shape))
    return loss(batch)


def theirs(name, **options):
    return lambda model: getattr(peers, name)(model, **options)


def theirs_lambda(scheme, k=None, **options):
    return theirs("LambdaLoss", weighting_scheme=getattr(peers, scheme)(**options), k=k, reduction_log="natural")


# The mean of a batch is the mean over its queries, in theirs as in ours.
BY_QUERY = [
    (ListNet(), theirs("ListNetLoss")),
    (ListMLE(), theirs("ListMLELoss", respect_input_order=False)),
    (PListMLE(), theirs("PListMLELoss", respect_input_order=False)),
]
# Theirs is the mean over all pairs (documents, for ADR-MSE) of a batch, so that one query is compared at a time; and
# bits are the default, ours are nats.
BY_PAIR = [
    (RankNet(), theirs("RankNetLoss", reduction_log="natural")),
    (RankNet(temperature=0.5), theirs("RankNetLoss", sigma=2.0, reduction_log="natural")),
    (ADRMSE(), theirs("ADRMSELoss")),
    (ADRMSE(temperature=0.5), theirs("ADRMSELoss", alpha=2.0)),
    (Lambda(), theirs_lambda("NDCGLoss2PPScheme")),
    (Lambda(mu=2.0, cutoff=3), theirs_lambda("NDCGLoss2PPScheme", k=3, mu=2.0)),
    (Lambda(scheme="ndcg_loss2"), theirs_lambda("NDCGLoss2Scheme")),
    (Lambda(scheme="ndcg_loss2", cutoff=2), theirs_lambda("NDCGLoss2Scheme", k=2)),
    (Lambda(scheme="lambdarank"), theirs_lambda("LambdaRankScheme")),
    (Lambda(scheme="lambdarank", cutoff=1), theirs_lambda("LambdaRankScheme", k=1)),
    (Lambda(scheme="ndcg_loss1"), theirs_lambda("NDCGLoss1Scheme")),
    (Lambda(scheme="ndcg_loss1", cutoff=2), theirs_lambda("NDCGLoss1Scheme", k=2)),
]


def agree(ours, make, seed, queries, steps=None):
    scores, labels = ragged(seed, queries, steps)
    got, expected = by_ours(ours, scores, labels), by_theirs(make, scores, labels)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(value, scores)[0] for value in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert gradients[0].any()


@pytest.mark.parametrize(("ours", "make"), BY_QUERY)
@pytest.mark.parametrize("target", ["teacher", "labels"])
@pytest.mark.parametrize("seed", range(6))
def test_lists_equal_to_sentence_transformers(ours, make, target, seed):
    agree(ours.model_copy(update={"target": target}), make, seed, queries=5)


@pytest.mark.parametrize(("ours", "make"), BY_PAIR)
@pytest.mark.parametrize("seed", range(6))
def test_pairs_equal_to_sentence_transformers(ours, make, seed):
    ours = ours.model_copy(update={"target": "labels"})
    agree(ours, make, seed, queries=1)
    agree(ours, make, seed + 100, queries=1, steps=3)


@pytest.mark.parametrize(("ours", "make"), BY_PAIR[:4])
@pytest.mark.parametrize("seed", range(6))
def test_orders_of_a_teacher_equal_to_sentence_transformers(ours, make, seed):
    agree(ours, make, seed, queries=1)
