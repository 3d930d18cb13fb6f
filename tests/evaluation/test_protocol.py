from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from retrodistill.errors import InputError
from retrodistill.evaluation.protocol import (
    DEFAULT_METRICS,
    drop_own_id,
    evaluate_run,
    load,
    needed_depth,
    save,
)
from retrodistill.runs import read_run

RUN = {"q1": {"d1": 3.0, "d2": 2.0, "d3": 1.0}, "q2": {"d2": 0.5, "d1": 0.4}}
QRELS = {"q1": {"d1": 1}, "q2": {"d1": 2, "d9": 1}}


def evaluate(run=RUN, qrels=QRELS, **options):
    options = {"depth": 100, "system": "bm25", "collection": "toy", "split": "test", "documents": 9, **options}
    return evaluate_run(run, qrels, **options)


def test_default_metrics_by_hand():
    evaluation, run = evaluate()
    ideal = 2 + 1 / np.log2(3)
    assert evaluation.per_query["nDCG@10"] == {"q1": 1.0, "q2": pytest.approx(2 / np.log2(3) / ideal)}
    assert evaluation.metrics == {
        "nDCG@10": pytest.approx((1 + 2 / np.log2(3) / ideal) / 2),
        "AP@100": pytest.approx((1 + 1 / 4) / 2),
        "R@100": pytest.approx((1 + 1 / 2) / 2),
        "RR@10": pytest.approx((1 + 1 / 2) / 2),
    }
    assert tuple(evaluation.metrics) == DEFAULT_METRICS
    for metric, (low, high) in evaluation.intervals.items():
        assert low <= evaluation.metrics[metric] <= high
    assert run == RUN
    assert list(run["q2"]) == ["d2", "d1"]
    assert evaluation.counts == {
        "queries": 2,
        "documents": 9,
        "judgements": 3,
        "queries_without_results": 0,
        "unjudged_queries": 0,
        "own_id_dropped": 0,
        "retrieved": 5,
    }
    assert evaluation.protocol["depth"] == 100


@pytest.mark.parametrize("run", [{"q1": {"d1": 1.0}}, {"q1": {"d1": 1.0}, "q2": {}}])
def test_one_of_two_queries_without_results_halves_the_mean(run):
    evaluation, _ = evaluate(run, {"q1": {"d1": 1}, "q2": {"d2": 1}})
    assert evaluation.metrics == dict.fromkeys(DEFAULT_METRICS, 0.5)
    assert evaluation.counts["queries_without_results"] == 1


def test_the_own_id_goes_before_the_cut_and_the_run_given_stays():
    run = {"a": {"a": 9.0, "b": 2.0, "c": 1.0}, "x": {"a": 1.0}}
    kept = copy.deepcopy(run)
    assert drop_own_id(run) == ({"a": {"b": 2.0, "c": 1.0}, "x": {"a": 1.0}}, 1)
    evaluation, evaluated = evaluate(run, {"a": {"c": 1}, "x": {"a": 1}}, depth=2, metrics=["R@2"])
    assert evaluated == {"a": {"b": 2.0, "c": 1.0}, "x": {"a": 1.0}}
    assert evaluation.metrics == {"R@2": 1.0}
    assert evaluation.counts["own_id_dropped"] == 1
    assert run == kept


def test_means_are_beirs_own_where_queries_find_themselves():
    beir = pytest.importorskip("beir.retrieval.evaluation")
    rng = np.random.default_rng(0)
    ids = [str(i) for i in range(50)]
    run = {q: {**{str(d): float(rng.random()) for d in rng.permutation(50)[:30]}, q: 99.0} for q in ids}
    qrels = {q: {str(d): int(rng.integers(0, 3)) for d in rng.permutation(50)[:8] if str(d) != q} for q in ids}
    ours, _ = evaluate(run, qrels, metrics=["nDCG@10", "AP@10", "R@10", "P@10"])
    theirs = beir.EvaluateRetrieval.evaluate(qrels, copy.deepcopy(run), [10])
    assert list(ours.metrics.values()) == pytest.approx([next(iter(part.values())) for part in theirs], abs=6e-6)
    assert ours.counts["own_id_dropped"] == 50


def test_an_own_id_that_is_judged_relevant_is_said(capsys):
    evaluate({"a": {"a": 1.0}}, {"a": {"a": 1}})
    assert "1 queries have their own id judged relevant" in capsys.readouterr().err


def test_a_run_is_cut_to_the_depth_with_ties_by_the_greater_id():
    run = {"q1": {"d1": 1.0, "d3": 1.0, "d2": 1.0}}
    evaluation, evaluated = evaluate(run, {"q1": {"d1": 1, "d3": 1}}, depth=2, metrics=["NumRet", "SetR"])
    assert evaluated == {"q1": {"d3": 1.0, "d2": 1.0}}
    assert evaluation.metrics == {"NumRet": 2.0, "SetR": 0.5}
    assert evaluation.counts["retrieved"] == 2


def test_queries_without_judgements_are_left_out_and_counted():
    evaluation, evaluated = evaluate({**RUN, "q7": {"d1": 1.0}})
    assert evaluation.metrics == evaluate()[0].metrics
    assert evaluated == RUN
    assert evaluation.counts["unjudged_queries"] == 1


