"""Retrieval metrics as trec_eval defines them, under the names that ir_measures gives them.

All metrics of a query read one `Ranking`: the grades in the order of the ranks, and the grades of everything judged.
A metric is one small function and one row of `METRICS`. Names in every common spelling are understood: `MAP@100`,
`ndcg_cut_10`, `recip_rank`, `AP(rel=2)@100`, `nDCG(dcg='exp-log2')@10`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from retrodistill.errors import InputError, Problems, nearest
from retrodistill.runs import Qrels, Run, ranked

UNLISTED = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Ranking:
    """One query's results as its judgements see them.

    Attributes:
        grades: int64, shape (results,): the grade at each rank, `UNLISTED` where the judgements do not name the
            document. A negative grade is trec_eval's "pooled, but not judged": never relevant, no gain.
        pool: int64, shape (judgements,): the grades of all judged documents, the greatest first.
    """

    grades: np.ndarray
    pool: np.ndarray

    @classmethod
    def of(cls, scores: Mapping[str, float], judgements: Mapping[str, int]) -> Ranking:
        """Order the results by `runs.ranked`'s rule and look up their grades."""
        documents = ranked(scores)
        grades = np.fromiter((judgements.get(d, UNLISTED) for d in documents), dtype=np.int64, count=len(documents))
        pool = np.fromiter(judgements.values(), dtype=np.int64, count=len(judgements))
        return cls(grades, np.sort(pool)[::-1])

    def hits(self, rel: int) -> np.ndarray:
        """Whether the document at each rank is relevant (bool, shape (results,))."""
        return self.grades >= rel

    def found(self, rel: int) -> int:
        """How many results are relevant."""
        return int(np.count_nonzero(self.hits(rel)))

    def relevant(self, rel: int) -> int:
        """How many relevant documents the query has, found or not."""
        return int(np.count_nonzero(self.pool >= rel))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _dcg(grades: np.ndarray, dcg: str) -> float:
    gains = np.maximum(grades, 0).astype(np.float64)
    if dcg == "exp-log2":
        gains = np.exp2(gains) - 1
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def _ndcg(ranking: Ranking, cutoff: int | None, *, dcg: str) -> float:
    return _ratio(_dcg(ranking.grades, dcg), _dcg(ranking.pool[:cutoff], dcg))


def _average_precision(ranking: Ranking, cutoff: int | None, *, rel: int) -> float:
    ranks = np.flatnonzero(ranking.hits(rel)) + 1
    return _ratio((np.arange(1, len(ranks) + 1) / ranks).sum(), ranking.relevant(rel))


def _reciprocal_rank(ranking: Ranking, cutoff: int | None, *, rel: int) -> float:
    hits = ranking.hits(rel)
    return 1.0 / (int(hits.argmax()) + 1) if hits.any() else 0.0


def _precision(ranking: Ranking, cutoff: int | None, *, rel: int) -> float:
    return _ratio(ranking.found(rel), cutoff if cutoff is not None else len(ranking.grades))


def _recall(ranking: Ranking, cutoff: int | None, *, rel: int) -> float:
    return _ratio(ranking.found(rel), ranking.relevant(rel))


def _f_measure(ranking: Ranking, cutoff: int | None, *, rel: int, beta: float) -> float:
    # trec_eval's form: its weight stands where van Rijsbergen's beta squared does.
    precision, recall = _precision(ranking, cutoff, rel=rel), _recall(ranking, cutoff, rel=rel)
    return _ratio((1 + beta) * precision * recall, beta * precision + recall)


def _set_average_precision(ranking: Ranking, cutoff: int | None, *, rel: int) -> float:
    return _precision(ranking, cutoff, rel=rel) * _recall(ranking, cutoff, rel=rel)


def _success(ranking: Ranking, cutoff: int | None, *, rel: int) -> float:
    return float(ranking.found(rel) > 0)


def _r_precision(ranking: Ranking, cutoff: int | None, *, rel: int) -> float:
    relevant = ranking.relevant(rel)
    return _ratio(int(np.count_nonzero(ranking.hits(rel)[:relevant])), relevant)


def _bpref(ranking: Ranking, cutoff: int | None, *, rel: int) -> float:
    # Buckley and Voorhees 2004, in trec_eval's later form, which bounds the penalty by min(R, N).
    relevant = ranking.relevant(rel)
    bound = min(relevant, int(np.count_nonzero((ranking.pool >= 0) & (ranking.pool < rel))))
    hits = ranking.hits(rel)
    above = np.cumsum((ranking.grades >= 0) & ~hits)[hits]
    penalties = np.minimum(above, bound) / max(bound, 1)
    return _ratio((1 - penalties).sum(), relevant)


