from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.errors import InputError, Problems
from retrodistill.evaluation.metrics import METRICS, measure, parse_metric, parse_metrics
from retrodistill.runs import cut

DOCUMENTS = [f"d{i}" for i in range(14)]
QUERIES = ["q1", "q2", "q3"]
GRADES = st.integers(-3, 3)
# Few values make ties; two differ only beyond 32 bits.
SCORES = st.sampled_from([0.0, -1.5, 2.0, 20.0, 20.00000001]) | st.floats(-100, 100, width=32)


def of(text, run, qrels):
    (values,) = measure(run, qrels, [parse_metric(text)]).values()
    return values


@st.composite
def judged_runs(draw, grades=GRADES):
    # pytrec_eval writes past its memory where a query has negative grades only, so each has another.
    judged = st.dictionaries(st.sampled_from(DOCUMENTS[:11]), grades).map(lambda judgements: {"d0": 0, **judgements})
    judged = judged.filter(lambda judgements: max(judgements.values()) >= 0)
    qrels = draw(st.dictionaries(st.sampled_from(QUERIES), judged, min_size=1))
    # Some queries are missing from the run, some have no results; d11 to d13 are never judged.
    run = draw(st.dictionaries(st.sampled_from([*QUERIES, "q4"]), st.dictionaries(st.sampled_from(DOCUMENTS), SCORES)))
    return run, qrels


def by_trec_eval(name, run, qrels, rel=1, judged_only=False):
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {name}, relevance_level=rel, judged_docs_only_flag=judged_only)
    found = {query: next(iter(values.values())) for query, values in evaluator.evaluate(run).items()}
    return {query: found.get(query, 0.0) for query in qrels}


PAIRS = [
    ("nDCG", "ndcg"),
    *((f"nDCG@{k}", f"ndcg_cut.{k}") for k in (1, 3, 10, 100)),
    ("AP", "map"),
    *((f"AP@{k}", f"map_cut.{k}") for k in (2, 5, 100)),
    ("RR", "recip_rank"),
    *((f"P@{k}", f"P.{k}") for k in (1, 5, 100)),
    *((f"R@{k}", f"recall.{k}") for k in (1, 5, 100)),
    *((f"Success@{k}", f"success.{k}") for k in (1, 5)),
    ("Rprec", "Rprec"),
    ("Bpref", "bpref"),
    ("SetP", "set_P"),
    ("SetR", "set_recall"),
    ("SetF", "set_F"),
    ("SetAP", "set_map"),
    ("NumRet", "num_ret"),
    ("NumRelRet", "num_rel_ret"),
]


@settings(max_examples=150, deadline=None)
@given(judged_runs(), st.sampled_from(PAIRS), st.integers(1, 3))
def test_values_are_those_of_trec_eval(judged_run, pair, rel):
    run, qrels = judged_run
    ours, theirs = pair
    kind, _, cutoff = ours.partition("@")
    if rel > 1 and METRICS[kind].options.get("rel") == 1:
        ours = f"{kind}(rel={rel})" + (f"@{cutoff}" if cutoff else "")
    assert of(ours, run, qrels) == pytest.approx(by_trec_eval(theirs, run, qrels, rel), abs=1e-6)


def test_all_metrics_at_once_are_those_of_trec_eval_on_a_large_random_run():
    rng = np.random.default_rng(5)
    run, qrels = {}, {}
    for query in map(str, range(30)):
        documents = [str(d) for d in rng.choice(500, size=200, replace=False)]
        run[query] = dict(zip(documents, rng.integers(0, 40, size=200).astype(float).tolist(), strict=True))
        qrels[query] = {str(d): int(g) for d, g in zip(rng.integers(0, 500, 60), rng.integers(-1, 4, 60), strict=True)}
    values = measure(run, qrels, [parse_metric(ours) for ours, _ in PAIRS])
    for ours, theirs in PAIRS:
        assert values[ours] == pytest.approx(by_trec_eval(theirs, run, qrels), abs=1e-6), ours


