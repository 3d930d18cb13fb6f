"""What another process gives comes as it is made; its mistakes and its end are told."""

from __future__ import annotations

import os

import pytest

from retrodistill.apart import apart
from retrodistill.errors import InputError


def squares(count):
    for number in range(count):
        yield number**2, os.getpid()


def wrong(count):
    yield count
    raise InputError("no such thing")


def killed(count):
    yield count
    os._exit(9)


def test_things_come_from_another_process():
    given = list(apart(squares, 3))
    assert [number for number, _ in given] == [0, 1, 4]
    assert {process for _, process in given}.isdisjoint({os.getpid()})


@pytest.mark.parametrize(("work", "said"), [(wrong, "no such thing"), (killed, "ended")])
def test_what_came_before_a_mistake_is_kept(work, said):
    given = apart(work, 5)
    assert next(given) == 5
    with pytest.raises(InputError, match=said):
        next(given)
