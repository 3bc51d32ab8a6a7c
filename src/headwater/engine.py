"""Who does the work: this process, several of them, or a Ray cluster.

Work is a function from an item (a shard to compute, a model to train) to a file that holds its
result. Items know nothing of each other, and callers ask only for what is missing: whoever does the
work, and however often it stops, the files are the same up to rounding (workers compute with one
thread, and sums depend on the number of threads).
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partialmethod
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from tqdm import tqdm

from headwater.errors import HeadwaterError, ParameterError, ResourceError
from headwater.terminal import quiet_libraries, warn_plainly
from headwater.training_set import first_line

Item = TypeVar("Item")
Result = TypeVar("Result")
Start = Callable[[], Callable[[Item], Result]]

ENGINES = ("local", "ray")
TRIES = 3  # of an item whose worker dies, on Ray; locally a death ends the run
RESTARTS = 10  # of one Ray worker; nodes that are taken away do not count

_DIED = (
    "a worker died without a word: most often memory ran out, then give fewer --jobs (a script of "
    'your own also needs `if __name__ == "__main__":`); finished work is kept'
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
        jobs: workers. One local worker is this process; all others are processes of their own with
            one thread, so that a script that asks for them needs `if __name__ == "__main__":`.
            Small models fill neither a GPU nor several cores; several side by side do.

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

    After an error no item begins; those that have begun are waited for, on Ray stopped.

    Args:
        start: called once in each worker, and only where there is an item for it: loads what all
            items need, and returns the function of an item. Workers that are other processes get
            it, items and results by pickle; the nodes of a cluster must see the same files.
        device: of the work. On Ray each worker gets one GPU, or its share where workers are more.

    Raises:
        ResourceError: a worker died, on Ray again and again at one item; or there is no cluster.
        ParameterError: Ray is not installed, or a GPU was named that Ray is to choose.
    """
    if not items:
        return
    if engine == HERE:
        yield from map(_Worker(start), items)
    elif engine.name == "ray":
        yield from _on_ray(min(engine.jobs, len(items)), start, items, device)
    else:
        yield from _in_processes(min(engine.jobs, len(items)), start, items)


def workers_beside(engine: Engine, device: str) -> int:
    """How many workers at most share the memory of a worker's device; asked by the worker."""
    if engine.name == "ray" and device == "cuda":
        import ray

        own = ray.get_runtime_context().get_assigned_resources().get("GPU", 1)
        return round(1 / own)
    return min(engine.jobs, os.cpu_count() or 1)


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
    """Make a process a worker: one thread, and no bars and remarks across those of the others."""
    torch.set_num_threads(1)
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    quiet_libraries()
    warn_plainly()


# --- processes of this machine --------------------------------------------------------------------

_of_this_process: _Worker[Any, Any] | None = None


def _begin(start: Start[Any, Any]) -> None:
    global _of_this_process
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the process that was interrupted says so
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _settle()
    _of_this_process = _Worker(start)


def _end_with_parent() -> None:
    """A parent that was killed cannot tell; the same command would work beside its orphans."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(item: Any) -> Any:
    assert _of_this_process is not None, "the pool begins every process with `_begin`"
    return _of_this_process(item)


def _in_processes(jobs: int, start: Start[Item, Result], items: Sequence[Item]) -> Iterator[Result]:
    # Spawned: a fork of a process that has used OpenMP or CUDA may hang.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (start,))
    left = iter(items)
    try:
        # No more than there are processes: what waits in the pool's own queue is not cancelled.
        running = {pool.submit(_do, item) for item in islice(left, jobs)}
        while running:
            done: set[Future[Result]]
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                yield each.result()
                running |= {pool.submit(_do, item) for item in islice(left, 1)}
    except BrokenProcessPool:
        raise ResourceError(_DIED) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# --- Ray ------------------------------------------------------------------------------------------


def _on_ray(
    jobs: int, start: Start[Item, Result], items: Sequence[Item], device: str
) -> Iterator[Result]:
    try:
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError
    except ImportError:
        raise ParameterError(
            "--engine ray needs Ray: pip install 'headwater[ray]', or leave it out"
        ) from None
    if ":" in device:
        raise ParameterError(f"--device {device} with --engine ray: say cuda, Ray chooses which")
    with _connected(ray, jobs):
        actor = ray.remote(
            num_cpus=1,
            num_gpus=_share(ray, jobs) if device == "cuda" else 0,
            max_restarts=RESTARTS,
            max_task_retries=TRIES - 1,
        )(_RayWorker)
        begin = ray.put(start)
        workers: list[Any] = [actor.remote(str(Path.cwd())) for _ in range(jobs)]
        try:
            yield from _as_workers_come(ray, workers, begin, items)
        except RayTaskError as error:
            expected = isinstance(error.cause, HeadwaterError)
            raise error.cause from (None if expected else error)
        except RayActorError as error:
            why = str(error).strip().splitlines()[-1:]
            said = _NOT_BEGUN.format(*why) if error.actor_init_failed else _DIED
            raise ResourceError(said) from None
        except RayError as error:  # its memory monitor, a lost node
            raise ResourceError(f"{_DIED} ({type(error).__name__})") from None
        finally:
            for worker in workers:
                ray.kill(worker)


def _as_workers_come(
    ray: Any, workers: Sequence[Any], begin: Any, items: Sequence[Any]
) -> Iterator[Any]:
    """Each result, of whichever workers are there: a cluster may never have room for them all."""
    left, missing = iter(items), len(items)
    coming = {worker.come.remote(): worker for worker in workers}
    running: dict[Any, Any] = {}
    while missing:
        (done,), _ = ray.wait([*coming, *running])
        result, came = ray.get(done), done in coming
        worker = (coming if came else running).pop(done)
        running |= {worker.do.remote(begin, item): worker for item in islice(left, 1)}
        if not came:
            missing -= 1
            yield result


@contextmanager
def _connected(ray: Any, jobs: int) -> Iterator[None]:
    """Ray as it runs already, the cluster of `RAY_ADDRESS`, or one of this machine for so long.

    Raises:
        ResourceError: there is no such cluster, or none can be made.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a library reports to nobody
    address = os.environ.get("RAY_ADDRESS", "local")
    own: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False}
    terminated = signal.getsignal(signal.SIGTERM)  # Ray sets its own
    try:
        quiet = {"log_to_driver": False, "configure_logging": False}
        ray.init(address, **quiet, **(own if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"no Ray cluster at {address!r} ({first_line(error)}): start one, or name another as "
            "RAY_ADDRESS, or leave out --engine"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)


def _share(ray: Any, jobs: int) -> float:
    """Of a GPU, for each of so many workers."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if not gpus:
        raise ResourceError("--device cuda, and the Ray cluster has no GPU: say --device cpu")
    return math.floor(1e4 / math.ceil(jobs / gpus)) / 1e4  # Ray counts in such steps


class _RayWorker:
    """A worker on some node, in the folder in which the command was given."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)
        _settle()
        self._worker: _Worker[Any, Any] | None = None

    def come(self) -> None:
        """Returns when it is there."""

    def do(self, start: Start[Any, Any], item: Any) -> Any:
        # Not in the constructor: a worker that is begun again might not find it any more.
        self._worker = self._worker or _Worker(start)
        return self._worker(item)
