import math
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from retrodistill.candidates import QRELS
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.mining import Account, mine
from retrodistill.mining.account import OWN
from retrodistill.mining.filters import DuplicatesOfPositives
from retrodistill.mining.samplers import Top, Uniform
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.labels import Labelled, OtherPositives
from retrodistill.retrieval.others import Random, RunFile
from retrodistill.retrieval.rerank import Rerank
from retrodistill.sections import Mine

DOCUMENTS = [f"d{number}" for number in range(8)]
QUERIES = ["q1", "q2", "d0"]  # d0 is a document too
QRELS_OF = {"q1": {"d1": 2, "d2": 0}, "q2": {"d7": 1}, "d0": {"d3": 1}}


def toy(qrels=None, texts=None, queries=QUERIES) -> Collection:
    corpus = Texts.documents("toy", [(doc, "", (texts or {}).get(doc, f"text of {doc}")) for doc in DOCUMENTS])
    return Collection("toy", corpus, Texts.queries("toy", [(q, q) for q in queries]), {"train": qrels or QRELS_OF})


def run_file(folder: Path, name: str, lists: dict[str, list[str] | dict[str, float]]) -> RunFile:
    lines = []
    for query, found in lists.items():
        scores = found if isinstance(found, dict) else {doc: 10.0 - rank for rank, doc in enumerate(found, start=1)}
        lines += [f"{query} Q0 {doc} 1 {score!r} x\n" for doc, score in scores.items()]
    path = folder / f"{name}.trec"
    path.write_text("".join(lines) or "nobody Q0 nothing 1 1 x\n")
    return RunFile(path=path)


@pytest.fixture
def source(tmp_path):
    return lambda name, lists: run_file(tmp_path, name, lists)


def rows(candidates, query):
    """(document, sources by name alone, rank, label) of one query, in order."""
    columns = candidates.select([query]).table.to_pydict()
    names = ["+".join(Path(part).stem for part in source.split("+")) for source in columns["source"]]
    return list(zip(columns["doc_id"], names, columns["rank"], columns["label"], strict=True))


# Merging


def test_merging_by_hand(source):
    first = source("a", {"q1": ["d4", "d1", "d5"], "q2": ["d6"], "d0": ["d3"]})
    second = source("b", {"q1": {"d5": 0.9, "d4": 0.5, "d2": 0.1}, "q2": {"d7": 7.0, "d6": 6.0}})
    candidates, account = mine(toy(), "train", [first, second])
    assert candidates.queries == ["q1", "q2", "d0"]
    # By best rank, labelled documents before others of the same rank.
    assert rows(candidates, "q1") == [
        ("d4", "a+b", 1, None),
        ("d5", "a+b", 1, None),
        ("d1", "a", 2, 2),
        ("d2", "b", 3, 0),
    ]
    assert rows(candidates, "q2") == [("d7", "b", 1, 1), ("d6", "a+b", 1, None)]
    assert rows(candidates, "d0") == [("d3", "a", 1, 1)]
    # The score is that of the source with the best rank: 9 is d4's in a, 0.9 is d5's in b.
    scores = dict(zip(candidates.select(["q1"]).doc_ids, candidates.select(["q1"]).scores.tolist(), strict=True))
    assert scores == pytest.approx({"d4": 9, "d5": 0.9, "d1": 8, "d2": 0.1})
    assert list(account.found.values()) == [5, 5]
    assert account.dropped == {"found by several sources, merged": 3}
    assert (account.kept, account.queries, account.without) == (7, 3, ["d0"])


def test_the_same_source_twice_is_told_apart(source):
    same = source("a", {"q1": ["d4"], "q2": [], "d0": []})
    candidates, account = mine(toy(), "train", [same, same])
    label = f"run:{same.path}"
    assert list(account.found) == [label, f"{label}#1"]
    assert candidates.table.column("source").to_pylist()[0:2] == [QRELS, f"{label}+{label}#1"]


# Own ids, depth


