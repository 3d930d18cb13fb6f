import threading

import numpy as np
import pytest
import torch

from retrodistill.packed.parallel import each

BATCHES = [np.arange(start, start + 3) for start in range(0, 30, 3)]


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def doubled(rows):
    return torch.from_numpy(rows) * 2


def test_every_batch_in_order_with_what_was_made_of_it():
    found = list(each(doubled, iter(BATCHES), "cpu"))
    assert [rows.tolist() for rows, _ in found] == [rows.tolist() for rows in BATCHES]
    assert [made.tolist() for _, made in found] == [(rows * 2).tolist() for rows in BATCHES]
    assert list(each(doubled, [], "cpu")) == []


def where(rows):
    return threading.current_thread() is threading.main_thread(), torch.get_num_threads()


def test_a_batch_has_one_core():
    assert {made for _, made in each(where, BATCHES, "cpu")} == {(False, 1)}
    assert torch.get_num_threads() == 3
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [3]  # what starts later has all again


def test_few_batches_and_a_gpu_are_left_to_torch():
    assert {made for _, made in each(where, BATCHES[:2], "cpu")} == {(True, 3)}
    assert {made for _, made in each(where, BATCHES, "cuda")} == {(True, 3)}


def test_a_failure_comes_out_and_leaves_nothing_behind():
    def fails(rows):
        if rows[0] == 6:
            raise MemoryError("no room")
        return doubled(rows)

    with pytest.raises(MemoryError, match="no room"):
        list(each(fails, BATCHES, "cpu"))
    assert torch.get_num_threads() == 3
    assert all(thread is threading.main_thread() for thread in threading.enumerate() if "ThreadPool" in thread.name)


def test_the_number_of_cores_changes_no_bit(tiny_model, monkeypatch):
    from retrodistill.encoders import TOKENS_A_BATCH, DenseEncoder

    monkeypatch.setitem(TOKENS_A_BATCH, "cpu", 64)
    encoder, texts = DenseEncoder(str(tiny_model), device="cpu"), [f"storm {'rain ' * number}" for number in range(20)]
    assert encoder.packed is not None
    many = encoder.encode(texts, "document")
    torch.set_num_threads(1)
    np.testing.assert_array_equal(encoder.encode(texts, "document"), many)