def test_metric_names_are_made_canonical():
    evaluation, _ = evaluate(metrics=["map@100", "ndcg_cut_10"])
    assert list(evaluation.metrics) == list(evaluation.per_query) == list(evaluation.intervals) == ["AP@100", "nDCG@10"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qrels": {}}, "no judgements to evaluate with"),
        ({"qrels": {"1": {"d1": 1}}}, "no query of the run is judged: the run has 'q1', 'q2', the qrels have '1'"),
        ({"run": {}}, "the run has no query at all, the qrels have 'q1', 'q2'"),
        ({"run": {"q1": {"d1": 1.0, "d2": float("nan")}}}, "score nan for query 'q1', document 'd2'"),
        ({"metrics": ["R@1000"]}, "R@1000 looks at 1000 results, but the depth is 100"),
        ({"metrics": ["nope"]}, "unknown metric 'nope'"),
        ({"metrics": []}, "no metric was asked for"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        evaluate(**options)


def test_many_ids_are_shown_by_three():
    run = {f"a{i}": {"d": 1.0} for i in range(2000)}
    with pytest.raises(InputError, match=r"'a0', 'a1', 'a2', \.\.\. \(2,000\)"):
        evaluate(run, {"b": {"d": 1}})


def test_needed_depth():
    assert needed_depth(["nDCG@10"]) == 100
    assert needed_depth(DEFAULT_METRICS) == 100
    assert needed_depth(["nDCG@10", "R@500"]) == 500
    assert needed_depth(["Rprec"]) == needed_depth(["AP"]) == 1000
    assert needed_depth(["AP", "R@2000"]) == 2000


def test_what_is_saved_is_loaded(tmp_path):
    evaluation, run = evaluate(details={"model": "none", "encode_documents_per_second": 12.5}, metrics=["AP", "P@5"])
    save(tmp_path / "runs" / "bm25", evaluation, run)
    assert load(tmp_path / "runs" / "bm25") == evaluation
    assert read_run(tmp_path / "runs" / "bm25" / "run.trec") == RUN
    table = pq.read_table(tmp_path / "runs" / "bm25" / "per_query.parquet")
    assert table.column_names == ["query_id", "AP", "P@5"]
    assert table.column("query_id").to_pylist() == ["q1", "q2"]


def test_results_json_has_its_keys_at_the_top(tmp_path):
    save(tmp_path, *evaluate())
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == [
        "system",
        "metrics",
        "intervals",
        "collection",
        "split",
        "counts",
        "protocol",
        "versions",
        "details",
        "created",
    ]
    assert list(results["metrics"]) == ["nDCG@10", "AP@100", "R@100", "RR@10"]
    assert {"python", "retrodistill", "numpy"} <= results["versions"].keys()
    assert results["created"][10] == "T"


def test_the_run_that_was_saved_gives_the_same_numbers_again(tmp_path):
    rng = np.random.default_rng(0)
    run = {f"q{q}": {f"d{d}": float(np.float32(s)) for d, s in enumerate(rng.random(30).round(1))} for q in range(5)}
    qrels = {f"q{q}": {f"d{d}": 1 for d in rng.permutation(30)[:4]} for q in range(5)}
    first, evaluated = evaluate(run, qrels, depth=20, metrics=["nDCG@10", "AP"])
    save(tmp_path, first, evaluated)
    again, _ = evaluate(read_run(tmp_path / "run.trec"), qrels, depth=20, metrics=["nDCG@10", "AP"])
    assert again.per_query == first.per_query


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    save(tmp_path, *evaluate())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "per_query.parquet", "results.json", "run.trec"]


def test_a_save_that_fails_leaves_no_results_that_belong_to_other_files(tmp_path):
    save(tmp_path, *evaluate())
    evaluation, _ = evaluate()
    with pytest.raises(InputError, match="white space"):
        save(tmp_path, evaluation, {"q1": {"d 1": 1.0}})
    assert not (tmp_path / "results.json").exists()
    with pytest.raises(InputError, match=r"results.json is missing"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["results.json", "per_query.parquet"])
def test_a_missing_file_names_the_verb_that_writes_it(tmp_path, name):
    save(tmp_path, *evaluate())
    (tmp_path / name).unlink()
    with pytest.raises(
        InputError, match=f"{name} is missing; `retrodistill evaluate SYSTEM --data DIR --out {tmp_path}`"
    ):
        load(tmp_path)


def change(key, value):
    def damage(path):
        results = json.loads(path.read_text())
        results[key] = value
        path.write_text(json.dumps(results))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('"text"'),
        lambda path: path.write_text("{}"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        change("metrics", {"nDCG@10": "high"}),
        change("metrics", [1, 2]),
        change("intervals", {}),
        change("intervals", {"nDCG@10": [0.1]}),
        change("counts", None),
        change("details", "none"),
        change("protocol", {"depth": "deep"}),
        change("protocol", []),
    ],
)
def test_damaged_results_are_told_so(tmp_path, damage):
    save(tmp_path, *evaluate())
    damage(tmp_path / "results.json")
    with pytest.raises(InputError, match=r"results.json: damaged or no results"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 100])
def test_a_damaged_table_is_told_so(tmp_path, keep):
    save(tmp_path, *evaluate())
    path = tmp_path / "per_query.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"per_query.parquet: damaged"):
        load(tmp_path)


def test_a_table_of_another_evaluation_is_refused(tmp_path):
    save(tmp_path / "a", *evaluate())
    save(tmp_path / "b", *evaluate(metrics=["P@5"]))
    (tmp_path / "b" / "per_query.parquet").replace(tmp_path / "a" / "per_query.parquet")
    with pytest.raises(InputError, match="not of one evaluation"):
        load(tmp_path / "a")


def test_evaluation_needs_no_torch():
    code = (
        "import sys, retrodistill.evaluation.report, retrodistill.evaluation.protocol; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pytrec_eval', 'ir_measures')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
