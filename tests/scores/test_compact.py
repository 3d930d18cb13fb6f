"""Few parts of many, with the same judgements; and two teachers held against each other."""

import numpy as np
import pytest
from test_store import TEACHER, pairs, parts, random_rows

from retrodistill.errors import InputError
from retrodistill.scores import parts as score_parts
from retrodistill.scores.compact import compact, compare
from retrodistill.scores.orders import Order
from retrodistill.scores.store import ScoreStore, _decoded, fingerprint

OTHER = {**TEACHER, "max_length": 256}


@pytest.fixture
def store(tmp_path):
    return ScoreStore(tmp_path / "scores")


def test_nothing_changes_but_the_number_of_parts(store):
    rows = [random_rows(seed, 70) for seed in range(5)]
    for each in rows:
        store.table(TEACHER).append(*each)
    assert list(compact(store)) == [(fingerprint(TEACHER), 5, 1)]
    for queries, documents, scores in rows:
        np.testing.assert_array_equal(store.table(TEACHER).lookup(queries, documents), scores)
    assert store.verify() == []
    assert list(compact(store)) == [(fingerprint(TEACHER), 1, 1)]


def test_parts_stay_within_the_bound(store):
    for seed in range(6):
        store.table(TEACHER).append(*random_rows(seed, 40))
    assert list(compact(store, rows_a_part=100)) == [(fingerprint(TEACHER), 6, 3)]
    assert sum(found["rows"] for found in store.teachers()) == 240


def test_the_first_written_still_counts(store):
    table, keys = store.table(TEACHER), pairs(("q", "d"))
    for value in (3.0, 1.0, 2.0):
        store.table(TEACHER).append(*keys, np.array([value]))
    list(compact(store))
    assert store.table(TEACHER).lookup(*keys) == [3.0]
    assert table.lookup(*keys) == [3.0] and len(table) == 1
    # what comes later does not stand before what was joined
    store.table(TEACHER).append(*keys, np.array([9.0]))
    assert store.table(TEACHER).lookup(*keys) == [3.0]


def test_one_who_reads_meanwhile_misses_nothing(store):
    rows = [random_rows(seed, 50) for seed in range(4)]
    for each in rows:
        store.table(TEACHER).append(*each)
    reader = store.table(TEACHER)
    np.testing.assert_array_equal(reader.lookup(*rows[0][:2]), rows[0][2])
    list(compact(store))
    store.table(TEACHER).append(*random_rows(9, 5))
    reader.refresh()
    for queries, documents, scores in rows:
        np.testing.assert_array_equal(reader.lookup(queries, documents), scores)
    assert len(reader) == 205


def test_a_damaged_part_stays_and_is_still_told(store):
    for seed in range(3):
        store.table(TEACHER).append(*random_rows(seed, 30))
    table = store.table(TEACHER)
    damaged = parts(table)[1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert list(compact(store)) == [(table.fingerprint, 3, 3)]
    assert damaged.read_bytes() == content
    assert len(store.verify()) == 1


def test_two_teachers_compared(store):
    keys = pairs(("q", "a"), ("q", "b"), ("q", "c"), ("r", "a"), ("r", "b"), ("s", "a"))
    store.table(TEACHER).append(*keys, np.array([1.0, 2.0, 3.0, 1.0, 2.0, 5.0]))
    fewer = pairs(("q", "a"), ("q", "b"), ("q", "c"), ("r", "a"), ("r", "b"), ("t", "a"))
    store.table(OTHER).append(*fewer, np.array([1.0, 3.0, 2.0, 2.0, 1.0, 0.0]))
    found = compare(store, fingerprint(TEACHER), store, fingerprint(OTHER))
    assert (found.first_only, found.second_only, found.both, found.equal) == (1, 1, 5, 1)
    # of q one of three pairs of documents is turned round, of r the only one: (1/3 - 1) / 2
    assert found.tau == pytest.approx(-1 / 3)
    assert found.pearson == pytest.approx(np.corrcoef([1, 2, 3, 1, 2], [1, 3, 2, 2, 1])[0, 1])
    assert found.largest == 1
    assert any("512" in line and "256" in line for line in found.differences)


def test_nothing_in_common(store):
    store.table(TEACHER).append(*pairs(("q", "a")), np.array([1.0]))
    store.table(OTHER).append(*pairs(("q", "b")), np.array([1.0]))
    found = compare(store, fingerprint(TEACHER), store, fingerprint(OTHER))
    assert found.both == 0 and np.isnan(found.pearson) and np.isnan(found.tau) and found.largest == 0
    with pytest.raises(InputError, match="no teacher 'abc'; it has"):
        compare(store, "abc", store, fingerprint(OTHER))


def test_orders_are_joined_too_and_the_first_written_counts(store):
    windows = [("q", ["a", "b"]), ("q", ["b", "a"]), ("r", ["a", "b"])]
    for number, window in enumerate([*windows, windows[0]]):
        store.orders(TEACHER).append([window], [Order((number % 2, 1 - number % 2), (0.5, 1.0), f"said {number}")])
    assert list(compact(store)) == [(fingerprint(TEACHER), 4, 1)]
    kept = store.orders(TEACHER)
    assert [kept.find(*window).answer for window in windows] == ["said 0", "said 1", "said 2"]
    assert kept.find(*windows[1]).ranking == (1, 0) and len(kept) == 3
    assert store.verify() == []
    assert list(compact(store, orders_a_part=2)) == [(fingerprint(TEACHER), 1, 1)]


def test_one_who_reads_orders_meanwhile_misses_nothing_and_is_told_of_no_damage(store, capsys):
    for number in range(3):
        store.orders(TEACHER).append([(f"q{number}", ["a", "b"])], [Order((0, 1))])
    reader = store.orders(TEACHER)
    list(compact(store))
    store.orders(TEACHER).append([("late", ["a", "b"])], [Order((1, 0))])
    reader.refresh()
    assert len(reader) == 4 and reader.find("late", ["a", "b"]).ranking == (1, 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["verify", "compare"])
def test_parts_that_are_joined_while_all_are_read_are_neither_damaged_nor_missed(kind, store, monkeypatch):
    for seed in range(4):
        store.table(TEACHER).append(*random_rows(seed, 30))
    store.table(OTHER).append(*random_rows(0, 30))
    module = "store" if kind == "verify" else "compact"
    read, done = score_parts.read, []

    def while_joined(path, decode):
        if not done:
            done.append(1)
            list(compact(ScoreStore(store.root)))
        return read(path, decode)

    monkeypatch.setattr(f"retrodistill.scores.{module}.read_part", lambda path: while_joined(path, _decoded))
    if kind == "verify":
        assert store.verify() == []
    else:
        found = compare(store, fingerprint(TEACHER), store, fingerprint(OTHER))
        assert (found.both, found.first_only, found.second_only) == (30, 90, 0)