@settings(deadline=None)
@given(judged_runs(), st.integers(1, 12))
def test_reciprocal_rank_with_a_cutoff_is_that_of_the_cut_run(judged_run, cutoff):
    run, qrels = judged_run
    head = {query: cut(scores, cutoff) for query, scores in run.items()}
    assert of(f"RR@{cutoff}", run, qrels) == pytest.approx(by_trec_eval("recip_rank", head, qrels), abs=1e-6)


@settings(deadline=None)
@given(judged_runs(), st.sampled_from([("AP@5", "map_cut.5"), ("nDCG@5", "ndcg_cut.5"), ("RR", "recip_rank")]))
def test_judged_only_leaves_out_what_trec_eval_leaves_out(judged_run, pair):
    run, qrels = judged_run
    kind, _, cutoff = pair[0].partition("@")
    name = f"{kind}(judged_only=True)" + (f"@{cutoff}" if cutoff else "")
    assert of(name, run, qrels) == pytest.approx(by_trec_eval(pair[1], run, qrels, judged_only=True), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(judged_runs(grades=st.integers(0, 3)))
def test_values_are_those_of_ir_measures(judged_run):
    ir_measures = pytest.importorskip("ir_measures")
    run, qrels = judged_run
    names = [
        *(ours for ours, _ in PAIRS),
        "AP(rel=2)@3",
        "P(rel=3)@5",
        "SetF(beta=2.0)",
        "nDCG(judged_only=True)@5",
        "Judged@4",
        "Judged",
    ]
    # ir_measures takes no run without a judged query, and divides by zero where there are no results.
    run = {query: scores or {"d0": 0.0} for query, scores in {next(iter(qrels)): {}, **run}.items()}
    # Judged is compared without ties, which ir_measures breaks the other way round there.
    ties = any(len({np.float32(s) for s in scores.values()}) < len(scores) for scores in run.values())
    for name in names:
        if not (ties and name.startswith("Judged")):
            # One by one: together with a judged_only metric, its NumRet may leave out unjudged documents too.
            found = ir_measures.iter_calc([ir_measures.parse_measure(name)], qrels, run)
            expected = dict.fromkeys(qrels, 0.0) | {metric.query_id: metric.value for metric in found}
            assert of(name, run, qrels) == pytest.approx(expected, abs=1e-6), name


def test_ndcg_exp_and_err_are_those_of_gdeval():
    ir_measures = pytest.importorskip("ir_measures")
    if not ir_measures.gdeval.is_available():
        pytest.skip("gdeval needs perl")
    rng = np.random.default_rng(0)
    run = {
        str(q): {f"d{d}": float(s) for d, s in zip(rng.permutation(40)[:25], rng.random(25), strict=True)}
        for q in range(8)
    }
    qrels = {str(q): {f"d{d}": int(g) for d, g in enumerate(rng.integers(0, 5, 30))} for q in range(8)}
    names = ["nDCG(dcg='exp-log2')@10", "ERR@10", "ERR@20"]
    for name in names:
        found = ir_measures.gdeval.iter_calc([ir_measures.parse_measure(name)], qrels, run)
        assert of(name, run, qrels) == pytest.approx({f.query_id: f.value for f in found}, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(judged_runs(grades=st.integers(0, 2)), st.sampled_from([1, 3, 10]))
def test_means_are_those_of_beir_where_all_queries_are_present(judged_run, cutoff):
    evaluation = pytest.importorskip("beir.retrieval.evaluation")
    run, qrels = judged_run
    run = {query: run.get(query) or {"d0": 0.0} for query in qrels}
    found = evaluation.EvaluateRetrieval.evaluate(qrels, copy.deepcopy(run), [cutoff])
    names = {"nDCG": "NDCG", "AP": "MAP", "R": "Recall", "P": "P"}
    theirs = {name: value for part in found for name, value in part.items()}
    for ours, name in names.items():
        mean = np.mean(list(of(f"{ours}@{cutoff}", run, qrels).values()))
        assert mean == pytest.approx(theirs[f"{name}@{cutoff}"], abs=6e-6)  # beir rounds to five places


RUN = {"q": {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0}}
QRELS = {"q": {"a": 0, "b": 2, "d": 1, "e": -1, "z": 3}}  # relevant at ranks 2 and 4, z is missed, c is unjudged


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nDCG@3", (2 / math.log2(3)) / (3 + 2 / math.log2(3) + 1 / 2)),
        ("nDCG", (2 / math.log2(3) + 1 / math.log2(5)) / (3 + 2 / math.log2(3) + 1 / 2)),
        ("nDCG(dcg='exp-log2')@1", 0.0),
        ("nDCG(dcg='exp-log2')@2", (3 / math.log2(3)) / (7 + 3 / math.log2(3))),
        ("AP", (1 / 2 + 2 / 4) / 3),
        ("AP@3", (1 / 2) / 3),
        ("AP(rel=2)", (1 / 2) / 2),
        ("RR", 1 / 2),
        ("RR@1", 0.0),
        ("RR(judged_only=True)", 1 / 2),
        ("P@4", 2 / 4),
        ("P@10", 2 / 10),
        ("R@4", 2 / 3),
        ("Success@1", 0.0),
        ("Success@2", 1.0),
        ("Rprec", 1 / 3),
        ("Bpref", 0.0),  # a, judged not relevant, stands above both; min(R, N) = 1
        ("RBP(p=0.5)", 0.5 * (0.5 + 0.5**3)),
        ("RBP(p=0.5)@3", 0.5 * 0.5),
        ("ERR(max_rel=3)", (3 / 8) / 2 + (5 / 8) * (1 / 8) / 4),
        ("Judged@3", 2 / 3),
        ("Judged", 4 / 5),
        ("Judged@100", 4 / 5),
        ("SetP", 2 / 5),
        ("SetR", 2 / 3),
        ("SetF", 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3)),
        ("SetAP", (2 / 5) * (2 / 3)),
        ("NumRet", 5.0),
        ("NumRelRet", 2.0),
        ("NumRet(rel=2)", 1.0),
        ("NumRel", 3.0),
    ],
)
def test_values_by_hand(name, value):
    assert of(name, RUN, QRELS) == {"q": pytest.approx(value, abs=1e-12)}


