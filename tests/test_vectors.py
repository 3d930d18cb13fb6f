import json

import numpy as np
import pytest

from retrodistill import vectors
from retrodistill.encoders import DenseEncoder
from retrodistill.vectors import encoded, folder_of, known_rate

TEXTS = [f"storm {number} wind rain bread" + " flour" * (number % 5) for number in range(10)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vectors, "TEXTS_A_PART", 3)


class Counting:
    """An encoder whose vectors are known, and that remembers what it was asked; it fails at text `until`."""

    model = None
    dimensions = 2

    def __init__(self, until=10**6, **identity):
        self.identity = {"kind": "counting", **identity}
        self.until = until
        self.asked = []

    def encode(self, texts, role, done=None):
        if len(self.asked) + len(texts) > self.until:
            raise KeyboardInterrupt
        self.asked += texts
        return np.array([[len(text), sum(text.encode())] for text in texts], dtype=np.float32).reshape(-1, 2)


def test_vectors_come_in_the_order_of_the_texts():
    found = encoded(Counting(), TEXTS, "d", "document", "encode").vectors
    assert (found.dtype, found.shape) == (np.float32, (10, 2))
    np.testing.assert_array_equal(found, Counting().encode(TEXTS, "document"))
    assert isinstance(found, np.memmap)


def test_the_second_call_reads_from_disk():
    first = encoded(Counting(), TEXTS, "d", "document", "encode")
    again = Counting()
    second = encoded(again, TEXTS, "d", "document", "encode")
    assert again.asked == []
    np.testing.assert_array_equal(second.vectors, first.vectors)
    assert second.per_second == first.per_second > 0
    assert known_rate(again, "d", "document") == first.per_second
    assert known_rate(again, "other", "document") is None


def test_nothing_but_the_vectors_is_left():
    encoder = Counting()
    encoded(encoder, TEXTS, "d", "document", "encode")
    folder = folder_of(encoder, "d", "document")
    assert sorted(path.name for path in folder.iterdir()) == ["about.json", "vectors.npy"]
    assert json.loads((folder / "about.json").read_text())["texts"] == 10


@pytest.mark.parametrize("until", range(10))
def test_a_killed_encoding_goes_on_where_it_was(until):
    whole = encoded(Counting(), TEXTS, "uninterrupted", "document", "encode").vectors
    killed = Counting(until)
    with pytest.raises(KeyboardInterrupt):
        encoded(killed, TEXTS, "d", "document", "encode")
    resumed = Counting()
    found = encoded(resumed, TEXTS, "d", "document", "encode").vectors
    assert killed.asked + resumed.asked == TEXTS
    assert found.tobytes() == whole.tobytes()


def test_a_real_encoder_resumed_gives_the_same_bits(tiny_model, tmp_path, monkeypatch):
    encoder = DenseEncoder(str(tiny_model), device="cpu")
    real = encoder.encode
    calls = []

    def failing(texts, role, done=None):
        calls.append(list(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(texts, role, done)

    monkeypatch.setattr(encoder, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        encoded(encoder, TEXTS, "d", "document", "encode")
    encoded(encoder, TEXTS, "d", "document", "encode")
    assert calls == [TEXTS[:3], TEXTS[3:6], TEXTS[6:9], TEXTS[6:9], TEXTS[9:]]
    resumed = (folder_of(encoder, "d", "document") / "vectors.npy").read_bytes()
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "another"))
    encoded(encoder, TEXTS, "d", "document", "encode")
    assert (folder_of(encoder, "d", "document") / "vectors.npy").read_bytes() == resumed


def test_killed_between_the_vectors_and_what_is_said_of_them():
    encoder = Counting()
    encoded(encoder, TEXTS, "d", "document", "encode")
    (folder_of(encoder, "d", "document") / "about.json").unlink()
    again = Counting()
    np.testing.assert_array_equal(encoded(again, TEXTS, "d", "document", "e").vectors, again.encode(TEXTS, "document"))


@pytest.mark.parametrize("at", [3, 6, 9])
def test_another_process_may_be_first(at):
    class Slow(Counting):
        def encode(self, texts, role, done=None):
            if len(self.asked) == at:
                encoded(Counting(), TEXTS, "d", "document", "encode")
            return super().encode(texts, role, done)

    found = encoded(Slow(), TEXTS, "d", "document", "encode").vectors
    np.testing.assert_array_equal(found, Counting().encode(TEXTS, "document"))
    folder = folder_of(Slow(), "d", "document")
    assert sorted(path.name for path in folder.iterdir()) == ["about.json", "vectors.npy"]


def test_whatever_decides_a_vector_decides_the_folder(tiny_model):
    plain = folder_of(DenseEncoder(str(tiny_model)), "d", "document")
    assert folder_of(DenseEncoder(str(tiny_model), device="cpu"), "d", "document") == plain
    others = [
        folder_of(DenseEncoder(str(tiny_model)), "e", "document"),
        folder_of(DenseEncoder(str(tiny_model)), "d", "query"),
        folder_of(DenseEncoder(str(tiny_model), document_prompt="passage: "), "d", "document"),
        folder_of(DenseEncoder(str(tiny_model), max_length=9), "d", "document"),
        folder_of(DenseEncoder(str(tiny_model), precision="bf16"), "d", "document"),
        folder_of(Counting(weights="other"), "d", "document"),
    ]
    assert len({plain, *others}) == 7


def test_no_texts_are_no_vectors():
    class Empty(Counting):
        def encode(self, texts, role, done=None):
            return np.empty((0, 5), dtype=np.float32)

    assert encoded(Empty(), [], "d", "query", "encode").vectors.shape == (0, 5)
