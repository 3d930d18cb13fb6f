import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.scores.keys import text_keys


def test_halves_of_the_digest():
    digest = hashlib.blake2b("Ünïcode".encode(), digest_size=16).hexdigest()
    keys = text_keys(["Ünïcode"])
    assert keys.dtype == np.uint64
    assert f"{keys[0, 0]:016x}{keys[0, 1]:016x}" == digest


def test_published_value():
    # BLAKE2b-128 of the empty string.
    high, low = text_keys([""])[0]
    assert (int(high), int(low)) == (0xCAE66941D9EFBD40, 0x4E4D88758EA67670)


def test_none():
    assert text_keys([]).shape == (0, 2)


@given(st.lists(st.text(st.characters()), max_size=20))
def test_same_text_same_key_and_no_other(texts):
    # st.characters() draws lone surrogates too.
    keys = [tuple(row) for row in text_keys(texts).tolist()]
    for i, one in enumerate(texts):
        for j, other in enumerate(texts):
            assert (keys[i] == keys[j]) == (one == other)


def test_lone_surrogates_do_not_stop_it():
    assert len({tuple(row) for row in text_keys(["a\ud800", "a\ud801", "a"]).tolist()}) == 3
