"""Who does the work: this process, several of them, or a Ray cluster.

Work is a function from an item (a shard to compute, a model to train) to a file that holds its
result. Items know nothing of each other, and callers ask only for what is missing: whoever does the
work, and however often it stops, the files are the same up to rounding (workers compute with one
thread, and sums depend on the number of threads).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headwater.errors import ParameterError
from headwater.runtime.processes import in_processes
from headwater.runtime.ray import on_ray
from headwater.runtime.worker import Item, Result, Start, Worker

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Executor:
    """Where work is done, and how many items at once.

    Args:
        name: "local", this machine; "ray", the cluster that the environment variable `RAY_ADDRESS`
            names, or one made of this machine.
        jobs: workers. One local worker is this process; all others are processes of their own with
            one thread, so that a script that asks for them needs `if __name__ == "__main__":`.
            Small models fill neither a GPU nor several cores; several side by side do.

    Raises:
        ParameterError: there is no such executor, or fewer than one worker.

    >>> Executor("local", jobs=4).jobs
    4
    """

    name: str = "local"
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.name not in EXECUTORS:
            raise ParameterError(f"--engine {self.name!r} is not one of {', '.join(EXECUTORS)}")
        if self.jobs < 1:
            raise ParameterError(f"--jobs {self.jobs} must be at least 1")


THIS_PROCESS = Executor()  # this process does the work itself


def run(
    executor: Executor, start: Start[Item, Result], items: Sequence[Item], device: str = "cpu"
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
    if executor == THIS_PROCESS:
        yield from map(Worker(start), items)
    elif executor.name == "ray":
        yield from on_ray(min(executor.jobs, len(items)), start, items, device)
    else:
        yield from in_processes(min(executor.jobs, len(items)), start, items)


def workers_beside(executor: Executor, device: str) -> int:
    """How many workers at most share the memory of a worker's device; asked by the worker."""
    if executor.name == "ray" and device == "cuda":
        import ray

        own = ray.get_runtime_context().get_assigned_resources().get("GPU", 1)
        return round(1 / own)
    return min(executor.jobs, os.cpu_count() or 1)
