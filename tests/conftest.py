"""One thread, so that sums are taken in one order and two workers do not fight; and no test leaves a trace in the global randomness."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def untouched():
    """Fails if the test's calls draw from, or seed, the global generator."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), (
        "the caller's random state was changed"
    )
