from collections import Counter

import pytest

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.mining.mine import mine
from retrodistill.retrieval.labels import Labelled, OtherPositives

QRELS = {
    "q0": {"d0": 1, "d1": 0, "d2": -1, "d3": 0},
    "q1": {"d1": 1, "d4": 2},
    "q2": {"d4": 1, "d5": 1},
    "q3": {},
}


def toy(train=QRELS, test=None):
    corpus = Texts.documents("toy", [(f"d{row}", "", f"text {row}") for row in range(9)])
    queries = Texts.queries("toy", [(f"q{row}", f"query {row}") for row in range(5)])
    return Collection("toy", corpus, queries, {"train": train, "test": test or {"q4": {"d6": 1, "d7": 0}}})


def test_labelled_finds_what_is_not_relevant_by_grade():
    searcher = Labelled().open(toy())
    found = searcher.search(["q0", "q1", "q3"], 9)
    assert found == {"q0": {"d3": 0.0, "d1": 0.0, "d2": -1.0}, "q1": {}, "q3": {}}
    assert list(found["q0"]) == ["d3", "d1", "d2"]  # ties to the greater id, as everywhere
    assert searcher.search(["q0"], 1) == {"q0": {"d3": 0.0}}
    assert Labelled(split="test").open(toy()).search(["q4"], 9) == {"q4": {"d7": 0.0}}


def test_other_positives_are_relevant_to_others_and_not_judged_for_the_query():
    found = OtherPositives().open(toy()).search(["q0", "q1", "q2", "q3"], 9)
    assert {query: set(documents) for query, documents in found.items()} == {
        "q0": {"d4", "d5"},  # d1 is judged for q0
        "q1": {"d0", "d5"},
        "q2": {"d0", "d1"},
        "q3": {"d0", "d1", "d4", "d5"},
    }
    assert list(found["q0"].values()) == [1.0, 0.5]


def test_a_draw_depends_on_seed_and_query_alone_and_is_even():
    collection, counts = toy(), Counter()
    for seed in range(400):
        searcher = OtherPositives(seed=seed).open(collection)
        found = searcher.search(["q3", "q0"], 1)
        assert searcher.search(["q0"], 1)["q0"] == found["q0"]
        counts.update(found["q3"])
    # 400 draws of 4: 100 each, standard deviation sqrt(400 * 1/4 * 3/4) = 8.7
    assert len(counts) == 4 and all(abs(count - 100) < 5 * 8.7 for count in counts.values())


@pytest.mark.parametrize("part", [Labelled(), OtherPositives()])
def test_queries_of_another_split_are_refused_and_labels_decide_the_identity(part):
    with pytest.raises(InputError, match=rf"{part.kind} looks at the labels of 'train', and query 'q4' is not of it"):
        part.open(toy()).search(["q0", "q4"], 3)
    identity = part.open(toy()).identity
    assert identity == part.open(toy(test={"q4": {"d8": 1}})).identity
    assert identity != part.open(toy({**QRELS, "q2": {"d5": 1}})).identity


def test_what_is_labelled_not_relevant_is_a_negative_in_the_account():
    _, account = mine(toy(), "train", [Labelled()], depth=5)
    assert account.without == ["q1", "q2", "q3"]
