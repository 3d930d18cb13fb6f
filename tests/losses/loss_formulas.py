"""Each loss once more: in loops over plain Python floats, straight from its formula."""

import math
from typing import NamedTuple

from retrodistill.losses.contrastive import CPRD, InfoNCE
from retrodistill.losses.divergences import KL, InBatchKL, JensenShannon
from retrodistill.losses.listwise import ADRMSE, ListNet
from retrodistill.losses.ndcg import ApproxNDCG, Lambda
from retrodistill.losses.pairwise import MarginMSE, Preference, RankNet
from retrodistill.losses.permutation import PLD, ListMLE, PartialPlackettLuce, PListMLE
from retrodistill.losses.pointwise import BCE, MSE


class Document(NamedTuple):
    """One entry of a score matrix."""

    row: int
    student: float
    teacher: float
    judged: bool
    positive: bool
    grade: float
    own: bool
    valid: bool


class Query(NamedTuple):
    """A row of a score batch."""

    documents: list[Document]
    preferences: list[list[float]] | None

    @property
    def own(self):
        return [document for document in self.documents if document.own and document.valid]

    @property
    def taught(self):
        return [document for document in self.own if document.judged]


def reference(loss, batch, student=None):
    """The mean of the formula over the queries that have a value; 0 where none has one."""
    student = batch.student.detach().double() if student is None else student
    columns = [student, batch.teacher, batch.judged, batch.positive, batch.grades, batch.own, batch.valid]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    documents = [[Document(row, *entry) for row, entry in enumerate(zip(*query, strict=True))] for query in rows]
    preferences = [None] * len(documents) if batch.preferences is None else batch.preferences.tolist()
    queries = [Query(*pair) for pair in zip(documents, preferences, strict=True)]
    values = [_OF[type(loss)](loss, query, queries) for query in queries]
    counted = [value for value in values if value is not None]
    return sum(counted) / len(counted) if counted else 0.0


def _mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


def _sigmoid(score):
    return 1 / (1 + math.exp(-score))


def _softmax(scores):
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


def _target(loss, query):
    """The documents that have a target, each with it."""
    if loss.target == "teacher":
        return [(document, document.teacher) for document in query.taught]
    return [(document, document.grade) for document in query.own] if any(d.positive for d in query.own) else []


def _sides(loss):
    return loss.student_temperature or loss.temperature, loss.teacher_temperature or loss.temperature


def _mse(loss, query, _):
    return _mean((loss.scale * d.student - d.teacher) ** 2 for d in query.taught)


def _bce(loss, query, _):
    cold, wanted = _sides(loss)

    def one(document, target):
        p = _sigmoid(target / wanted) if loss.target == "teacher" else float(target > 0)
        q = _sigmoid(document.student / cold)
        return -p * math.log(q) - (1 - p) * math.log(1 - q)

    return _mean(one(*pair) for pair in _target(loss, query))


def _margin_mse(loss, query, _):
    def is_pair(first, second):
        return first is not second if loss.pairs == "all" else first.positive and not second.positive

    return _mean(
        (loss.scale * (first.student - second.student) - (first.teacher - second.teacher)) ** 2
        for first in query.taught
        for second in query.taught
        if is_pair(first, second)
    )


def _gains(loss, listed, exponential=True, cutoff=None):
    """The gain of each document over the ideal DCG."""
    targets = [target for _, target in listed]
    if loss.target == "teacher" and max(targets) > min(targets):
        targets = [(target - min(targets)) / (max(targets) - min(targets)) for target in targets]
    gains = [2**target - 1 if exponential else target for target in targets]
    best = sorted(gains, reverse=True)[:cutoff]
    return [gain / sum(g / math.log2(2 + place) for place, g in enumerate(best)) for gain in gains]


def _ranks(listed):
    order = sorted(range(len(listed)), key=lambda place: (-listed[place][0].student, listed[place][1]))
    return [order.index(place) + 1 for place in range(len(listed))]


def _better(listed):
    """Places of pairs, the better one first."""
    places = range(len(listed))
    return [(i, j) for i in places for j in places if listed[i][1] > listed[j][1]]


def _discount(rank):
    return 1 / math.log2(1 + rank)