def test_a_querys_own_id_goes_without_leaving_a_gap(source):
    one = source("a", {"d0": ["d5", "d0", "d4", "d6"]})
    candidates, account = mine(toy(), "train", [one], depth=3, positives=False)
    assert rows(candidates, "d0") == [("d5", "a", 1, None), ("d4", "a", 2, None), ("d6", "a", 3, None)]
    candidates, account = mine(toy(), "train", [one], depth=2, positives=False)
    assert [row[0] for row in rows(candidates, "d0")] == ["d5", "d4"]
    # d0 was found, and it is told where it went.
    assert list(account.found.values()) == [3]
    assert account.dropped == {OWN: 1}
    assert account.kept == 2


def test_a_judgement_of_the_query_itself_is_told(source):
    one = source("a", {"d0": ["d5"]})
    _, account = mine(toy({**QRELS_OF, "d0": {"d0": 1, "d3": 1}}), "train", [one])
    assert (account.barred, account.added, account.kept) == (1, 3, 4)
    assert "| judgements not looked at: the query itself, or what it was made of " in account.table()


def test_a_depth_beyond_the_corpus_takes_all_there_is():
    candidates, account = mine(toy(), "train", [Random()], depth=1000)
    assert [len(rows(candidates, query)) for query in QUERIES] == [8, 8, 7]
    assert [row[2] for row in rows(candidates, "q1")] == list(range(1, 9))
    assert account.found == {"random": 24}
    assert account.dropped == {OWN: 1}


def test_depth_cuts_each_source(source):
    first = source("a", {"q1": ["d4", "d1", "d5"]})
    second = source("b", {"q1": ["d6", "d2", "d3"]})
    candidates, account = mine(toy(), "train", [first, second], depth=2, positives=False)
    assert {row[0] for row in rows(candidates, "q1")} == {"d4", "d1", "d6", "d2"}
    assert list(account.found.values()) == [2, 2]


# Positives


def test_positives_that_no_source_found_are_added_for_training(source):
    one = source("a", {"q1": ["d4"], "q2": ["d7", "d6"]})
    candidates, account = mine(toy(), "train", [one])
    assert rows(candidates, "q1") == [("d1", QRELS, 0, 2), ("d4", "a", 1, None)]  # d2 is judged not relevant: not added
    assert math.isnan(candidates.select(["q1"]).scores[0])
    assert rows(candidates, "q2") == [("d7", "a", 1, 1), ("d6", "a", 2, None)]
    assert rows(candidates, "d0") == [("d3", QRELS, 0, 1)]
    assert account.without == ["d0"]


def test_positives_are_left_out_where_a_teacher_is_to_be_judged(source):
    one = source("a", {"q1": ["d4"], "q2": ["d7", "d6"]})
    candidates, account = mine(toy(), "train", [one], positives=False)
    assert QRELS not in candidates.table.column("source").to_pylist()
    assert candidates.queries == ["q1", "q2"]
    assert account.kept == 3


# Labels as sources


def test_labelled_negatives_and_other_queries_positives_are_sources(source):
    one = source("a", {"q1": ["d4", "d2"], "q2": ["d6"], "d0": ["d5"]})
    candidates, account = mine(toy(), "train", [one, Labelled(), OtherPositives(seed=1)], depth=2)
    assert rows(candidates, "q1")[:3] == [("d1", QRELS, 0, 2), ("d2", "a+labelled", 1, 0), ("d4", "a", 1, None)]
    others = {query: {row[0] for row in rows(candidates, query) if row[1] == "other_positives"} for query in QUERIES}
    assert others == {"q1": {"d7", "d3"}, "q2": {"d1", "d3"}, "d0": {"d1", "d7"}}
    assert account.found["labelled"] == 1 and account.found["other_positives"] == 6


def test_sources_that_look_at_labels_are_refused_without_them(source):
    for part in (Labelled(), Rerank(sources=(BM25(), OtherPositives()), teacher="bm25")):
        with pytest.raises(InputError, match="looks at labels; leave it out, or mine with labels"):
            mine(toy(), "train", [part], labels=False)
        with pytest.raises(ValidationError, match="looks at labels; leave it out, or mine with labels"):
            Mine(sources=("bm25", part), labels=False)


