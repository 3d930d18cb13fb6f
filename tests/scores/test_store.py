import json
import math
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.errors import InputError
from retrodistill.files import digest_of_file
from retrodistill.scores import index
from retrodistill.scores.keys import text_keys
from retrodistill.scores.store import ScoreStore, fingerprint

TEACHER = {"kind": "cross_encoder", "model": "some/model", "max_length": 512}


@pytest.fixture
def store(tmp_path):
    return ScoreStore(tmp_path / "scores")


def pairs(*texts):
    """Keys of (query text, document text) pairs."""
    return text_keys([query for query, _ in texts]), text_keys([document for _, document in texts])


def parts(table):
    return sorted(table.folder.glob("part-*.parquet"))


def random_rows(seed, count, depth=10):
    random = np.random.default_rng(seed)
    queries = np.repeat(random.integers(0, 2**64, (-(-count // depth), 2), dtype=np.uint64), depth, axis=0)[:count]
    documents = random.integers(0, 2**64, (count, 2), dtype=np.uint64)
    return queries, documents, random.standard_normal(count).astype(np.float32)


def test_round_trip(store):
    table = store.table(TEACHER)
    keys = pairs(("q1", "d1"), ("q1", "d2"), ("q2", "d1"))
    table.append(*keys, np.array([1.5, -2.25, 1e-7]))
    for reader in (table, store.table(TEACHER), ScoreStore(store.root).table(TEACHER)):
        got = reader.lookup(*keys)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, np.array([1.5, -2.25, 1e-7], dtype=np.float32))
        assert len(reader) == 3


def test_missing_is_nan(store):
    table = store.table(TEACHER)
    assert np.isnan(table.lookup(*pairs(("q1", "d1")))).all()
    assert len(table) == 0
    table.append(*pairs(("q1", "d1")), np.array([3.0]))
    # The edited document, the swapped pair and the other teacher miss.
    got = table.lookup(*pairs(("q1", "d1"), ("q1", "d1."), ("d1", "q1"), ("q1", "q1")))
    np.testing.assert_array_equal(got, [3, np.nan, np.nan, np.nan])
    assert np.isnan(store.table({**TEACHER, "max_length": 256}).lookup(*pairs(("q1", "d1")))).all()
    assert table.lookup(*pairs()).shape == (0,)


def test_a_hit_needs_all_256_bits(store):
    queries, documents, scores = random_rows(0, 50)
    table = store.table(TEACHER)
    table.append(queries, documents, scores)
    for bit in range(256):
        asked = np.concatenate([queries, documents], axis=1)
        asked[:, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        assert np.isnan(table.lookup(asked[:, :2], asked[:, 2:])).all()


def test_keys_that_collide_in_the_hash_are_still_told_apart(store):
    # The index mixes the four halves by odd factors: moving (f1, -f0) between the first two leaves the sum the same.
    queries, documents, _ = random_rows(1, 1)
    first, second = index._FACTORS[:2]
    with np.errstate(over="ignore"):
        steps = np.arange(40, dtype=np.uint64)
        queries = np.stack([queries[0, 0] + steps * second, queries[0, 1] - steps * first], axis=1)
    documents = np.repeat(documents, 40, axis=0)
    assert len(np.unique(index._mixed(np.concatenate([queries, documents], axis=1)))) == 1
    table = store.table(TEACHER)
    table.append(queries[:30], documents[:30], np.arange(30.0))
    np.testing.assert_array_equal(table.lookup(queries, documents), [*range(30), *[np.nan] * 10])


def test_the_first_written_score_counts(store):
    table, other = store.table(TEACHER), store.table(TEACHER)
    keys = pairs(("q", "d"), ("q", "d"), ("q", "e"))
    table.append(*keys, np.array([1, 2, 3]))
    table.append(*keys, np.array([4, 5, 6]))
    other.append(*keys, np.array([7, 8, 9]))
    for reader in (table, other, store.table(TEACHER)):
        assert reader.lookup(*keys).tolist() == [1, 1, 3]


def test_the_first_written_counts_whoever_saw_it_first(store, monkeypatch):
    keys = pairs(("q", "d"))
    table = store.table(TEACHER)
    for clock, score in [(1_000, 1.0), (2_000, 2.0), (3_000, 3.0)]:
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: clock)
        table.append(*keys, np.array([score]))
    # The two older parts come into sight late, the oldest last, as those of writers elsewhere may.
    oldest, older, _ = parts(table)
    for part in (oldest, older):
        part.rename(part.with_name(f".{part.name}"))
    reader = store.table(TEACHER)
    assert reader.lookup(*keys).tolist() == [3.0]
    for part, expected in [(older, 2.0), (oldest, 1.0)]:
        part.with_name(f".{part.name}").rename(part)
        reader.refresh()
        assert reader.lookup(*keys).tolist() == [expected]
        assert store.table(TEACHER).lookup(*keys).tolist() == [expected]


def test_names_go_in_the_order_of_writing_even_when_the_clock_goes_back(store, monkeypatch):
    table = store.table(TEACHER)
    for clock, score in [(5_000, 1.0), (4_000, 2.0), (5_000, 3.0)]:
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: clock)
        table.append(*pairs(("q", "d")), np.array([score]))
    assert len(parts(table)) == 3
    assert store.table(TEACHER).lookup(*pairs(("q", "d"))).tolist() == [1.0]


def test_own_writes_at_once_others_after_refresh(store):
    mine, theirs = store.table(TEACHER), store.table(TEACHER)
    assert len(mine) == 0
    theirs.append(*pairs(("q", "d")), np.array([1.0]))
    assert np.isnan(mine.lookup(*pairs(("q", "d")))).all()
    mine.refresh()
    assert mine.lookup(*pairs(("q", "d"))).tolist() == [1.0]
    mine.append(*pairs(("q", "e")), np.array([2.0]))
    assert mine.lookup(*pairs(("q", "e"), ("q", "d"))).tolist() == [2.0, 1.0]


def test_a_part_that_is_taken_away_is_forgotten(store):
    table = store.table(TEACHER)
    for text in "abc":
        table.append(*pairs(("q", text)), np.array([1.0]))
    assert len(table) == 3
    parts(table)[1].unlink()
    table.refresh()
    assert len(table) == 2
    np.testing.assert_array_equal(table.lookup(*pairs(("q", "a"), ("q", "b"), ("q", "c"))), [1, np.nan, 1])


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e300])
def test_scores_that_are_no_numbers_are_never_written(store, wrong):
    table = store.table(TEACHER)
    with pytest.raises(
        InputError, match=rf"cross_encoder .*: 1 of 3 scores .* first is {re.escape(str(wrong))} in row 1"
    ):
        table.append(*pairs(("q", "a"), ("q", "b"), ("q", "c")), np.array([1.0, wrong, 2.0]))
    assert not store.root.exists()


