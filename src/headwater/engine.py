"""Who does the work: this process, several of them, or a Ray cluster.

Work is a function from an item (a shard to compute, a model to train) to a file that holds its
result. Items know nothing of each other, and callers ask only for what is missing, so that whoever
does the work, and however often it stops, the files are the same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partialmethod
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from tqdm import tqdm

from headwater.errors import ParameterError, ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")
Start = Callable[[], Callable[[Item], Result]]

ENGINES = ("local", "ray")
TRIES = 3  # of an item whose worker dies, on Ray; locally it is the machine that is too small

_DIED = (
    "a worker died without a word (most often memory ran out): give fewer --jobs or a smaller "
    "--batch-size; finished work is kept, the same command goes on from there"
)
_NOT_BEGUN = (
    "no worker begins on the Ray cluster ({}): install the same headwater on every node, and let "
    "all see this folder"
)


@dataclass(frozen=True)
class Engine:
    """Where work is done, and how many items at once.

    Args:
        name: "local", this machine; "ray", the cluster that the environment variable `RAY_ADDRESS`
            names, or one made of this machine.
        jobs: workers. Each is a process of its own with one thread of torch; one local one is this
            process. Small models fill neither a GPU nor several cores; several side by side do.

    Raises:
        ParameterError: there is no such engine, or fewer than one worker.
    """

    name: str = "local"
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise ParameterError(f"--engine {self.name!r} is not one of {', '.join(ENGINES)}")
        if self.jobs < 1:
            raise ParameterError(f"--jobs {self.jobs} must be at least 1")


HERE = Engine()  # this process does the work itself


def run(
    engine: Engine, start: Start[Item, Result], items: Sequence[Item], device: str = "cpu"
) -> Iterator[Result]:
    """The result of each item, in whatever order they end.

    Args:
        start: called once in each worker, and only where there is an item for it: loads what all
            items need, and returns the function of an item. Workers that are other processes get
            it, items and results by pickle; the nodes of a cluster must see the same files.
        device: of the work. On Ray each worker gets one GPU, or its share where workers are more.

    Raises:
        ResourceError: a worker died, on Ray again and again at one item, or cannot begin there.
        ParameterError: Ray is not installed, or a GPU was named that Ray is to choose.
    """
    if engine.name == "ray":
        yield from _on_ray(engine.jobs, start, items, device)
    elif engine == HERE:
        yield from map(_Worker(start), items)
    elif items:
        yield from _in_processes(min(engine.jobs, len(items)), start, items)


class _Worker(Generic[Item, Result]):
    """Does items one after the other; what they need is loaded when the first one comes."""

    def __init__(self, start: Start[Item, Result]) -> None:
        self._start = start
        self._work: Callable[[Item], Result] | None = None

    def __call__(self, item: Item) -> Result:
        if self._work is None:
            self._work = self._start()
        return self._work(item)


def _settle() -> None:
    """Make a process a worker: one thread, and no progress bars across those of the others."""
    torch.set_num_threads(1)
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)


# --- processes of this machine --------------------------------------------------------------------

_of_this_process: _Worker[Any, Any] | None = None


def _begin(start: Start[Any, Any]) -> None:
    global _of_this_process
    _settle()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the process that was interrupted says so
    _of_this_process = _Worker(start)


def _do(item: Any) -> Any:
    assert _of_this_process is not None, "the pool begins every process with `_begin`"
    return _of_this_process(item)


def _in_processes(jobs: int, start: Start[Item, Result], items: Sequence[Item]) -> Iterator[Result]:
    # Spawned: a fork of a process that has used OpenMP or CUDA may hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (start,)) as pool:
        try:
            for done in as_completed([pool.submit(_do, item) for item in items]):
                yield done.result()
        except BrokenProcessPool:
            raise ResourceError(_DIED) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# --- Ray ------------------------------------------------------------------------------------------


def _on_ray(
    jobs: int, start: Start[Item, Result], items: Sequence[Item], device: str
) -> Iterator[Result]:
    try:
        import ray
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool
    except ImportError:
        raise ParameterError(
            "--engine ray needs Ray: pip install 'headwater[ray]', or leave it out"
        ) from None
    if ":" in device:
        raise ParameterError(f"--device {device} with --engine ray: say cuda, Ray chooses which")
    begun = not ray.is_initialized()
    if begun:
        _connect(ray, jobs)
    try:
        gpus = ray.cluster_resources().get("GPU", 0) if device == "cuda" else 0
        actor = ray.remote(
            num_cpus=1, num_gpus=min(1, gpus / jobs), max_restarts=-1, max_task_retries=TRIES - 1
        )(_RayWorker)
        count = min(jobs, len(items))
        pool = ActorPool([actor.remote(start, str(Path.cwd())) for _ in range(count)])
        done: Any = pool.map_unordered(lambda worker, item: worker.do.remote(item), list(items))
        yield from done
    except RayTaskError as error:
        raise error.cause from None
    except RayActorError as error:
        why = str(error).strip().splitlines()[-1:]
        said = _NOT_BEGUN.format(*why) if error.actor_init_failed else _DIED
        raise ResourceError(said) from None
    finally:
        if begun:
            ray.shutdown()


def _connect(ray: Any, jobs: int) -> None:
    """Join the cluster of `RAY_ADDRESS`, or make one of this machine for as long as the work is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a library reports to nobody
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:  # as many as were asked for: actors that wait for a processor wait for ever
        cpus = max(jobs, os.cpu_count() or 1)
        ray.init(num_cpus=cpus, include_dashboard=False, **quiet)


class _RayWorker:
    """A worker on some node, in the folder in which the command was given."""

    def __init__(self, start: Start[Any, Any], folder: str) -> None:
        _settle()
        os.chdir(folder)
        self._worker = _Worker(start)

    def do(self, item: Any) -> Any:
        return self._worker(item)