def _rank_biased_precision(ranking: Ranking, cutoff: int | None, *, p: float, rel: int) -> float:
    ranks = np.flatnonzero(ranking.hits(rel))
    return float((1 - p) * (p**ranks).sum())


def _expected_reciprocal_rank(ranking: Ranking, cutoff: int | None, *, max_rel: int) -> float:
    # Chapelle et al. 2009: the chance that the reader stops at rank r, over r.
    if len(ranking.pool) and ranking.pool[0] > max_rel:
        raise InputError(
            f"ERR: a judgement has the grade {ranking.pool[0]}, above max_rel={max_rel}; "
            f"write ERR(max_rel=N), N the greatest grade of the collection"
        )
    stop = (np.exp2(np.maximum(ranking.grades, 0)) - 1) / 2.0**max_rel
    reached = np.concatenate([[1.0], np.cumprod(1 - stop)[:-1]]) if len(stop) else stop
    return float((reached * stop / np.arange(1, len(stop) + 1)).sum())


def _judged(ranking: Ranking, cutoff: int | None) -> float:
    return _ratio(int(np.count_nonzero(ranking.grades != UNLISTED)), len(ranking.grades))


def _retrieved(ranking: Ranking, cutoff: int | None, *, rel: int | None) -> float:
    return float(len(ranking.grades) if rel is None else ranking.found(rel))


def _known_relevant(ranking: Ranking, cutoff: int | None, *, rel: int) -> float:
    return float(ranking.relevant(rel))


@dataclass(frozen=True)
class Definition:
    """A row of `METRICS`.

    Attributes:
        compute: from the ranking, already cut, and the cutoff to the value.
        cutoff: whether the name takes `@k`.
        options: what may stand in parentheses, with the defaults.
        spelled_out: options that a name always shows, because ir_measures has another default.
    """

    compute: Callable[..., float]
    cutoff: Literal["none", "optional", "required"]
    options: Mapping[str, Any] = field(default_factory=dict)
    spelled_out: frozenset[str] = frozenset()


_BINARY = {"rel": 1, "judged_only": False}

METRICS: Mapping[str, Definition] = {
    "nDCG": Definition(_ndcg, "optional", {"dcg": "log2", "judged_only": False}),
    "AP": Definition(_average_precision, "optional", _BINARY),
    "RR": Definition(_reciprocal_rank, "optional", _BINARY),
    "P": Definition(_precision, "required", _BINARY),
    "R": Definition(_recall, "required", _BINARY),
    "Success": Definition(_success, "required", _BINARY),
    "Rprec": Definition(_r_precision, "none", _BINARY),
    "Bpref": Definition(_bpref, "none", {"rel": 1}),
    "RBP": Definition(_rank_biased_precision, "optional", {"p": 0.8, "rel": 1}, frozenset({"rel"})),
    "ERR": Definition(_expected_reciprocal_rank, "optional", {"max_rel": 4}),
    "Judged": Definition(_judged, "optional"),
    "SetP": Definition(_precision, "none", _BINARY),
    "SetR": Definition(_recall, "none", {"rel": 1}),
    "SetF": Definition(_f_measure, "none", {**_BINARY, "beta": 1.0}),
    "SetAP": Definition(_set_average_precision, "none", _BINARY),
    "NumRet": Definition(_retrieved, "none", {"rel": None}),
    "NumRelRet": Definition(_retrieved, "none", {"rel": 1}),
    "NumRel": Definition(_known_relevant, "none", {"rel": 1}),
}

ALIASES: Mapping[str, str] = {
    "ndcg_cut": "nDCG",
    "map": "AP",
    "map_cut": "AP",
    "mrr": "RR",
    "mrr_cut": "RR",
    "recip_rank": "RR",
    "precision": "P",
    "recall": "R",
    "hit": "Success",
    "hits": "Success",
    "set_p": "SetP",
    "set_recall": "SetR",
    "set_f": "SetF",
    "set_map": "SetAP",
    "num_ret": "NumRet",
    "num_rel_ret": "NumRelRet",
    "num_rel": "NumRel",
}

_OPTIONS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "rel": (lambda value: type(value) is int and value >= 1, "a whole number of at least 1"),
    "max_rel": (lambda value: type(value) is int and 1 <= value <= 50, "a whole number from 1 to 50"),
    "judged_only": (lambda value: isinstance(value, bool), "True or False"),
    "dcg": (lambda value: value in ("log2", "exp-log2"), "'log2' or 'exp-log2'"),
    "p": (lambda value: isinstance(value, float) and 0 < value < 1, "a number between 0 and 1"),
    "beta": (lambda value: isinstance(value, int | float) and value > 0, "a number above 0"),
}

_FORM = re.compile(
    r"\s*(?P<kind>[A-Za-z]\w*?)(?:[_.](?P<trec>\d+))?\s*(?:\((?P<options>.*)\))?\s*(?:@\s*(?P<at>\S+)\s*)?"
)