def test_keys_and_scores_must_fit(store):
    queries, documents = pairs(("q", "a"), ("q", "b"))
    table = store.table(TEACHER)
    with pytest.raises(ValueError, match=r"scores of shape \(1,\), expected \(2,\)"):
        table.append(queries, documents, np.array([1.0]))
    with pytest.raises(ValueError, match="documents of type uint64"):
        table.lookup(queries, documents[:1])
    with pytest.raises(ValueError, match="queries of type int64"):
        table.lookup(queries.astype(np.int64), documents)


def test_nothing_appended_leaves_nothing(store):
    table = store.table(TEACHER)
    table.append(*pairs(), np.array([]))
    assert not store.root.exists()
    assert store.teachers() == []
    assert store.verify() == []


def test_layout_on_disk(store):
    table = store.table(TEACHER)
    table.append(*pairs(("q", "d")), np.array([1.0]))
    folder = store.root / fingerprint(TEACHER)
    assert json.loads((folder / "teacher.json").read_text()) == TEACHER
    (part,) = folder.glob("part-*.parquet")
    assert sorted(path.name for path in folder.iterdir()) == [part.name, "teacher.json"]
    assert pq.read_table(part).to_pylist() == [
        dict(
            zip(
                ["q_hi", "q_lo", "d_hi", "d_lo", "score"],
                [*text_keys(["q"])[0].tolist(), *text_keys(["d"])[0].tolist(), 1.0],
                strict=True,
            )
        )
    ]


def test_rows_sorted_by_query_cost_at_most_24_bytes(store):
    table = store.table(TEACHER)
    table.append(*random_rows(2, 300_000, depth=30))
    (teacher,) = store.teachers()
    assert teacher == {
        "identity": TEACHER,
        "fingerprint": fingerprint(TEACHER),
        "rows": 300_000,
        "orders": 0,
        "parts": 1,
        "bytes": parts(table)[0].stat().st_size,
    }
    assert teacher["bytes"] <= 24 * 300_000


