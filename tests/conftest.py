"""Everything runs offline, on one thread, from small pipelines that the tests make themselves."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

# Two OpenMP threads on two busy cores are ten times slower than one.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
