import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.candidates import QRELS, SCHEMA, Candidate, Candidates
from retrodistill.errors import InputError

NAN = float("nan")
ROWS = {
    "q2": [Candidate("d1", "bm25+dense:m", 1, 12.5, 2), Candidate("d2", "bm25", 3, 7.25, None)],
    "q1": [
        Candidate("d1", "bm25", 2, 3.0, 0),
        Candidate("d9", QRELS, 0, NAN, 1),
        Candidate("d3", "random", 1, NAN, None),
    ],
}


@pytest.fixture
def candidates():
    return Candidates.of(ROWS)


def test_columns(candidates):
    assert candidates.table.schema == SCHEMA
    assert len(candidates) == 5
    assert candidates.queries == ["q2", "q1"]
    assert candidates.offsets.tolist() == [0, 2, 5]
    assert candidates.offsets.dtype == np.int64
    assert candidates.query_ids == ["q2", "q2", "q1", "q1", "q1"]
    assert candidates.doc_ids == ["d1", "d2", "d1", "d9", "d3"]
    assert candidates.ranks.tolist() == [1, 3, 2, 0, 1]
    np.testing.assert_array_equal(candidates.scores, np.array([12.5, 7.25, 3, NAN, NAN], dtype=np.float32))
    # Judged and not relevant is 0; unjudged is NaN.
    np.testing.assert_array_equal(candidates.labels, np.array([2, NAN, 0, 1, NAN], dtype=np.float32))
    assert candidates.labels.dtype == candidates.scores.dtype == np.float32


def test_none_at_all(tmp_path):
    for empty in (Candidates.of({}), Candidates.of({"q": []})):
        assert (len(empty), empty.queries, empty.offsets.tolist(), empty.to_run()) == (0, [], [0], {})
        empty.write(tmp_path / "c.parquet")
        assert Candidates.read(tmp_path / "c.parquet").digest == empty.digest


def test_round_trip(candidates, tmp_path):
    path = tmp_path / "deep" / "candidates.parquet"
    candidates.write(path)
    again = Candidates.read(path)
    assert again.digest == candidates.digest
    assert (again.queries, again.doc_ids, again.offsets.tolist()) == (["q2", "q1"], candidates.doc_ids, [0, 2, 5])
    np.testing.assert_array_equal(again.labels, candidates.labels)
    assert [p.name for p in path.parent.iterdir()] == ["candidates.parquet"]


def test_rows_that_are_apart_are_brought_together(candidates):
    mixed = Candidates(candidates.table.take([0, 2, 1, 3, 4]))
    assert mixed.digest == candidates.digest
    assert mixed.offsets.tolist() == [0, 2, 5]


def test_brought_together_a_query_keeps_the_order_of_its_rows():
    rows = {f"q{n}": [(f"d{rank}", "bm25", rank, 1.0, None) for rank in range(1, 101)] for n in range(3)}
    candidates = Candidates.of(rows)
    interleaved = candidates.table.take(np.arange(300).reshape(3, 100).T.ravel())
    assert Candidates(interleaved).digest == candidates.digest


def test_select_keeps_the_order_of_the_table(candidates):
    assert candidates.select(["q1", "q2", "unknown"]).digest == candidates.digest
    one = candidates.select({"q1"})
    assert (one.queries, one.offsets.tolist(), one.doc_ids) == (["q1"], [0, 3], ["d1", "d9", "d3"])
    assert len(candidates.select([])) == 0


def test_to_run_leaves_out_what_no_source_scored(candidates):
    assert candidates.to_run() == {"q2": {"d1": 12.5, "d2": 7.25}, "q1": {"d1": 3.0}}