def test_what_finds_nothing_for_measured_queries_is_no_only_source():
    with pytest.raises(ValidationError, match="labelled finds nothing for queries that are measured"):
        Mine(sources=("labelled",))
    assert Mine(sources=("bm25", "labelled", "other_positives")).searching == (BM25(),)


# Filters


def test_duplicates_of_positives_are_dropped(source):
    texts = {"d1": "The storm, of May", "d4": "the  STORM of may!", "d5": "the storm of June", "d2": "the storm of may"}
    one = source("a", {"q1": ["d4", "d5", "d2"], "q2": ["d4"]})
    candidates, account = mine(toy(texts=texts), "train", [one], filters=[DuplicatesOfPositives()])
    # d2 says the same, but somebody judged it: labelled documents stay.
    assert [row[0] for row in rows(candidates, "q1")] == ["d1", "d5", "d2"]
    assert [row[0] for row in rows(candidates, "q2")] == ["d7", "d4"]
    assert account.dropped == {"filter duplicates": 1}


def test_a_filter_of_duplicates_of_positives_does_not_stand_idle_without_labels(source):
    one = source("a", {"q1": ["d4", "d5"]})
    with pytest.raises(InputError, match=r"duplicates is held against labelled positives; say among: true .*, or mine"):
        mine(toy(), "train", [one], filters=[DuplicatesOfPositives()], labels=False)
    texts = {"d4": "the storm", "d5": "The storm!"}
    rule = DuplicatesOfPositives(among=True)
    candidates, account = mine(toy(texts=texts), "train", [one], filters=[rule], labels=False)
    assert [row[0] for row in rows(candidates, "q1")] == ["d4"]
    assert account.dropped == {"filter duplicates": 1}


# Samplers


def test_a_sampler_leaves_labelled_documents_alone(source):
    one = source("a", {"q1": ["d4", "d5", "d2", "d1", "d6", "d7"]})
    candidates, account = mine(toy(), "train", [one], sampler=Top(n=1, skip=1))
    assert rows(candidates, "q1") == [("d5", "a", 2, None), ("d2", "a", 3, 0), ("d1", "a", 4, 2)]
    assert account.dropped == {"not sampled by top:1": 3}


def test_a_draw_does_not_depend_on_the_other_queries(collection):
    def drawn(queries, seed=3):
        judged = {query: collection.qrels("train")[query] for query in queries}
        part = Collection("part", collection.corpus, collection.queries, {"train": judged})
        candidates, _ = mine(part, "train", [Random(seed=1)], sampler=Uniform(n=4), seed=seed)
        return {query: rows(candidates, query) for query in queries}

    queries = collection.query_ids("train")
    whole = drawn(queries)
    assert drawn(queries[3:6]) == {query: whole[query] for query in queries[3:6]}
    assert drawn(queries) == whole
    assert drawn(queries, seed=4) != whole
    assert (
        len({tuple(row[2] for row in kept if row[3] is None) for kept in whole.values()}) > 6
    )  # each query its own draw


# Accounts


LISTS = st.dictionaries(
    st.sampled_from(QUERIES), st.lists(st.sampled_from(DOCUMENTS), unique=True, max_size=8), min_size=1
).filter(lambda lists: any(lists.values()))


