"""What is mapped, chunked and joined by rows gives the bits that whole tables in memory gave."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_models import Plain

from retrodistill import candidates as candidates_module
from retrodistill.candidates import SCHEMA, Candidates
from retrodistill.collections import Collection, MadeQuery, Texts
from retrodistill.collections import texts as texts_module
from retrodistill.errors import InputError
from retrodistill.scores import combine, store
from retrodistill.scores.keys import text_keys
from retrodistill.scores.preferences import Preferences
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging
from retrodistill.training.lists import Lists

WORDS = ["a", "b", "é", ""]


def problem(random, queries=9, documents=14):
    """A collection in which texts repeat, one query is made of a document and two share ids with documents; candidates
    of some of the queries, labelled or not, in rows that stand apart where chance has it."""
    corpus = Texts.documents("c", [(f"d{n}", "", f"text {random.integers(documents)}") for n in range(documents)])
    asked = Texts.queries("c", [(f"{'d' if n < 2 else 'q'}{n}", f"query {random.integers(6)}") for n in range(queries)])
    collection = Collection("c", corpus, asked, {"train": {}})
    collection = collection.with_queries([MadeQuery("made", "made", "d3", "barred")], "train")
    rows = []
    for query in random.permutation(collection.queries.ids)[: random.integers(1, queries + 2)].tolist():
        for rank, doc in enumerate(random.permutation(documents)[: random.integers(1, 9)].tolist(), start=1):
            label = None if random.random() < 0.6 else int(random.integers(0, 3))
            score = np.nan if random.random() < 0.2 else float(random.normal())
            rows.append((query, f"d{doc}", "bm25" + random.choice(WORDS), rank, score, label))
    if random.random() < 0.5:
        random.shuffle(rows)
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    return collection, pa.table(columns, schema=SCHEMA)


def whole_digest(table):
    """The digest by its definition: over whole columns."""
    hashed = hashlib.sha256(str(table.num_rows).encode())
    for name in ("query_id", "doc_id", "source"):
        hashed.update(pc.binary_length(table.column(name)).to_numpy().astype("<i8").tobytes())
        hashed.update("".join(table.column(name).to_pylist()).encode())
    scores, label = table.column("score").to_numpy(), table.column("label")
    hashed.update(table.column("rank").to_numpy().astype("<i4").tobytes())
    hashed.update(np.where(np.isnan(scores), np.float32(np.nan), scores).astype("<f4").tobytes())
    hashed.update(label.is_null().to_numpy().tobytes() + label.fill_null(0).to_numpy().astype("<i4").tobytes())
    return hashed.hexdigest()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_mapped_file_is_the_file(seed, tmp_path_factory):
    _, table = problem(np.random.default_rng(seed))
    path = tmp_path_factory.mktemp("mapped") / "candidates.parquet"
    pq.write_table(table, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates_module, "_ROWS_AT_ONCE", 5)
        mapped, held = Candidates.read(path, in_memory=0), Candidates.read(path)
        again = Candidates.read(path, in_memory=0)
    for found in (mapped, again):
        assert found.table.equals(held.table.combine_chunks()) or np.isnan(held.scores).any()
        assert (found.queries, found.query_ids, found.doc_ids) == (held.queries, held.query_ids, held.doc_ids)
        assert found.offsets.tolist() == held.offsets.tolist()
        assert found.digest == held.digest == whole_digest(held.table)


def test_a_mapped_file_is_made_anew_where_its_source_changed_and_refused_where_it_is_wrong(tmp_path):
    path = tmp_path / "candidates.parquet"
    rows = {f"q{n}": [(f"d{n}", "s", 1, 1.0, None), ("x", "s", 2, 0.5, None)] for n in range(4)}
    Candidates.of(rows).write(path)
    assert Candidates.read(path, in_memory=0).queries == ["q0", "q1", "q2", "q3"]
    Candidates.of({"other": rows["q0"]}).write(path)
    assert Candidates.read(path, in_memory=0).queries == ["other"]
    table = Candidates.of(rows).table
    pq.write_table(pa.concat_tables([table, table.slice(5, 1)]), path)
    for _ in range(2):  # what was refused is not kept as if it had been good
        with pytest.raises(InputError, match="1 pairs stand more than once, such as query 'q2' with document 'x'"):
            Candidates.read(path, in_memory=0)


def test_rows_that_stand_twice_are_told_alike_whatever_is_looked_at_at_once(tmp_path, monkeypatch):
    rows = {f"q{n}": [("x", "s", 1, 1.0, None), (f"d{n}", "s", 2, 0.5, None)] for n in range(5)}
    table = Candidates.of(rows).table
    path = tmp_path / "candidates.parquet"
    pq.write_table(table.take([0, 1, 1, 2, 3, 4, 5, 6, 6, 6, 7, 8, 9]), path)
    for at_once in (1, 2, 3, 4, 100):
        monkeypatch.setattr(candidates_module, "_ROWS_AT_ONCE", at_once)
        with pytest.raises(InputError, match="2 pairs stand more than once, such as query 'q0' with document 'd0'"):
            Candidates.read(path)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), at_once=st.sampled_from([1, 7, 40, 1000]))
def test_scores_read_by_rows_are_those_of_each_pair(seed, at_once, tmp_path_factory):
    random = np.random.default_rng(seed)
    collection, table = problem(random)
    candidates, kept, teacher = Candidates(table), ScoreStore(tmp_path_factory.mktemp("store")), Plain()
    queries, documents = sorted(set(collection.queries.texts())), sorted(set(collection.corpus.texts()))
    expected = {}
    for _ in range(random.integers(0, 5)):
        # the same pair may stand in several parts, with another score: the first written counts
        pairs = [(random.choice(queries), random.choice(documents)) for _ in range(random.integers(1, 30))]
        scores = random.normal(size=len(pairs)).astype(np.float32)
        keys = [text_keys([str(pair[side]) for pair in pairs]) for side in (0, 1)]
        kept.table({"kind": "plain"}).append(*keys, scores)
        for pair, score in zip(pairs, scores, strict=True):
            expected.setdefault(pair, score)
    texts = [
        (collection.queries.text(query), collection.corpus.text(doc))
        for query, doc in zip(candidates.query_ids, candidates.doc_ids, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "JOINED_AT_ONCE", at_once)
        patch.setattr(store, "_BATCH", 4)
        patch.setattr(texts_module, "_FEW", random.choice([0, 1000]))
        (found,) = judging.read(candidates, collection, [teacher], kept)
        asked, stored = judging.count(teacher, candidates, collection, kept)
    np.testing.assert_array_equal(found, np.array([expected.get(pair, np.nan) for pair in texts], dtype=np.float32))
    assert (asked, stored) == (len(set(texts)), sum(pair in expected for pair in set(texts)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(combine.COMBINATIONS)),
    normalise=st.sampled_from(["none", "zscore", "minmax", "rank", "reciprocal_rank", "teacher_zscore"]),
    at_once=st.integers(1, 4),
)
def test_queries_combined_some_at_a_time_have_the_bits_of_all_at_once(seed, kind, normalise, at_once):
    random = np.random.default_rng(seed)
    offsets = np.cumsum([0, *random.integers(0, 40, random.integers(0, 9))])
    scores = random.normal(size=(random.integers(1, 4), offsets[-1])).astype(np.float32) * 7
    scores[random.random(scores.shape) < 0.3] = np.nan
    part = combine.COMBINATIONS[kind](normalise=normalise)
    whole = part(scores, offsets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combine, "_QUERIES_AT_ONCE", at_once)
        chunked = part(scores, offsets)
    assert chunked.tobytes() == whole.tobytes()


def reference(lists, collection, teacher, number):
    """What a batch must hold, from dictionaries by id; the queries and the picked documents are the batch's own."""
    candidates, batch = lists.candidates, lists.batch(number)
    rows = list(zip(candidates.query_ids, candidates.doc_ids, teacher, candidates.labels, strict=True))
    scores = {(query, doc): score for query, doc, score, _ in rows}
    grades = {(query, doc): max(0, np.nan_to_num(label)) for query, doc, _, label in rows}
    asked = [collection.queries.ids[row] for row in batch.queries]
    found = [collection.corpus.ids[row] for row in batch.documents]
    said = {
        query: {collection.corpus.text(doc) for (q, doc), grade in grades.items() if q == query and grade > 0}
        for query in asked
    }
    valid = [
        [
            (collection.corpus.text(doc) not in said[query] or grades.get((query, doc), 0) > 0)
            and doc not in collection.barred(query)
            for doc in found
        ]
        for query in asked
    ]
    own = [[(query, doc) in scores for doc in found] for query in asked]
    return (
        batch,
        np.array([[scores.get((query, doc), np.nan) for doc in found] for query in asked], dtype=np.float32),
        np.array([[grades.get((query, doc), 0) for doc in found] for query in asked], dtype=np.float32),
        np.array(valid),
        np.array(own),
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    pick=st.sampled_from(["uniform", "top", "log_uniform"]),
    batches=st.sampled_from(["random", "topics"]),
)
def test_batches_from_a_mapped_file_are_those_from_memory_and_say_what_the_ids_say(
    seed, pick, batches, tmp_path_factory
):
    random = np.random.default_rng(seed)
    collection, table = problem(random)
    path = tmp_path_factory.mktemp("lists") / "candidates.parquet"
    pq.write_table(table, path)
    options = {"documents": 4, "pick": pick, "batch_size": 2, "seed": 3, "batches": batches}
    made = []
    for in_memory in (0, 1 << 20):
        candidates = Candidates.read(path, in_memory=in_memory)
        random = np.random.default_rng(seed)
        teacher = random.normal(size=len(candidates)).astype(np.float32)
        teacher[random.random(len(teacher)) < 0.3] = np.nan
        sizes = np.diff(candidates.offsets)
        matrices = [np.where(random.random((n, n)) < 0.5, random.random((n, n)), np.nan) for n in sizes]
        preferences = Preferences.of(matrices, candidates.offsets[:-1].tolist())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(texts_module, "_FEW", in_memory)
            made.append(Lists(candidates, teacher, collection, preferences=preferences, **options))
    mapped, held = made
    np.testing.assert_array_equal(mapped.document_rows, held.document_rows)
    for number in range(2 * held.batches_an_epoch):
        first, second = mapped.batch(number), held.batch(number)
        for name in ("queries", "documents", "teacher", "grades", "own", "valid", "preferences"):
            one, other = getattr(first, name), getattr(second, name)
            assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
        batch, scores, grades, valid, candidates_of = reference(held, collection, teacher, number)
        np.testing.assert_array_equal(batch.teacher, scores)
        np.testing.assert_array_equal(batch.grades, grades)
        np.testing.assert_array_equal(batch.valid, valid)
        assert not (batch.own & ~candidates_of).any()


@pytest.mark.parametrize("few", [0, 1000])
def test_an_id_of_another_collection_is_named_whether_few_or_many_are_looked_up(few, monkeypatch, tmp_path):
    monkeypatch.setattr(texts_module, "_FEW", few)
    collection = Collection("c", Texts.documents("c", [("d", "", "x")]), Texts.queries("c", [("q", "y")]), {})
    candidates = Candidates.of({"q": [("d", "s", 1, 1.0, None), ("no", "s", 2, 1.0, None)]})
    with pytest.raises(InputError, match="candidates: doc_id 'no' is not in the collection"):
        candidates.doc_rows(collection.corpus)
    with pytest.raises(InputError, match="1 documents of the candidates are not in c, such as 'no'"):
        judging.read(candidates, collection, [Plain()], ScoreStore(tmp_path))