def test_digest_does_not_see_the_file(candidates, tmp_path):
    other = tmp_path / "other.parquet"
    table = candidates.table
    wide = pa.schema(
        [
            ("label", pa.int64()),
            ("query_id", pa.dictionary(pa.int32(), pa.string())),
            ("doc_id", pa.large_string()),
            ("source", pa.string()),
            ("rank", pa.int64()),
            ("score", pa.float64()),
            ("more", pa.string()),
        ]
    )
    table = table.append_column("more", pa.array(["x"] * 5)).select(wide.names).cast(wide)
    pq.write_table(table, other, compression="snappy", row_group_size=2)
    assert Candidates.read(other).digest == candidates.digest
    sliced = Candidates(pa.concat_tables([candidates.table.slice(0, 1), candidates.table.slice(1)]))
    assert sliced.digest == candidates.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row._replace(doc_id="d7"),
        lambda row: row._replace(source="dense"),
        lambda row: row._replace(rank=4),
        lambda row: row._replace(score=7.5),
        lambda row: row._replace(score=NAN),
        lambda row: row._replace(label=0),
    ],
)
def test_digest_sees_every_column(candidates, change):
    q2 = ROWS["q2"]
    assert Candidates.of({**ROWS, "q2": [q2[0], change(q2[1])]}).digest != candidates.digest


def test_digest_sees_order_and_where_ids_end():
    row = ("bm25", 1, 1.0, None)
    digests = {
        Candidates.of(rows).digest
        for rows in (
            {"ab": [("c", *row)], "d": [("e", *row)]},
            {"a": [("bc", *row)], "d": [("e", *row)]},
            {"d": [("e", *row)], "ab": [("c", *row)]},
            {"a": [("c", *row)], "bd": [("e", *row)]},
        )
    }
    assert len(digests) == 4


ids = st.text(min_size=1, max_size=3)
rows = st.builds(
    Candidate,
    ids,
    st.sampled_from(["bm25", "bm25+random", QRELS]),
    st.integers(0, 1000),
    st.floats(width=32, allow_infinity=False),
    st.none() | st.integers(-1, 3),
)


@settings(max_examples=50, deadline=None)
@given(
    content=st.dictionaries(ids, st.lists(rows, max_size=4, unique_by=lambda row: row.doc_id), max_size=5),
    seed=st.integers(0, 9),
)
def test_any_content_survives_the_file_and_any_order_of_queries(tmp_path_factory, content, seed):
    candidates = Candidates.of(content)
    path = tmp_path_factory.mktemp("c") / "c.parquet"
    candidates.write(path)
    assert Candidates.read(path).digest == candidates.digest
    kept = {query: documents for query, documents in content.items() if documents}
    assert candidates.queries == list(kept)
    bounds = zip(candidates.offsets[:-1], candidates.offsets[1:], strict=True)
    assert [candidates.doc_ids[a:b] for a, b in bounds] == [[row.doc_id for row in d] for d in kept.values()]
    # Shuffled, each query keeps exactly its rows.
    order = np.random.default_rng(seed).permutation(len(candidates))
    shuffled = Candidates(candidates.table.take(pa.array(order)))
    assert len(set(shuffled.queries)) == len(shuffled.queries) == len(kept)
    for query, start, end in zip(shuffled.queries, shuffled.offsets[:-1], shuffled.offsets[1:], strict=True):
        assert set(shuffled.query_ids[start:end]) == {query}
        assert set(shuffled.doc_ids[start:end]) == {row.doc_id for row in kept[query]}


def test_missing_file_names_the_stop_that_writes_it(tmp_path):
    path = tmp_path / "c.parquet"
    with pytest.raises(InputError, match=f"{path}: no such file; `retrodistill mine ... --out {path}` writes it"):
        Candidates.read(path)


def test_no_parquet(tmp_path):
    path = tmp_path / "c.parquet"
    path.write_text("query_id,doc_id\n")
    with pytest.raises(InputError, match=rf"{path}: cannot be read as Parquet .*`retrodistill mine` wrote"):
        Candidates.read(path)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        Candidates.read(tmp_path)


def written(candidates, tmp_path, **columns):
    """A file with some columns put in the place of the right ones."""
    table = candidates.table
    for name, values in columns.items():
        table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "c.parquet")
    return tmp_path / "c.parquet"


def test_wrong_columns(candidates, tmp_path):
    path = written(candidates, tmp_path, doc_id=None, label=None)
    with pytest.raises(
        InputError,
        match="got the columns query_id, source, rank, score, expected query_id, doc_id, source, rank, score, label; "
        "missing: doc_id, label",
    ):
        Candidates.read(path)


def test_wrong_types_are_told_together(candidates, tmp_path):
    path = written(candidates, tmp_path, rank=["a", "b", "c", "d", "e"], label=[0.5, None, 1, 1, 1])
    with pytest.raises(InputError) as caught:
        Candidates.read(path)
    assert str(path) in str(caught.value)
    assert "column rank: got string, expected int32" in str(caught.value)
    assert "column label: got double, expected int32" in str(caught.value)