def test_every_metric_of_the_table_has_a_value_by_hand():
    marks = test_values_by_hand.pytestmark
    names = [case[0] for mark in marks for case in mark.args[1]]
    assert {parse_metric(name).kind for name in names} == set(METRICS)


def test_a_query_without_results_counts_as_zero_and_a_query_without_judgements_not_at_all():
    run = {"q1": {"d1": 1.0}, "q2": {}, "other": {"d1": 1.0}}
    qrels = {"q1": {"d1": 1}, "q2": {"d1": 1}, "q3": {"d1": 1}, "q4": {}}
    names = ["nDCG@10", "AP", "RR", "R@5", "P@1", "Success@5", "Rprec", "Bpref", "RBP", "ERR", "Judged", "SetF"]
    values = measure(run, qrels, parse_metrics(names))
    for metric, by_query in values.items():
        assert list(by_query) == ["q1", "q2", "q3", "q4"]
        assert by_query["q1"] > 0, metric
        assert [by_query[q] for q in ("q2", "q3", "q4")] == [0.0, 0.0, 0.0], metric


def test_a_query_with_negative_grades_only_has_nothing_to_find():
    values = measure({"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": -1, "b": -2}}, parse_metrics(["nDCG@10", "AP", "Bpref"]))
    assert values == {"nDCG@10": {"q": 0.0}, "AP": {"q": 0.0}, "Bpref": {"q": 0.0}}


def test_the_run_is_left_as_it_was():
    run, qrels = copy.deepcopy(RUN), copy.deepcopy(QRELS)
    measure(run, qrels, parse_metrics(["nDCG@10", "AP(judged_only=True)"]))
    assert (run, qrels) == (RUN, QRELS)