@dataclass(frozen=True)
class Metric:
    """A metric with its cutoff and options settled.

    Attributes:
        name: the canonical ir_measures name: `nDCG@10`, `AP(rel=2)@100`.
        kind: its row in `METRICS`.
        cutoff: how many ranks count; None for all.
        options: every option of the row, by name.
    """

    name: str
    kind: str
    cutoff: int | None
    options: tuple[tuple[str, Any], ...]

    def of(self, ranking: Ranking) -> float:
        """The metric's value for one query."""
        options = dict(self.options)
        grades = ranking.grades
        if options.pop("judged_only", False):
            grades = grades[grades >= 0]
        return METRICS[self.kind].compute(Ranking(grades[: self.cutoff], ranking.pool), self.cutoff, **options)


def parse_metric(name: str) -> Metric:
    """Read a metric's name, so that every common spelling means one thing: `MAP@100`, `map_cut_100` and `AP@100`.

    Raises:
        InputError: the metric, its cutoff or an option is unknown or out of range.
    """
    form = _FORM.fullmatch(name)
    if form is None:
        raise InputError(f"metric {name!r}: expected a name such as nDCG@10, AP(rel=2)@100 or R@100")
    kind = _kind(form["kind"], name)
    cutoff = _cutoff([text for text in (form["trec"], form["at"]) if text is not None], kind, name)
    options = _options(form["options"] or "", kind, name)
    row = METRICS[kind]
    shown = [
        f"{option}={options[option]!r}"
        for option, default in row.options.items()
        if option in row.spelled_out or options[option] != default
    ]
    canonical = kind + (f"({','.join(shown)})" if shown else "") + (f"@{cutoff}" if cutoff is not None else "")
    return Metric(canonical, kind, cutoff, tuple(options.items()))


def parse_metrics(names: Iterable[str]) -> list[Metric]:
    """Read several names, each metric once.

    Raises:
        InputError: there is none, or one is wrong; several wrong ones are told together.
    """
    metrics: dict[str, Metric] = {}
    problems: list[InputError] = []
    for name in names:
        try:
            metric = parse_metric(name)
            metrics[metric.name] = metric
        except InputError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Problems("some metrics cannot be read:", map(str, problems))
    if not metrics:
        raise InputError("no metric was asked for; name at least one, such as nDCG@10")
    return list(metrics.values())


def _kind(written: str, name: str) -> str:
    known = {**{kind.lower(): kind for kind in METRICS}, **ALIASES}
    if written.lower() not in known:
        raise InputError(f"unknown metric {name!r}; {nearest(written, [*METRICS, *ALIASES])}")
    return known[written.lower()]


def _cutoff(written: Sequence[str], kind: str, name: str) -> int | None:
    wanted = METRICS[kind].cutoff
    if not written:
        if wanted == "required":
            raise InputError(f"metric {name!r} needs a cutoff, such as {kind}@10")
        return None
    if wanted == "none":
        raise InputError(f"metric {name!r}: {kind} takes no cutoff; write {kind}")
    if len(written) > 1 or not re.fullmatch(r"0*[1-9][0-9]{0,8}", written[0]):
        raise InputError(f"metric {name!r}: expected one cutoff of at least 1, such as {kind}@10")
    return int(written[0])


def _options(written: str, kind: str, name: str) -> dict[str, Any]:
    options = dict(METRICS[kind].options)
    try:
        call = ast.parse(f"_({written})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("not a list of named options")
        given = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise InputError(f"metric {name!r}: expected options such as (rel=2), got ({written})") from error
    for option, value in given.items():
        if option not in options:
            takes = nearest(option, options) if options else "it takes none"
            raise InputError(f"metric {name!r}: {kind} has no option {option!r}; {takes}")
        valid, expected = _OPTIONS[option]
        if not valid(value):
            raise InputError(f"metric {name!r}: {option} must be {expected}, got {value!r}")
        options[option] = value
    return options


def measure(run: Run, qrels: Qrels, metrics: Sequence[Metric]) -> dict[str, dict[str, float]]:
    """Measure every judged query, whether or not the run has it; queries without judgements are ignored.

    Args:
        run: results by query; it is not changed.
        qrels: grades by query. A query without results gets what an empty ranking gets: 0.
        metrics: what to measure; the ranking is made once for all of them.

    Returns:
        Metric name -> query id -> value, the queries in the order of `qrels`.
    """
    values: dict[str, dict[str, float]] = {metric.name: {} for metric in metrics}
    for query, judgements in qrels.items():
        ranking = Ranking.of(run.get(query, {}), judgements)
        for metric in metrics:
            values[metric.name][query] = metric.of(ranking)
    return values