def test_nan_is_no_rank(candidates, tmp_path):
    path = written(candidates, tmp_path, rank=[1.0, 2.0, NAN, 0.0, 1.0])
    with pytest.raises(InputError, match="column rank: got double, expected int32"):
        Candidates.read(path)


def test_nulls_and_impossible_values(candidates, tmp_path):
    path = written(candidates, tmp_path, doc_id=["d1", None, "d3", "d4", "d5"], rank=[1, 2, None, 4, 5])
    with pytest.raises(InputError) as caught:
        Candidates.read(path)
    assert str(caught.value).splitlines() == [
        f"{path}: these rows are no candidates",
        "  - row 2: doc_id is null; only label may be",
        "  - row 3: rank is null; only label may be",
    ]
    path = written(
        candidates,
        tmp_path,
        rank=[1, 2, 3, -4, 5],
        score=[1.0, 2.0, 3.0, NAN, np.inf],
        doc_id=["d1", "d1", "d2", "d3", "d4"],
    )
    with pytest.raises(InputError) as caught:
        Candidates.read(path)
    message = str(caught.value)
    assert "row 4: rank -4, expected 1 or more" in message
    assert "row 5: score inf" in message
    assert "1 pairs stand more than once, such as query 'q2' with document 'd1'" in message


def test_a_pair_twice_while_mining():
    with pytest.raises(InputError, match="query 'q' with document 'd'"):
        Candidates.of({"q": [("d", "bm25", 1, 2.0, None), ("d", "dense", 1, 2.0, None)]})


def test_import_brings_no_torch():
    modules = "retrodistill.candidates, retrodistill.scores.store, retrodistill.scores.combine"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Weights


def test_candidates_without_weights_are_as_they_were(candidates):
    assert candidates.weights is None and candidates.table.schema == SCHEMA
    # written before there were weights
    assert candidates.digest == "98eb42bcf13ede063d8ae53ebfa6220b3c345d7086acc448a10b285707546b19"


def test_weights_go_along(candidates, tmp_path):
    weights = np.array([1, 0.5, 1, 0, 2], dtype=np.float32)
    weighed = candidates.weighed(weights)
    weighed.write(tmp_path / "c.parquet")
    again = Candidates.read(tmp_path / "c.parquet")
    np.testing.assert_array_equal(again.weights, weights)
    assert again.digest == weighed.digest != candidates.digest
    assert weighed.weighed(np.ones(5)).digest != weighed.digest
    np.testing.assert_array_equal(again.select(["q1"]).weights, weights[2:])
    apart = Candidates(weighed.table.take([2, 0, 3, 1, 4]))  # brought together again
    assert apart.doc_ids == ["d1", "d9", "d3", "d1", "d2"]
    np.testing.assert_array_equal(apart.weights, [1, 0, 2, 1, 0.5])
    assert len(weighed.to_run()["q2"]) == 2


def test_weights_go_along_where_a_large_file_is_mapped(candidates, tmp_path):
    weighed = candidates.weighed(np.array([1, 0.5, 1, 0, 2], dtype=np.float32))
    weighed.write(tmp_path / "c.parquet")
    mapped = Candidates.read(tmp_path / "c.parquet", in_memory=0)
    np.testing.assert_array_equal(mapped.weights, weighed.weights)
    assert mapped.digest == weighed.digest


@pytest.mark.parametrize(("odd", "said"), [(-1.0, "weight -1.0"), (NAN, "weight nan"), (float("inf"), "weight inf")])
def test_weights_that_cannot_be(candidates, odd, said):
    with pytest.raises(InputError, match=f"row 3: {said}, expected a number of 0 or more"):
        candidates.weighed(np.array([1, 1, odd, 1, 1]))


def test_a_weight_column_that_is_none(candidates, tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(candidates.table.append_column("weight", pa.array(["a"] * 5)), path)
    with pytest.raises(InputError, match="column weight: got string, expected float"):
        Candidates.read(path)
    pq.write_table(candidates.table.append_column("weight", pa.array([1.0, None, 1, 1, 1])), path)
    with pytest.raises(InputError, match="row 2: weight is null; only label may be"):
        Candidates.read(path)
