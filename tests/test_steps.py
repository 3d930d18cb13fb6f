import numpy as np
import pytest

from retrodistill.collections import Collection
from retrodistill.errors import InputError
from retrodistill.mining import mine
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.others import Random, RunFile
from retrodistill.scores.combine import Agreed, Confident, Mean
from retrodistill.scores.learnt import Lists
from retrodistill.scores.reinforced import Reinforced
from retrodistill.scores.store import ScoreStore
from retrodistill.steps import (
    as_retriever,
    evaluate,
    evaluate_teacher,
    retriever_spec,
    save_evaluation,
    teacher_scores,
)
from retrodistill.teachers import judging


@pytest.fixture
def store(tmp_path):
    return ScoreStore(tmp_path / "scores")


# What a system on the command line stands for


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("bm26", r"^model 'bm26' is no folder .*; if no model was meant: did you mean 'bm25'\?$"),
        ("rnu:some.trec", "if no model was meant: did you mean 'run'?"),
        ("of-nobody", "if no model was meant: choose from bm25, "),
        ("no/such", r"^model 'no/such' is no folder .*holds the model$"),
    ],
)
def test_what_is_neither_retriever_nor_model_names_the_nearest(system, said):
    with pytest.raises(InputError, match=said):
        retriever_spec(system)


@pytest.mark.parametrize(
    ("system", "spec"),
    [
        ("bm25", {"kind": "bm25"}),
        ("random", {"kind": "random"}),
        ("dense:a/b", {"kind": "dense", "model": "a/b"}),
        ("run:some/file.trec", {"kind": "run", "path": "some/file.trec"}),
        ("index:folder", {"kind": "index", "path": "folder"}),
        (
            "sentence-transformers/all-MiniLM-L6-v2",
            {"kind": "dense", "model": "sentence-transformers/all-MiniLM-L6-v2"},
        ),
        ("a/b@main", {"kind": "dense", "model": "a/b@main"}),
        ("./models/mine", {"kind": "dense", "model": "./models/mine"}),
        ("/models/v1.5:best", {"kind": "dense", "model": "/models/v1.5:best"}),
        ("my.package:Retriever", {"kind": "my.package:Retriever"}),
    ],
)
def test_retriever_spec(system, spec, monkeypatch):
    monkeypatch.setattr("retrodistill.models.model_type", lambda name: "SentenceTransformer")
    assert retriever_spec(system) == spec


def test_as_retriever(tiny_model):
    assert as_retriever("bm25") == BM25()
    assert as_retriever(str(tiny_model)) == Dense(model=str(tiny_model))
    made = BM25(k1=2)
    assert as_retriever(made) is made


# Evaluating


def hand_run(folder, lists):
    path = folder / "hand.trec"
    rows = [
        f"{query} Q0 {doc} 1 {10 - rank} x\n" for query, docs in lists.items() for rank, doc in enumerate(docs.split())
    ]
    path.write_text("".join(rows))
    return RunFile(path=path)


def test_a_split_is_evaluated_by_its_judgements(collection, tmp_path):
    # Test queries are q-TOPIC2, each with one relevant document, TOPIC2.
    system = hand_run(tmp_path, {"q-storm2": "storm2 storm1", "q-bread2": "bread1 bread2", "q-chess2": "bread1"})
    evaluation, run = evaluate(system, collection, "test", metrics=["RR@10", "R@100"], name="by hand")
    assert evaluation.per_query["RR@10"] == {
        "q-storm2": 1,
        "q-bread2": 0.5,
        "q-chess2": 0,
        "q-bridge2": 0,
        "q-violin2": 0,
        "q-comet2": 0,
    }
    assert evaluation.metrics == pytest.approx({"RR@10": 1.5 / 6, "R@100": 2 / 6})
    assert (evaluation.system, evaluation.collection, evaluation.split) == ("by hand", "topics", "test")
    assert (evaluation.counts["queries"], evaluation.counts["documents"]) == (6, 24)
    assert run["q-storm2"] == {"storm2": 10, "storm1": 9}


