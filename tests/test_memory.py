import pytest

from retrodistill import memory
from retrodistill.errors import InputError
from retrodistill.memory import Budget, granted, parse, resident, shown


@pytest.mark.parametrize(
    ("said", "meant"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("512mb", 512 * 10**6), ("100KiB", 102_400), ("7", 7), ("70 B", 70)],
)
def test_sizes(said, meant):
    assert parse(said) == granted(said) == meant


@pytest.mark.parametrize("said", ["2 apples", "GB", "-1GB", "2TB", "", "1e9"])
def test_no_sizes(said):
    with pytest.raises(InputError, match="is no size; write it as 2GB, 512MB"):
        granted(said)


def test_nothing_is_no_grant():
    assert granted(None) is None
    with pytest.raises(InputError, match="'0GB' is nothing"):
        granted("0GB")


def test_what_is_held_is_seen():
    before = resident()
    held = b"x" * 200_000_000
    assert 190e6 < resident() - before < 260e6
    assert len(held) <= memory.peak()


def test_a_claim_beyond_the_budget_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(memory, "resident", lambda: 400 * 10**6)
    budget = Budget(10**9)
    assert budget.left == 600 * 10**6
    budget.claim(600 * 10**6, "an index")
    with pytest.raises(
        InputError,
        match=r"memory: 1.0 GB is not enough: an index takes about 700 MB beside the 400 MB taken already; grant 1.2 GB",
    ):
        budget.claim(700 * 10**6, "an index")
    assert shown(1_500_000) == "2 MB"