def _ranknet(loss, query, _):
    listed = _target(loss, query)
    better = _better(listed)
    if not better:
        return None
    if loss.weights == "none":
        weights = [1.0] * len(better)
    elif loss.weights == "difference":
        weights = [listed[i][1] - listed[j][1] for i, j in better]
    else:
        gains, rank = _gains(loss, listed), _ranks(listed)
        weights = [abs(gains[i] - gains[j]) * abs(_discount(rank[i]) - _discount(rank[j])) for i, j in better]
    apart = [(listed[i][0].student - listed[j][0].student) / loss.temperature for i, j in better]
    return sum(w * math.log(1 + math.exp(-a)) for w, a in zip(weights, apart, strict=True)) / sum(weights)


def _preference(loss, query, _):
    cold, wanted = _sides(loss)
    compared = []
    for first in query.own:
        for second in query.own:
            if query.preferences is not None:
                p = query.preferences[first.row][second.row]
            elif first.judged and second.judged:
                p = _sigmoid((first.teacher - second.teacher) / wanted)
            else:
                continue
            if first is not second and not math.isnan(p):
                q = _sigmoid((first.student - second.student) / cold)
                compared.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    return _mean(compared)


def _divergence(between):
    def of(loss, query, _):
        documents = query.taught
        if loss.in_batch:
            documents = [document for document in query.documents if document.valid and document.judged]
        scores = {id(document): document.teacher for document in documents}
        if loss.in_batch and loss.unjudged == "lowest" and documents:
            lowest = min(scores.values())
            documents = [document for document in query.documents if document.valid]
            scores = {id(document): scores.get(id(document), lowest) for document in documents}
        if len(documents) < 2:
            return None
        cold, wanted = _sides(loss)
        teacher = _softmax([scores[id(document)] / wanted for document in documents])
        student = _softmax([document.student / cold for document in documents])
        return between(loss, teacher, student)

    return of


def _skew_kl(loss, teacher, student):
    first, second = (teacher, student) if loss.direction == "forward" else (student, teacher)
    return _kl(first, [loss.skew * a + (1 - loss.skew) * b for a, b in zip(first, second, strict=True)])


def _jensen_shannon(loss, teacher, student):
    middle = [loss.beta * p + (1 - loss.beta) * q for p, q in zip(teacher, student, strict=True)]
    return loss.beta * _kl(teacher, middle) + (1 - loss.beta) * _kl(student, middle)


def _kl(first, second):
    return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))


def _listnet(loss, query, _):
    listed, (cold, wanted) = _target(loss, query), _sides(loss)
    if len(listed) < 2:
        return None
    shares = _softmax([target / wanted for _, target in listed])
    given = _softmax([document.student / cold for document, _ in listed])
    return -sum(share * math.log(q) for share, q in zip(shares, given, strict=True))


def _soft_ranks(loss, listed):
    scores = [document.student / loss.temperature for document, _ in listed]
    return [0.5 + sum(_sigmoid(other - score) for other in scores) for score in scores]


def _adr_mse(loss, query, _):
    listed = _target(loss, query)
    if len(listed) < 2:
        return None
    targets = [target for _, target in listed]
    order = sorted(targets, reverse=True)
    shared = [_mean(place for place, other in enumerate(order, 1) if other == target) for target in targets]
    return _mean(_discount(r) * (r - soft) ** 2 for r, soft in zip(shared, _soft_ranks(loss, listed), strict=True))


def _choices(scores):
    return [math.log(sum(math.exp(s - score) for s in scores[place:])) for place, score in enumerate(scores)]


def _chain(shares):
    def of(loss, query, _):
        listed = sorted(_target(loss, query), key=lambda pair: (-pair[1], pair[0].student))
        if len(listed) < 2:
            return None
        losses = _choices([document.student / loss.temperature for document, _ in listed])
        return sum(share * value for share, value in zip(shares(loss, len(losses)), losses, strict=True))

    return of


def _powers(_, count):
    powers = [2 ** (count - rank) - 1 for rank in range(1, count + 1)]
    return [power / sum(powers) for power in powers]