def test_judgements_of_ones_own_come_with_their_queries(collection, tmp_path):
    system = hand_run(tmp_path, {"q-storm0": "storm2 storm1", "q-bread2": "bread1 bread2"})
    own = {"q-storm0": {"storm1": 1}, "q-bread2": {"bread1": 1, "storm0": 1}}
    evaluation, _ = evaluate(system, collection, "test", qrels=own, metrics=["RR@10", "R@100"])
    assert evaluation.per_query == {
        "RR@10": {"q-storm0": 0.5, "q-bread2": 1},
        "R@100": {"q-storm0": 1, "q-bread2": 0.5},
    }
    assert evaluation.system == f"run:{system.path}"


def test_judgements_of_unknown_queries_are_refused(collection):
    with pytest.raises(InputError, match="1 queries of the judgements are not in topics, such as 'nobody'"):
        evaluate("bm25", collection, qrels={"nobody": {"storm1": 1}})


def test_no_judgements_are_refused(collection, tiny_model):
    for system in ("bm25", "random", str(tiny_model)):
        with pytest.raises(InputError, match="there are no judgements to evaluate with"):
            evaluate(system, collection, qrels={})


def test_depth_cuts_what_counts(collection):
    _, run = evaluate("random", collection, metrics=["R@5"], depth=24)
    assert all(len(found) == 24 for found in run.values())
    shallow, run = evaluate("random", collection, metrics=["R@5"], depth=5)
    assert all(len(found) == 5 for found in run.values())
    assert shallow.protocol["depth"] == 5


def test_a_bi_encoder_by_its_folder(collection, tiny_model, tmp_path):
    evaluation, run = evaluate(str(tiny_model), collection)
    assert set(run) == set(collection.query_ids("test"))
    assert evaluation.metrics["R@100"] == 1  # every document is found
    assert evaluation.details["encode_documents_per_second"] > 0
    save_evaluation(tmp_path / "out", evaluation, run)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.trec", "results.json", "per_query.parquet"}
    again, _ = evaluate(RunFile(path=tmp_path / "out" / "run.trec"), collection)
    assert again.metrics == evaluation.metrics


def test_a_querys_own_id_leaves_no_gap(collection):
    """A query whose id is also a document's: the document goes, and the next one takes its place."""
    from retrodistill.collections import Texts

    queries = Texts.queries("topics", [("storm2", "storm rain coast")])
    own = Collection("own", collection.corpus, queries, {"test": {"storm2": {"storm3": 1}}})
    evaluation, run = evaluate("bm25", own, metrics=["P@3"], depth=3)
    assert len(run["storm2"]) == 3
    assert "storm2" not in run["storm2"]
    assert evaluation.counts["own_id_dropped"] == 1


# Teachers


def test_scores_of_several_teachers_are_combined_when_read(collection, tiny_model, store):
    teachers = [BM25(), Dense(model=str(tiny_model))]
    found, _ = mine(collection, "train", [BM25(), Random()], depth=6)
    judging.judge(found, collection, teachers, store)
    raw = judging.read(found, collection, teachers, store)
    one = teacher_scores(found, collection, teachers[:1], store)
    np.testing.assert_array_equal(one, raw[0])  # a single teacher's logits stay as they are
    both = teacher_scores(found, collection, teachers, store)
    np.testing.assert_array_equal(both, Mean(normalise="zscore")(raw, found.offsets))
    asked = Mean(normalise="minmax", weights=(1, 0))
    np.testing.assert_array_equal(teacher_scores(found, collection, teachers, store, asked), asked(raw, found.offsets))
    assert teacher_scores(found, collection, [], store) is None


def test_a_teacher_reranks_what_the_sources_found(collection, tiny_model, store, tmp_path):
    teacher = Dense(model=str(tiny_model))
    lists = dict.fromkeys(collection.query_ids("test")[:4], "storm2 bread2 chess2 storm1")
    source = hand_run(tmp_path, lists)
    evaluation, run = evaluate_teacher(
        collection, "test", sources=[source], depth=3, teachers=[teacher], store=store, metrics=["RR@10", "R@100"]
    )
    searched = teacher.open(collection).search(list(lists), 24)
    for query in lists:
        # The first three that were found, in the teacher's order; the fourth and what nobody found are not there.
        expected = [doc for doc in searched[query] if doc in ("storm2", "bread2", "chess2")]
        assert list(run[query]) == expected
        relevant = f"{query[2:-1]}2"
        rank = 1 / (1 + expected.index(relevant)) if relevant in expected else 0
        assert evaluation.per_query["RR@10"][query] == pytest.approx(rank)
    assert evaluation.counts["queries"] == 6
    assert evaluation.counts["queries_without_results"] == 2
    assert evaluation.system == "teacher"
    assert evaluation.details["teachers"] == [teacher.label]
    assert evaluation.details["encode_documents_per_second"] > 0