def test_err_refuses_grades_that_it_cannot_turn_into_chances():
    with pytest.raises(InputError, match=r"grade 5, above max_rel=4; write ERR\(max_rel=N\)"):
        of("ERR@10", RUN, {"q": {"a": 5}})


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("nDCG@10", "nDCG@10"),
        ("NDCG@10", "nDCG@10"),
        ("ndcg_cut_10", "nDCG@10"),
        ("ndcg_cut.10", "nDCG@10"),
        ("ndcg", "nDCG"),
        ("MAP@100", "AP@100"),
        ("map", "AP"),
        ("map_cut_100", "AP@100"),
        ("MRR@10", "RR@10"),
        ("recip_rank", "RR"),
        ("Recall@100", "R@100"),
        ("recall_100", "R@100"),
        ("P_5", "P@5"),
        ("precision@5", "P@5"),
        ("success_1", "Success@1"),
        ("Hits@3", "Success@3"),
        ("RPrec", "Rprec"),
        ("BPref", "Bpref"),
        ("num_rel_ret", "NumRelRet"),
        (" AP ( rel = 2 ) @ 100 ", "AP(rel=2)@100"),
        ("AP(rel=1)@100", "AP@100"),
        ("P(judged_only=True, rel=2)@5", "P(rel=2,judged_only=True)@5"),
        ("nDCG(dcg='exp-log2')", "nDCG(dcg='exp-log2')"),
        ('ndcg(dcg="log2")@5', "nDCG@5"),
        ("RBP(p=0.8)", "RBP(rel=1)"),
        ("RBP(p=0.9)@20", "RBP(p=0.9,rel=1)@20"),
        ("err@20", "ERR@20"),
    ],
)
def test_spellings_meet_in_one_name(written, canonical):
    assert parse_metric(written).name == canonical
    assert parse_metric(canonical) == parse_metric(written)


def test_names_are_those_of_ir_measures():
    ir_measures = pytest.importorskip("ir_measures")
    names = [*(ours for ours, _ in PAIRS), "AP(rel=2)@100", "nDCG(dcg='exp-log2')@10", "RBP(p=0.9,rel=1)", "ERR@20"]
    for name in names:
        theirs = str(ir_measures.parse_measure(name))
        assert parse_metric(name).name == name
        assert parse_metric(theirs) == parse_metric(name) or name == "NumRelRet"
    assert parse_metric("AP(rel=2)@100").cutoff == 100
    assert parse_metric("AP").cutoff is None


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("recal@100", "unknown metric 'recal@100'; did you mean 'recall'?"),
        ("nDCGG@10", "did you mean 'nDCG'?"),
        ("xyz", "choose from .*nDCG"),
        ("", "expected a name such as nDCG@10"),
        ("@10", "expected a name such as"),
        ("P", "needs a cutoff, such as P@10"),
        ("R", "needs a cutoff"),
        ("P@0", "one cutoff of at least 1"),
        ("P@-1", "one cutoff of at least 1"),
        ("P@ten", "one cutoff of at least 1"),
        ("P@1.5", "one cutoff of at least 1"),
        ("P_5@10", "one cutoff"),
        ("Rprec@10", "Rprec takes no cutoff"),
        ("AP(foo=1)", "AP has no option 'foo'; choose from judged_only, rel"),
        ("Judged(rel=1)", "Judged has no option 'rel'; it takes none"),
        ("AP(rel=0)", "rel must be a whole number of at least 1, got 0"),
        ("AP(rel='x')", "rel must be a whole number"),
        ("AP(rel=True)", "rel must be a whole number"),
        ("nDCG(dcg='ln')", "dcg must be 'log2' or 'exp-log2'"),
        ("RBP(p=1.5)", "p must be a number between 0 and 1"),
        ("AP(2)", "expected options such as"),
        ("AP(rel=)", "expected options such as"),
        ("AP(rel=__import__('os'))", "expected options such as"),
        ("AP(**{'rel': 2})", "no option"),
    ],
)
def test_what_is_no_metric_is_told_so(written, message):
    with pytest.raises(InputError, match=message):
        parse_metric(written)


def test_several_wrong_names_are_told_together_and_repeated_ones_count_once():
    with pytest.raises(Problems, match="'nope'") as caught:
        parse_metrics(["nope", "nDCG@10", "P"])
    assert len(caught.value.problems) == 2
    assert [m.name for m in parse_metrics(["MAP", "AP", "map"])] == ["AP"]
    with pytest.raises(InputError, match="no metric was asked for"):
        parse_metrics([])
