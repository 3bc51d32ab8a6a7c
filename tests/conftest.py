"""Everything runs offline, on one thread, from small pipelines that the tests make themselves."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"  # bars come after two seconds: no test may depend on that

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from support.loads import read_once
from support.processes import PROCESSES
from support.tiny import tiny_folder, tiny_pipeline

from headwater.runtime import batch_size, processes
from headwater.runtime.memory import kept_bytes

# Two OpenMP threads on two busy cores are ten times slower than one.
torch.set_num_threads(1)


# Workers are spawned, which is to import everything again; here they are forked from a process
# that has. `test_workers_end_with_the_process_that_they_work_for` spawns them.
processes.BEGIN = PROCESSES.get_start_method()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _fits() -> Iterator[None]:
    """What one item takes of memory is not tried, a tenth of a small build: all batches fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_size, "kept_bytes", lambda _: 0)
        yield


@pytest.fixture
def memory_is_tried(_fits, monkeypatch) -> None:
    """It is, as outside of tests."""
    monkeypatch.setattr(batch_size, "kept_bytes", kept_bytes)


# What these two patch is imported by them, when shapes are checked already.


@pytest.fixture(scope="session", autouse=True)
def _networks_are_read_once() -> Iterator[None]:
    """To load a tiny model is what many tests do most."""
    from headwater.models.loading import pipelines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "load_whole", read_once(pipelines.load_whole))
        yield


@pytest.fixture(scope="session", autouse=True)
def _illustrations_take_five_steps() -> Iterator[None]:
    """Pictures that stand beside a question which is not about one; by fifty steps they took more
    time than its answer.
    """
    from headwater.attribution import resources

    def shown(query, guidance):
        found = ours(query, guidance)
        return replace(found, steps=5) if found is not None and found is not query else found

    ours = resources.shown
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "shown", shown)
        yield


@pytest.fixture
def illustrations_take_fifty_steps(monkeypatch) -> None:
    """As outside of tests."""
    from headwater.attribution import resources
    from headwater.queries.image import shown

    monkeypatch.setattr(resources, "shown", shown)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of a small random StableDiffusionPipeline."""
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory) -> Path:
    """Folder of 20 small captioned pictures."""
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "images", 20)


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system of memory://, empty again afterwards."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of this machine, for all tests of a file that ask for one."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # by default workers give way to all that runs
        ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
        yield ray  # its GPU is a number, which no work here uses
        ray.shutdown()


# Files that take a minute or more on two cores.
LONG = (
    "test_sign.py",
    "test_executor.py",
    "test_workers.py",
    "test_extractor.py",
    "test_page.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that at the end no process works on while the other is idle."""
    items.sort(key=lambda item: item.path.name not in LONG)