def test_a_teacher_that_reranks_is_paid_once(collection, store, tmp_path, monkeypatch):
    options = {"sources": [BM25()], "depth": 5, "teachers": [BM25(k1=1.5)], "store": store}
    first, _ = evaluate_teacher(collection, "test", **options)
    monkeypatch.setattr("retrodistill.retrieval.bm25.BM25Searcher.score", lambda *_: pytest.fail("judged again"))
    again, _ = evaluate_teacher(collection, "test", **options)
    assert again.metrics == first.metrics


def test_no_teacher_to_evaluate(collection, store):
    with pytest.raises(InputError, match=r"there is no teacher to evaluate; name one in score\.teachers"):
        evaluate_teacher(collection, "test", sources=[BM25()], depth=5, teachers=[], store=store)


def test_what_is_not_learnt_from_is_ranked_where_teachers_are_measured(collection, tiny_model, store):
    options = {"teachers": [BM25(), Dense(model=str(tiny_model))], "store": store}
    rule, asked = Agreed(quantile=0.3), {"sources": [Random()], "depth": 6, **options}
    evaluation, run = evaluate_teacher(collection, "test", combine=rule, **asked)
    plain, expected = evaluate_teacher(collection, "test", combine=Mean(), **asked)
    assert run == expected and evaluation.metrics == plain.metrics
    assert all(len(found) == 6 for found in run.values())
    found, _ = mine(collection, "test", [Random()], depth=6, positives=False)
    assert np.isnan(teacher_scores(found, collection, combine=rule, **options)).any()  # nothing is learnt from these


def test_queries_that_nobody_is_sure_about_are_ranked_where_teachers_are_measured(collection, store):
    asked = {"sources": [Random()], "depth": 6, "teachers": [BM25()], "store": store}
    found, _ = mine(collection, "test", [Random()], depth=6, positives=False)
    judging.judge(found, collection, asked["teachers"], store)
    learnt = teacher_scores(found, collection, asked["teachers"], store, Confident())
    silent = {query for query, score in zip(found.query_ids, learnt, strict=True) if np.isnan(score)}
    assert silent  # chance found nothing that shares a word with them, and BM25 gives 0 for all
    _, run = evaluate_teacher(collection, "test", combine=Confident(), **asked)
    assert all(len(ranked) == 6 for ranked in run.values())
    assert all(set(run[query].values()) == {0.0} for query in silent)


# A combination that learns from labels


@pytest.fixture
def learning(collection, tiny_model, store):
    teachers = [BM25(), Dense(model=str(tiny_model))]
    found, _ = mine(collection, "train", [BM25(), Random()], depth=6)
    judging.judge(found, collection, teachers, store)
    return {"teachers": teachers, "store": store}, found


def test_train_candidates_are_weighed_without_their_own_labels(collection, learning):
    options, found = learning
    rule = Reinforced(folds=3)
    texts = [collection.queries.text(query) for query in found.queries]
    lists = Lists(judging.read(found, collection, **options), found.offsets, found.labels, texts)
    scores = teacher_scores(found, collection, combine=rule, **options)
    np.testing.assert_array_equal(scores, rule.cross_fitted(lists))
    learnt = teacher_scores(found, collection, combine=rule, learnt_from=found, **options)
    np.testing.assert_array_equal(learnt, rule.learnt(lists)(lists.scores, lists.offsets))


def test_labels_that_are_measured_by_are_not_learnt_from(collection, learning):
    options, found = learning
    asked = {"sources": [BM25(), Random()], "depth": 6, "combine": Reinforced(folds=3), **options}
    _, run = evaluate_teacher(collection, "test", learnt_from=found, **asked)
    others = {query: {"comet0": 1} for query in collection.query_ids("test")}
    relabelled = Collection("topics", collection.corpus, collection.queries, {"test": others})
    _, again = evaluate_teacher(relabelled, "test", learnt_from=found, **asked)
    assert again == run
    with pytest.raises(InputError, match="must not be those of 'test'"):
        evaluate_teacher(collection, "test", **asked)