def test_fingerprint_depends_on_content_only():
    assert fingerprint(TEACHER) == fingerprint(dict(reversed(TEACHER.items())))
    assert fingerprint(TEACHER) != fingerprint({**TEACHER, "max_length": 511})
    assert len(fingerprint(TEACHER)) == 16


def test_identity_that_was_edited(store):
    table = store.table(TEACHER)
    table.append(*pairs(("q", "d")), np.array([1.0]))
    (table.folder / "teacher.json").write_text(json.dumps({**TEACHER, "max_length": 256}))
    with pytest.raises(InputError, match=r"teacher\.json.*max_length: 256 stored, 512 asked"):
        store.table(TEACHER)
    (line,) = store.verify()
    assert str(table.folder / "teacher.json") in line
    (table.folder / "teacher.json").write_text("{")
    with pytest.raises(InputError, match=r"teacher\.json: cannot be read as JSON"):
        store.table(TEACHER)
    (table.folder / "teacher.json").unlink()
    assert "no such file" in store.verify()[0]


def test_identity_with_what_json_has_not(store):
    identity = {"kind": "bm25", "sizes": (1, 2), "path": Path("x")}
    store.table(identity).append(*pairs(("q", "d")), np.array([1.0]))
    assert len(store.table(identity)) == 1
    assert store.verify() == []


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "scores").write_text("")
    with pytest.raises(InputError, match="got a file, expected the folder"):
        ScoreStore(tmp_path / "scores")


def test_a_torn_temporary_file_is_invisible(store):
    table = store.table(TEACHER)
    table.append(*pairs(("q", "d")), np.array([1.0]))
    (part,) = parts(table)
    whole = part.read_bytes()
    (table.folder / f".{part.name}.1-2.tmp").write_bytes(whole[:50])
    (table.folder / ".part-abc").write_bytes(whole)
    reader = store.table(TEACHER)
    assert len(reader) == 1
    assert store.verify() == []


