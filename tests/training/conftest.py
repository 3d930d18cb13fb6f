import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    # Tiny matrices gain nothing from more, and a sum in another order may round in another way.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
