import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import NAN, Listed, by_id, candidates_over, lists_of, lists_over, read, teacher_over

from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.scores.preferences import Preferences
from retrodistill.training.lists import Batch, Lists


def same(first, second):
    for name in ("queries", "documents", "teacher", "grades", "own", "valid"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def true_of(batch, matrix):
    return {pair for pair, value in by_id(batch, matrix).items() if value}


def own_documents(batch):
    return {
        query: {batch.documents[column] for column in np.flatnonzero(row)}
        for query, row in zip(batch.queries, batch.own, strict=True)
    }


def test_the_schedule_is_a_function_of_the_seed(collection):
    first, second = lists_over(collection, seed=7), lists_over(collection, seed=7)
    numbers = range(2 * first.batches_an_epoch)
    expected = [read(first, number) for number in numbers]
    for number in reversed(numbers):  # whatever was asked for before
        same(read(second, number), expected[number])
    other = lists_over(collection, seed=8)
    assert [read(other, n).queries.tolist() for n in numbers] != [batch.queries.tolist() for batch in expected]


def test_every_query_once_an_epoch_in_an_order_of_its_own(collection):
    lists = lists_over(collection, batch_size=5)
    assert lists.batches_an_epoch == 3
    epochs = []
    for epoch in range(3):
        batches = [read(lists, 3 * epoch + step) for step in range(3)]
        assert [len(batch.queries) for batch in batches] == [5, 5, 2]
        epochs.append([query for batch in batches for query in batch.queries])
        assert sorted(epochs[-1]) == sorted(collection.queries.texts(lists.queries))
    assert epochs[0] != epochs[1] != epochs[2]


def test_positives_are_always_in_and_the_rest_is_drawn_anew(collection):
    lists = lists_over(collection, documents=4, batch_size=12)
    relevant = {
        collection.queries.text(query): {collection.corpus.text(doc) for doc in collection.qrels("train")[query]}
        for query in lists.candidates.queries
    }
    epochs = [own_documents(read(lists, epoch)) for epoch in range(4)]
    for listed in epochs:
        assert listed.keys() == relevant.keys()
        assert all(len(documents) == 4 and relevant[query] <= documents for query, documents in listed.items())
    assert epochs[0] != epochs[1] != epochs[2] != epochs[3]
    # In many draws every candidate has its turn.
    candidates = {doc for row in lists.candidates.doc_ids[:10] for doc in [collection.corpus.text(row)]}
    query = collection.queries.text(lists.candidates.queries[0])
    assert set.union(*(own_documents(read(lists, epoch))[query] for epoch in range(40))) == candidates


@pytest.mark.parametrize("labels", [True, False])
def test_matrices_hold_what_candidates_and_teacher_say(collection, labels):
    candidates = candidates_over(collection, labels=labels)
    teacher = teacher_over(candidates)
    lists = Lists(candidates, teacher, collection, documents=6, pick="uniform", batch_size=12, seed=0)
    batch = read(lists, 0)
    scores = {
        (collection.queries.text(query), collection.corpus.text(doc)): (score, label)
        for query, doc, score, label in zip(
            candidates.query_ids, candidates.doc_ids, teacher, np.nan_to_num(candidates.labels), strict=True
        )
    }
    assert len(set(batch.documents)) == len(batch.documents)
    for row, query in enumerate(batch.queries):
        for column, document in enumerate(batch.documents):
            score, label = scores.get((query, document), (NAN, 0))
            np.testing.assert_equal(batch.teacher[row, column], np.float32(score))  # picked for the query or not
            assert batch.grades[row, column] == label
    assert batch.teacher.dtype == np.float32
    assert lists.judged == int((~np.isnan(teacher)).sum()) < len(candidates)
    assert lists.positives == (18 if labels else 0)


def test_a_short_list_comes_whole():
    lists = lists_of({"a": [Listed("x"), Listed("y")], "b": [Listed(f"z{n}") for n in range(4)]})
    assert true_of(read(lists, 0), "own") == {("a", "x"), ("a", "y"), *(("b", f"z{n}") for n in range(4))}


def test_without_a_teacher_nothing_is_judged(collection):
    lists = Lists(candidates_over(collection), None, collection, documents=4, pick="uniform", batch_size=4, seed=0)
    assert lists.judged == 0
    assert np.isnan(read(lists, 0).teacher).all()


def test_a_positive_of_one_query_in_anothers_list_is_no_negative_of_the_first():
    # "p" is relevant to "a" and stands unlabelled in the list of "b", with another judgement of its own.
    rows = {"a": [Listed("p", 1, 5.0), Listed("x", 0, 1.0)], "b": [Listed("p", None, 2.0), Listed("y", 2, 3.0)]}
    batch = read(lists_of(rows), 0)
    assert sorted(batch.documents) == ["text of p", "text of x", "text of y"]
    assert true_of(batch, "positive") == {("a", "p"), ("b", "y")}
    assert true_of(batch, "own") == {("a", "p"), ("a", "x"), ("b", "p"), ("b", "y")}
    judged = {pair: value for pair, value in by_id(batch, "teacher").items() if value == value}
    assert judged == {("a", "p"): 5, ("a", "x"): 1, ("b", "p"): 2, ("b", "y"): 3}


def test_a_positive_that_was_not_picked_is_positive_but_not_own():
    # "a" has three positives of which two documents' room takes one; the others stand in the list of "b".
    positives = [Listed(f"p{n}", 1, 5.0) for n in range(3)]
    rows = {"a": [*positives, Listed("x", 0, 1.0)], "b": [Listed(f"p{n}", None, 0.5) for n in range(3)]}
    batch = read(lists_of(rows, documents=3), 0)
    own = {doc for query, doc in true_of(batch, "own") if query == "a"}
    assert len(own) == 3
    assert "x" in own
    assert {doc for query, doc in true_of(batch, "positive") if query == "a"} == {"p0", "p1", "p2"}
    (left,) = {"p0", "p1", "p2"} - own
    assert by_id(batch, "teacher")["a", left] == 5  # known of the query's candidates, whoever brought it


def test_what_the_collection_calls_relevant_is_no_negative_although_it_is_no_candidate_of_the_query():
    # as mined with positives: false: "p" answers "a", but only "b" has a row of it
    rows = {"a": [Listed("q", 1, 5.0), Listed("x", None, 1.0)], "b": [Listed("p", None, 2.0), Listed("y", 1, 3.0)]}
    qrels = {"train": {"a": {"p": 2, "q": 1, "z": 0}, "b": {"y": 1, "elsewhere": 1}}, "test": {"b": {"x": 1}}}
    lists = lists_of(rows, judgements=qrels)
    batch = read(lists, 0)
    assert {pair: grade for pair, grade in by_id(batch, "grades").items() if grade} == {
        ("a", "q"): 1, ("a", "p"): 2, ("b", "y"): 1,
    }  # fmt: skip
    assert ("a", "p") not in true_of(batch, "own")
    assert lists.positives == 2  # of the rows
    assert ("b", "x") in true_of(batch, "valid")  # another split's judgements of a train query say nothing here


def test_the_texts_of_relevant_documents_without_a_row_bar_their_twins():
    corpus = Texts.documents("c", [("p", "", "said"), ("twin", "", "said"), ("q", "", "known"), ("x", "", "other")])
    collection = Collection(
        "c", corpus, Texts.queries("c", [("a", "first"), ("b", "second")]), {"train": {"a": {"p": 1, "q": 1}}}
    )
    found = {"a": [("q", "s", 1, 1.0, 1)], "b": [("twin", "s", 1, 1.0, None), ("x", "s", 2, 0.5, None)]}
    batch = read(Lists(Candidates.of(found), None, collection, documents=8, pick="top", batch_size=2, seed=0), 0)
    row = batch.queries.tolist().index("first")
    assert dict(zip(batch.documents, batch.valid[row], strict=True)) == {"known": True, "said": False, "other": True}


def test_a_row_without_a_label_takes_the_collections_and_a_label_of_its_own_stays():
    qrels = {"train": {"a": {"x": 1, "y": 1, "z": 2}}}
    lists = lists_of({"a": [Listed("x", None), Listed("y", 0), Listed("z", 1)], "b": [Listed("w")]}, judgements=qrels)
    grades = by_id(read(lists, 0), "grades")
    assert [grades["a", doc] for doc in "xyzw"] == [1, 0, 1, 0]
    assert lists.positives == 2


def test_candidates_without_any_label_are_as_if_nobody_had_judged():
    rows = {"a": [Listed("x"), Listed("y")], "b": [Listed("p")]}
    lists = lists_of(rows, judgements={"train": {"a": {"p": 1, "x": 1}}})
    assert not read(lists, 0).grades.any()
    assert lists.positives == 0


def test_how_sure_a_score_is_stands_where_the_score_does():
    rows = {"a": [Listed("p", 1, 5.0), Listed("x", 0, 1.0)], "b": [Listed("p", None, 2.0), Listed("y", 2)]}
    lists = lists_of(rows, certainty=np.array([0.5, 0.25, 0.125, 0.75], dtype=np.float32))
    batch = lists.batch(0)
    found = by_id(read(lists, 0), "certainty")
    assert {pair: value for pair, value in found.items() if value != 1} == {
        ("a", "p"): 0.5, ("a", "x"): 0.25, ("b", "p"): 0.125, ("b", "y"): 0.75,
    }  # fmt: skip
    (first, _) = batch.split(np.array([9, 9]), 1)
    np.testing.assert_array_equal(first.certainty, batch.certainty[:1][:, batch.own[0]])
    assert lists_of(rows).batch(0).certainty is None
    with pytest.raises(InputError, match=r"^certainty: got 4 values for 4 candidates; give one above 0"):
        lists_of(rows, certainty=np.array([1, 0, 1, 1]))


def test_a_query_itself_and_what_says_the_same_as_its_positive_are_no_negatives():
    corpus = Texts.documents("c", [("p", "", "said"), ("twin", "", "said"), ("a", "", "the query"), ("x", "", "other")])
    queries = Texts.queries("c", [("a", "the query"), ("b", "another")])
    found = {
        "a": [("p", "s", 1, 1.0, 1), ("x", "s", 2, 0.5, None)],
        "b": [(d, "s", 1, 1.0, None) for d in ("twin", "a", "x")],
    }
    lists = Lists(
        Candidates.of(found), None, Collection("c", corpus, queries, {}), documents=8, pick="top", batch_size=2, seed=0
    )
    batch = read(lists, 0)
    row = batch.queries.tolist().index("the query")
    valid = {(text, bool(value)) for text, value in zip(batch.documents, batch.valid[row], strict=True)}
    assert valid == {("said", True), ("said", False), ("the query", False), ("other", True)}
    assert batch.valid[1 - row].all()
    assert batch.positive[row].sum() == 1 and (batch.positive & batch.valid)[row].sum() == 1


@pytest.mark.parametrize("documents", [2, 3])
def test_many_positives_leave_a_place_for_a_negative(documents):
    rows = {"a": [*(Listed(f"p{n}", 1) for n in range(5)), Listed("x"), Listed("y", 0)]}
    lists = lists_of(rows, documents=documents)
    for epoch in range(10):
        own = {doc for _, doc in true_of(read(lists, epoch), "own")}
        assert len(own) == documents
        assert len(own & {"x", "y"}) == 1


def test_positives_alone_fill_the_list():
    lists = lists_of({"a": [Listed(f"p{n}", 1) for n in range(5)]}, documents=3)
    assert len(true_of(read(lists, 0), "own")) == 3


def test_top_takes_positives_and_the_best_ranks_whatever_the_order_of_rows():
    rows = {"a": [Listed("fourth"), Listed("first"), Listed("positive", 1), Listed("third"), Listed("second", 0)]}
    lists = lists_of(rows, ranks=[4, 1, 9, 3, 2], pick="top", documents=3)
    for epoch in range(4):
        assert {doc for _, doc in true_of(read(lists, epoch), "own")} == {"positive", "first", "second"}


@st.composite
def batches(draw):
    queries, documents = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    own = generator.random((queries, documents)) < 0.5
    return Batch(
        queries=np.array([f"text of q{n}" for n in range(queries)]),
        documents=np.array([f"text of d{n}" for n in range(documents)]),
        teacher=np.where(own, generator.normal(size=own.shape), np.nan).astype(np.float32),
        grades=generator.integers(0, 3, own.shape).astype(np.float32),
        own=own,
        valid=generator.random(own.shape) < 0.8,
    ), generator


@settings(max_examples=80, deadline=None)
@given(drawn=batches(), budget=st.integers(1, 120))
def test_a_split_batch_is_whole_queries_with_their_own_documents(drawn, budget):
    batch, generator = drawn
    query_tokens, document_tokens = (generator.integers(1, 20, size) for size in batch.own.shape)
    groups = list(batch.split(query_tokens + batch.own @ document_tokens, budget))
    assert [query for group in groups for query in group.queries] == batch.queries.tolist()
    whole = {name: by_id(batch, name) for name in ("teacher", "grades", "own", "valid")}
    tokens = dict(zip([*batch.queries, *batch.documents], [*query_tokens, *document_tokens], strict=True))
    for group in groups:
        assert own_documents(group) == {query: own_documents(batch)[query] for query in group.queries}
        assert group.documents.tolist() == [
            doc for doc in batch.documents if any(doc in docs for docs in own_documents(group).values())
        ]
        for name, expected in whole.items():
            for pair, value in by_id(group, name).items():
                np.testing.assert_equal(value, expected[pair])
        assert len(group.queries) == 1 or sum(tokens[text] for text in [*group.queries, *group.documents]) <= budget


def test_a_split_takes_as_many_queries_as_the_budget_allows():
    own = np.eye(4, dtype=bool)
    batch = Batch(*map(np.array, (list("abcd"), list("wxyz"))), *[np.zeros((4, 4), dtype=np.float32)] * 2, own, own)
    for costs, budget, expected in [
        ([10] * 4, 20, ["ab", "cd"]),
        ([10] * 4, 19, ["a", "b", "c", "d"]),
        ([10] * 4, 40, ["abcd"]),
        ([10, 59, 10, 10], 20, ["a", "b", "cd"]),
    ]:
        assert ["".join(group.queries) for group in batch.split(np.array(costs), budget)] == expected


def test_log_uniform_draws_by_the_teachers_order_with_chances_that_fall_as_one_over_it():
    count, epochs = 6, 4_000
    rows = {"a": [Listed(f"d{n}", None, float(n)) for n in range(count)]}  # mined first to last, judged last to first
    lists = lists_of(rows, documents=2, pick="log_uniform")
    drawn = np.zeros(count)
    for epoch in range(epochs):
        for doc in true_of(read(lists, epoch), "own"):
            drawn[int(doc[1].removeprefix("d"))] += 1
    weights = 1 / np.arange(count, 0, -1)
    share = weights / weights.sum()
    # without repetition: drawn first, or second after any other
    expected = [p + sum(q / (1 - q) * p for place, q in enumerate(share) if place != n) for n, p in enumerate(share)]
    assert np.allclose(drawn / epochs, expected, atol=4 * np.sqrt(0.25 / epochs))


def test_log_uniform_goes_by_mined_rank_where_nobody_judged():
    rows = {"a": [Listed(f"d{n}") for n in range(40)]}
    lists = lists_of(rows, documents=2, pick="log_uniform")
    places = [int(doc.removeprefix("d")) for epoch in range(300) for _, doc in true_of(read(lists, epoch), "own")]
    assert sum(place < 5 for place in places) > 2 * sum(place >= 20 for place in places)


def test_topics_put_queries_with_common_candidates_together_each_once_an_epoch():
    # four topics of eight queries, each with candidates of its own
    rows = {
        f"q{topic}-{n}": [Listed(f"d{topic}-{doc}") for doc in (n, n + 1, n + 2, n + 3)]
        for n in range(8)
        for topic in range(4)
    }
    lists = lists_of(rows, documents=4, batch_size=2, batches="topics")
    for epoch in range(2):
        batches = [read(lists, epoch * 16 + step) for step in range(16)]
        queries = [str(query).removeprefix("text of ") for batch in batches for query in batch.queries]
        assert sorted(queries) == sorted(rows)
        together = [{str(query).partition("-")[0] for query in batch.queries} for batch in batches]
        assert sum(len(found) == 1 for found in together) >= 12  # by chance 4 of 16
        assert len(set.union(*together[:8])) > 1  # topics take turns


def test_a_batch_has_the_comparisons_of_the_documents_that_are_in_it():
    lists = lists_of({"a": [Listed(f"x{n}") for n in range(4)], "b": [Listed("x0"), Listed("y")]}, documents=3)
    nan = np.nan
    of_a = np.array([[nan, 0.9, nan, nan], [0.1, nan, 0.6, nan], [nan, 0.4, nan, 0.7], [nan, nan, 0.3, nan]])
    of_b = np.array([[nan, 0.2], [0.8, nan]])
    lists.preferences = Preferences.of([of_a, of_b], [0, 4])
    for number in range(6):
        batch = read(lists, number)
        for row, query in enumerate(batch.queries):
            names = [str(doc).removeprefix("text of ") for doc in batch.documents]
            for i, first in enumerate(names):
                for j, second in enumerate(names):
                    both_own = batch.own[row, i] and batch.own[row, j]
                    matrix = of_a if query == "text of a" else of_b
                    ids = ["x0", "x1", "x2", "x3"] if query == "text of a" else ["x0", "y"]
                    value = matrix[ids.index(first), ids.index(second)] if both_own else nan
                    np.testing.assert_allclose(batch.preferences[row, i, j], value, rtol=1e-6)
        (only, *_) = lists.batch(number).split(np.array([9, 9]), 1)
        assert only.preferences.shape == (1, only.own.shape[1], only.own.shape[1])


def test_a_student_learns_what_a_teacher_that_compares_prefers():
    from retrodistill.registry import build
    from retrodistill.training.objective import score_batch

    lists = lists_of({"a": [Listed("x"), Listed("y")]}, documents=2)
    lists.preferences = Preferences.of([np.array([[np.nan, 0.8], [0.2, np.nan]])], [0])
    student = torch.zeros((1, 2), requires_grad=True)
    batch = score_batch(lists.batch(0), student)
    loss = build("loss", "preference")(batch)
    # KL between a coin of .8 and a fair one, in either order
    assert loss.item() == pytest.approx(0.8 * np.log(1.6) + 0.2 * np.log(0.4), rel=1e-5)
    loss.backward()
    better = [lists.collection.corpus.texts([lists.batch(0).documents[0]])[0]] == ["text of x"]
    assert (student.grad[0, 0] < 0) == better