def damage_byte(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0xFF
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def replace(path):
    path.write_text("this is no Parquet")


def folder_instead(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [damage_byte, truncate, empty, replace, folder_instead])
def test_damage_is_found_named_and_left_out(store, capsys, damage):
    table = store.table(TEACHER)
    for text in "abc":
        table.append(*pairs(("q", text)), np.array([1.0]))
    victim = parts(table)[1]
    damage(victim)
    (line,) = store.verify()
    assert line.startswith(f"{victim}: ")
    reader = store.table(TEACHER)
    asked = pairs(("q", "a"), ("q", "b"), ("q", "c"))
    np.testing.assert_array_equal(reader.lookup(*asked), [1, np.nan, 1])
    assert capsys.readouterr().err.count(f"warning: {victim} is damaged") == 1
    # What was lost is written anew, and the warning is not repeated.
    reader.append(*pairs(("q", "b")), np.array([2.0]))
    assert reader.lookup(*asked).tolist() == [1, 2, 1]
    assert capsys.readouterr().err == ""
    assert store.teachers()[0]["identity"] == TEACHER


def test_every_single_byte_counts(store):
    table = store.table(TEACHER)
    table.append(*random_rows(3, 20))
    (part,) = parts(table)
    for place in np.linspace(0, 1, 60):
        whole = part.read_bytes()
        damage_byte(part, place)
        assert len(store.verify()) == 1
        part.write_bytes(whole)
    assert store.verify() == []


def test_a_part_under_another_name_is_not_believed(store, capsys):
    table = store.table(TEACHER)
    table.append(*pairs(("q", "d")), np.array([1.0]))
    (part,) = parts(table)
    copy = part.with_name("part-copy.parquet")
    shutil.copy(part, copy)
    assert store.verify() == [
        f"{copy}: its name carries no time and digest: it was renamed, or not written by this store"
    ]
    assert len(store.table(TEACHER)) == 1
    assert "part-copy.parquet is damaged" in capsys.readouterr().err


def test_a_whole_part_with_other_columns(store, capsys):
    table = store.table(TEACHER)
    table.append(*pairs(("q", "d")), np.array([1.0]))
    (part,) = parts(table)
    pq.write_table(pa.table({"a": [1]}), part)
    part.rename(part.with_name(part.name[:22] + digest_of_file(part)[:16] + ".parquet"))
    assert "got the columns ['a'], expected ['q_hi'" in store.verify()[0]
    assert len(store.table(TEACHER)) == 0


def write_overlapping(root, number):
    table = ScoreStore(Path(root)).table(TEACHER)
    queries, documents, _ = random_rows(4, 4000)
    for start in range(number * 500, number * 500 + 2000, 100):
        rows = slice(start, start + 100)
        table.append(queries[rows], documents[rows], np.arange(start, start + 100))


def test_concurrent_writers_lose_nothing(store):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_overlapping, args=(str(store.root), number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    table = store.table(TEACHER)
    queries, documents, _ = random_rows(4, 4000)
    expected = np.where(np.arange(4000) < 3500, np.arange(4000), np.nan)
    np.testing.assert_array_equal(table.lookup(queries, documents), expected)
    assert len(table) == 4 * 2000
    assert store.verify() == []
    assert not list(table.folder.glob(".*"))


WRITER = """
import sys, numpy as np
from pathlib import Path
from retrodistill.scores.store import ScoreStore
table = ScoreStore(Path(sys.argv[1])).table({"kind": "killed"})
for number in range(10**9):
    keys = np.full((20_000, 2), number, dtype=np.uint64)
    documents = np.arange(40_000, dtype=np.uint64).reshape(-1, 2)
    table.append(keys, documents, np.full(20_000, number))
    print(number, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.041])
def test_a_killed_writer_leaves_a_readable_store(store, delay):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store.root)], stdout=subprocess.PIPE, text=True)
    for _ in range(5):
        writer.stdout.readline()
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    said = 5 + len(writer.stdout.read().split())
    writer.wait()
    assert store.verify() == []
    table = store.table({"kind": "killed"})
    documents = np.arange(40_000, dtype=np.uint64).reshape(-1, 2)
    for number in range(said):
        assert (table.lookup(np.full((20_000, 2), number, dtype=np.uint64), documents) == number).all()
    # At most the part whose word did not get out any more.
    assert said <= len(table) / 20_000 <= said + 1
    table.append(documents, documents, np.zeros(20_000))


small = st.integers(0, 4)
appends = st.lists(st.lists(st.tuples(small, small, st.floats(-1e6, 1e6, width=32)), max_size=12), max_size=12)


@settings(max_examples=40, deadline=None)
@given(appends, st.lists(st.booleans(), min_size=12, max_size=12))
def test_behaves_like_a_dict(tmp_path_factory, batches, looks):
    store = ScoreStore(tmp_path_factory.mktemp("store"))
    table, model, written = store.table(TEACHER), {}, 0
    asked = [(q, d) for q in range(5) for d in range(5)]
    keys = {n: text_keys([str(n)])[0] for n in range(5)}
    every = np.array([keys[q] for q, _ in asked]), np.array([keys[d] for _, d in asked])
    for batch, look in zip(batches, looks, strict=False):
        if batch:
            queries, documents = (np.array([keys[row[side]] for row in batch]) for side in (0, 1))
            table.append(queries, documents, np.array([row[2] for row in batch]))
        for q, d, score in batch:
            model.setdefault((q, d), score)
        written += len(batch)
        if look:
            np.testing.assert_array_equal(table.lookup(*every), [model.get(pair, np.nan) for pair in asked])
            assert len(table) == written
    for reader in (table, store.table(TEACHER)):
        np.testing.assert_array_equal(reader.lookup(*every), [model.get(pair, np.nan) for pair in asked])


def test_large_lookups_go_through_blocks_and_segments(store, monkeypatch):
    monkeypatch.setattr(index, "_BLOCK", 97)
    table = store.table(TEACHER)
    queries, documents, scores = random_rows(5, 3000)
    for rows in (slice(0, 1500), slice(1500, 2000), slice(2000, 2100)):
        table.append(queries[rows], documents[rows], scores[rows])
        assert len(table) == rows.stop
    order = np.random.default_rng(6).permutation(3000)
    np.testing.assert_array_equal(
        table.lookup(queries[order], documents[order]), np.where(order < 2100, scores[order], np.float32(np.nan))
    )