@settings(deadline=None)
@given(
    lists=st.lists(LISTS, min_size=1, max_size=3),
    qrels=st.dictionaries(
        st.sampled_from(QUERIES), st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 2), min_size=1), min_size=3
    ),
    depth=st.integers(1, 9),
    sampler=st.none()
    | st.builds(Top, n=st.integers(1, 4), skip=st.integers(0, 3))
    | st.builds(Uniform, n=st.integers(1, 4)),
    filtered=st.booleans(),
    positives=st.booleans(),
)
def test_an_account_adds_up(lists, qrels, depth, sampler, filtered, positives):
    twins = {doc: f"text {number // 2}" for number, doc in enumerate(DOCUMENTS)}
    collection = toy(qrels, twins)
    with tempfile.TemporaryDirectory() as folder:
        sources = [run_file(Path(folder), str(number), part) for number, part in enumerate(lists)]
        try:
            candidates, account = mine(
                collection,
                "train",
                sources,
                depth=depth,
                sampler=sampler,
                positives=positives,
                filters=[DuplicatesOfPositives()] if filtered else [],
            )
        except InputError as error:
            assert "no source found a document" in str(error)
            return
    found = candidates.table.column("source").to_pylist()
    added = found.count(QRELS)
    assert (account.kept, account.added) == (len(candidates), added)
    assert sum(account.found.values()) == account.kept - added + sum(account.dropped.values())
    assert added == 0 or positives
    by_query = {query: rows(candidates, query) for query in QUERIES}
    for query, kept in by_query.items():
        assert len({row[0] for row in kept}) == len(kept)
        assert [row[2] for row in kept] == sorted(row[2] for row in kept)
        assert all(row[3] == qrels[query].get(row[0]) for row in kept)
        assert query not in [row[0] for row in kept]
        if positives:
            assert {doc for doc, grade in qrels[query].items() if grade > 0} - {query} <= {row[0] for row in kept}
        # A row's sources are those whose first `depth` documents, the query's own id aside, hold it.
        tops = [[doc for doc in part.get(query, []) if doc != query][:depth] for part in lists]
        for doc, names, rank, _ in kept:
            holding = [number for number, top in enumerate(tops) if doc in top]
            assert names == ("+".join(map(str, holding)) or QRELS)
            assert rank == min((tops[number].index(doc) + 1 for number in holding), default=0)
    assert account.without == [query for query, kept in by_query.items() if all((row[3] or 0) > 0 for row in kept)]


def test_an_account_is_told_as_a_table_and_as_json():
    account = Account(
        found=Counter({"bm25": 1200}),
        added=2,
        dropped=Counter({"filter duplicates": 3}),
        kept=1199,
        refilled=1,
        unjudged=Counter({"simans:3": 7, "margin": 0}),
        queries=20,
        short={"a": 2},
        without=["a", "b", "c", "d"],
    )
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in account.table().splitlines()[2:]] == [
        ["found by bm25", "1,200"],
        ["added: labelled, found by none", "2"],
        ["dropped: filter duplicates", "3"],
        ["kept", "1,199"],
        ["of these refilled from the next in rank", "1"],
        ["without a score for simans:3", "7"],
        ["queries short of negatives: a", "1"],
        ["queries without any negative: a, b, c, ...", "4"],
    ]
    assert account.table().startswith("| 20 queries ")
    assert account.as_dict() == {
        "queries": 20,
        "found": {"bm25": 1200},
        "added": 2,
        "dropped": {"filter duplicates": 3},
        "kept": 1199,
        "refilled": 1,
        "barred_judgements": 0,
        "unjudged": {"simans:3": 7},
        "short_of_negatives": {"a": 2},
        "queries_without_negatives": ["a", "b", "c", "d"],
    }


# Real sources


def test_real_sources(collection, tiny_model):
    sources = [BM25(), Dense(model=str(tiny_model)), Random()]
    candidates, account = mine(collection, "train", sources, depth=6)
    assert account.queries == 12
    assert account.found["random"] == 72
    assert list(account.found) == ["bm25", f"dense:{tiny_model}", "random"]
    again, _ = mine(collection, "train", sources, depth=6)
    assert again.digest == candidates.digest
    relevant = {(query, doc) for query, grades in collection.qrels("train").items() for doc in grades}
    assert relevant <= set(zip(candidates.query_ids, candidates.doc_ids, strict=True))


# Mistakes


def test_no_source():
    with pytest.raises(InputError, match="mining needs a source, such as bm25; got none"):
        mine(toy(), "train", [])


def test_no_candidate_at_all():
    with pytest.raises(
        InputError, match="no source found a document for any of the 3 queries of 'train'; add a source"
    ):
        mine(toy(texts=dict.fromkeys(DOCUMENTS, "words")), "train", [BM25()], positives=False)


def test_an_unknown_split():
    with pytest.raises(InputError, match="toy has no split 'trian'; did you mean 'train'"):
        mine(toy(), "trian", [BM25()])