def _pld(loss, query, _):
    cold, wanted = _sides(loss)
    listed = sorted(query.taught, key=lambda document: (-document.grade, -document.teacher, document.student))
    if len(listed) < 2:
        return None
    belief = _softmax([document.teacher / wanted for document in listed])
    return sum(b * c for b, c in zip(belief, _choices([d.student / cold for d in listed]), strict=True))


def _lambda(loss, query, _):
    listed = _target(loss, query)
    if not _better(listed):
        return None
    gains, rank = _gains(loss, listed, loss.gains == "exponential", loss.cutoff), _ranks(listed)

    def weight(i, j):
        gap, swap = abs(rank[i] - rank[j]), abs(_discount(rank[i]) - _discount(rank[j]))
        if loss.scheme == "ndcg_loss1":
            return gains[i] * _discount(rank[i])
        if loss.scheme == "lambdarank":
            return abs(gains[i] - gains[j]) * swap
        tighter = _discount(gap) - _discount(gap + 1)
        return abs(gains[i] - gains[j]) * (tighter if loss.scheme == "ndcg_loss2" else loss.mu * tighter + swap)

    everything = [(i, j) for i in range(len(listed)) for j in range(len(listed))]
    return _mean(
        weight(i, j) * math.log(1 + math.exp((listed[j][0].student - listed[i][0].student) / loss.temperature))
        for i, j in (everything if loss.scheme == "ndcg_loss1" else _better(listed))
        if min(rank[i], rank[j]) <= (loss.cutoff or len(listed))
    )


def _approx_ndcg(loss, query, _):
    listed = _target(loss, query)
    if not _better(listed):
        return None
    gains = _gains(loss, listed, loss.gains == "exponential")
    return 1 - sum(gain * _discount(rank) for gain, rank in zip(gains, _soft_ranks(loss, listed), strict=True))


def _infonce(loss, query, queries):
    def negatives(query):
        least = min((d.teacher for d in query.own if d.positive and d.judged), default=math.inf)

        def likely_relevant(d):
            return (
                loss.false_negative_margin is not None and d.judged and d.teacher >= least - loss.false_negative_margin
            )

        usable = query.documents if loss.in_batch_negatives else query.own
        return [d for d in usable if d.valid and not d.positive and not likely_relevant(d)]

    def against(score, others):
        return -math.log(1 / (1 + sum(math.exp((other.student - score) / loss.temperature) for other in others)))

    positives = [document for document in query.own if document.positive]
    if not positives or not negatives(query):
        return None
    value = _mean(against(document.student, negatives(query)) for document in positives)
    if loss.symmetric:
        back = {d.row: [n for other in queries for n in negatives(other) if n.row == d.row] for d in positives}
        found = [against(d.student, back[d.row]) for d in positives if back[d.row]]
        value = (value + _mean(found)) / 2 if found else value
    return value


def _cprd(loss, query, _):
    own = [document for document in query.taught if not document.positive]
    others = [d for d in query.documents if d.valid and not d.own and not d.positive] if loss.in_batch else []
    losses = []
    for document in own:
        easier = [other for other in own if other.teacher < document.teacher] + others
        better = [other for other in own if other.teacher > document.teacher]
        if easier and (loss.hard is None or len(better) < loss.hard):
            weights = [math.exp(d.student / loss.temperature) for d in [document, *easier]]
            losses.append(-math.log(weights[0] / sum(weights)))
    return _mean(losses)


_OF = {
    MSE: _mse,
    BCE: _bce,
    MarginMSE: _margin_mse,
    RankNet: _ranknet,
    Preference: _preference,
    KL: _divergence(_skew_kl),
    InBatchKL: _divergence(_skew_kl),
    JensenShannon: _divergence(_jensen_shannon),
    ListNet: _listnet,
    ADRMSE: _adr_mse,
    ListMLE: _chain(lambda loss, count: [1] * count),
    PListMLE: _chain(_powers),
    PartialPlackettLuce: _chain(lambda loss, count: [float(place < loss.top) for place in range(count)]),
    PLD: _pld,
    Lambda: _lambda,
    ApproxNDCG: _approx_ndcg,
    InfoNCE: _infonce,
    CPRD: _cprd,
}
