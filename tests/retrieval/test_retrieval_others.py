from collections import Counter

import pytest

from retrodistill.errors import InputError
from retrodistill.retrieval.others import Random, RunFile
from retrodistill.runs import ranked


@pytest.fixture
def run_file(tmp_path):
    def write(*rows: str):
        path = tmp_path / "some.trec"
        path.write_text("".join(row + "\n" for row in rows))
        return RunFile(path=path)

    return write


# Run files


def test_the_lists_of_a_file(run_file, collection):
    searcher = run_file(
        "q-storm0 Q0 bread1 1 2.5 x",
        "q-storm0 Q0 storm3 2 9.5 x",
        "q-storm0 Q0 bread2 3 2.5 x",
        "q-chess0 Q0 chess1 1 1 x",
    ).open(collection)
    # The score decides, not the rank; ties fall by descending id.
    assert list(searcher.search(["q-storm0"], 10)["q-storm0"].items()) == [
        ("storm3", 9.5),
        ("bread2", 2.5),
        ("bread1", 2.5),
    ]
    assert list(searcher.search(["q-storm0"], 2)["q-storm0"]) == ["storm3", "bread2"]


def test_a_query_that_the_file_leaves_out_has_no_documents(run_file, collection):
    found = run_file("q-storm0 Q0 bread1 1 2.5 x").open(collection).search(["q-chess0", "q-storm0"], 5)
    assert found == {"q-chess0": {}, "q-storm0": {"bread1": 2.5}}


def test_a_file_without_any_of_the_queries_is_of_something_else(run_file, collection):
    with pytest.raises(InputError, match=r"some\.trec: none of the 2 queries asked for is in it"):
        run_file("q9 Q0 bread1 1 2.5 x").open(collection).search(["q-chess0", "q-storm0"], 5)


def test_documents_that_the_collection_does_not_hold_are_refused(run_file, collection):
    searcher = run_file("q-storm0 Q0 storm1 1 3 x", "q-storm0 Q0 mud 2 2 x", "q-storm0 Q0 sand 3 1 x").open(collection)
    with pytest.raises(InputError) as refused:
        searcher.search(["q-storm0"], 5)
    assert "2 documents are not in topics, the first is 'mud' under query 'q-storm0'" in str(refused.value)
    assert list(searcher.search(["q-storm0"], 1)["q-storm0"]) == ["storm1"]  # what is not looked at is not refused


def test_a_missing_file_is_told_before_any_work(tmp_path, collection):
    for ask in (RunFile(path=tmp_path / "none").check, lambda: RunFile(path=tmp_path).open(collection)):
        with pytest.raises(InputError, match="no such file; expected lines `query Q0 document rank score tag`"):
            ask()


def test_a_broken_file_names_the_line(run_file, collection):
    with pytest.raises(InputError, match=r"some\.trec, line 2: got 5 fields"):
        run_file("q-storm0 Q0 storm1 1 3 x", "q-storm0 Q0 storm2 2 2").open(collection).search(["q-storm0"], 5)


def test_identity_is_the_content(run_file, collection, tmp_path):
    first = run_file("q-storm0 Q0 storm1 1 3 x").open(collection).identity
    (tmp_path / "copy.trec").write_bytes((tmp_path / "some.trec").read_bytes())
    assert RunFile(path=tmp_path / "copy.trec").open(collection).identity == first
    assert run_file("q-storm0 Q0 storm1 1 4 x").open(collection).identity != first


# Chance


def test_a_draw_depends_on_the_seed_and_the_query_alone(collection):
    queries = collection.queries.ids
    whole = Random(seed=1).open(collection).search(queries, 6)
    assert Random(seed=1).open(collection).search(queries[::-1], 6) == whole
    for query in queries:
        assert Random(seed=1).open(collection).search([query], 6) == {query: whole[query]}
    assert Random(seed=2).open(collection).search(queries, 6) != whole
    assert len({tuple(found) for found in whole.values()}) > 10


def test_a_draw_has_no_repetition_and_is_ranked(collection):
    for depth in (1, 7, 24, 100):
        for found in Random().open(collection).search(collection.queries.ids, depth).values():
            assert len(found) == min(depth, 24)
            assert ranked(found) == list(found)


def test_every_document_is_drawn_as_often_as_any_other(collection):
    counts = Counter()
    for seed in range(60):
        for found in Random(seed=seed).open(collection).search(collection.queries.ids, 4).values():
            counts.update(list(found))
    # 60 seeds x 18 queries x 4 of 24 documents: 180 each, standard deviation sqrt(1080 * 1/6 * 5/6) = 12.2
    assert len(counts) == 24
    assert all(abs(count - 180) < 5 * 12.3 for count in counts.values())


def test_identity_holds_the_seed_and_the_corpus(collection):
    assert Random(seed=1).open(collection).identity != Random(seed=2).open(collection).identity
    assert Random(seed=1).open(collection).identity["corpus"] == collection.corpus.digest
