"""Workers on a Ray cluster."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from headwater.errors import HeadwaterError, ParameterError, ResourceError, first_line
from headwater.runtime.worker import DIED, Item, Result, Start, Worker, settle

TRIES = 3  # of an item whose worker dies, on Ray; locally a death ends the run
RESTARTS = 10  # of one Ray worker; nodes that are taken away do not count
_NOT_BEGUN = (
    "no worker begins on the Ray cluster ({}): install the same headwater on every node, and let "
    "all see this folder"
)


# --- Ray ------------------------------------------------------------------------------------------


def on_ray(
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
            said = _NOT_BEGUN.format(*why) if error.actor_init_failed else DIED
            raise ResourceError(said) from None
        except RayError as error:  # its memory monitor, a lost node
            raise ResourceError(f"{DIED} ({type(error).__name__})") from None
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
    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        try:
            ray.init(address, **quiet, **(own if address == "local" else {}))
        except Exception as error:  # bare ones too, where a node does not begin
            raise ResourceError(
                f"no Ray cluster at {address!r} ({first_line(error)}): start one, or name another "
                "as RAY_ADDRESS, or leave out --engine"
            ) from None
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
        settle()
        self._worker: Worker[Any, Any] | None = None

    def come(self) -> None:
        """Returns when it is there."""

    def do(self, start: Start[Any, Any], item: Any) -> Any:
        # Not in the constructor: a worker that is begun again might not find it any more.
        self._worker = self._worker or Worker(start)
        return self._worker(item)
