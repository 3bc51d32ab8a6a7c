"""Passes over the rows of an index part by part, by workers who read rows and nothing else.

A part is some whole shards, one after the other. Measures of rows come back as numbers. Parts of a
Gram matrix are files in `kernels/parts` until the matrix is there, which go on where they were
killed: which parts there are is decided by the shards, so that another number of workers goes on
with them. Workers have one thread: sums end in other last bits than those of one process.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.gram import (
    Progress,
    mirrored,
    placed,
    product,
    require_room,
    where_there_is_room,
)
from headwater.attribution.kernel import Measure, over
from headwater.errors import StoreError
from headwater.index.index import Index
from headwater.runtime.executor import Executor, run
from headwater.runtime.progress import ProgressBar
from headwater.storage import cache
from headwater.storage.blocks import Part, divided, read_part
from headwater.storage.files import DAY, remove_parts
from headwater.storage.shard_files import Place, folder_of, place_of

KERNELS, PARTS = "kernels", "parts"
# Of a pass: several for each worker, so that all end at about the same time.
PARTS_A_WORKER = 4
# Of a Gram matrix: no more than this, and each of so many rows for each feature that files of
# parts, 8 bytes a number, take no more disk than the rows do, which have 2.
MOST_PARTS, ROWS_A_FEATURE = 256, 4
_STATES = "whole", "begun"
IN_CACHE = 2**21  # bytes of rows, in float32
FORGOTTEN = 7 * DAY  # seconds after which nobody goes on with a part


# --- numbers of rows ------------------------------------------------------------------------------


def measured(
    index: Index, executor: Executor, measure: Measure, *handed: Tensor
) -> Float[Tensor, "*q n"]:
    """A measure of all rows that an index is asked with, by workers.

    Args:
        measure: a function of a module, which workers find by its name.
        handed: what else it takes.

    Raises:
        StoreError: a shard is missing, truncated or changed.
        ResourceError, ParameterError: as `executor.run`.
    """
    work = partial(_measure, place_of(index.path), measure, [tensor.numpy() for tensor in handed])
    found = _done(executor, work, _parts_for(index, executor), "rows")
    return torch.from_numpy(np.concatenate(found, -1))


def measured_on(
    index: Index, device: str, measure: Measure, *handed: Tensor
) -> Float[Tensor, "*q n"]:
    """The same by this process, on a device, or on the CPU if that has too little memory.

    Raises:
        StoreError: as `measured`.
    """

    def made(place: str) -> Tensor:
        rows = rows_at_a_time(index.recipe.dim, handed) if place == "cpu" else None
        return over(partial(index.scan, place, rows), len(index), measure, *handed)

    return where_there_is_room(made, device)


def _measure(
    place: Path | Place, measure: Measure, handed: Sequence[np.ndarray], part: Part
) -> np.ndarray:
    """Of the rows of a part. Arrays travel as they are; tensors would through shared memory."""
    tensors = [torch.tensor(array) for array in handed]
    rows = rows_at_a_time(part.manifest.recipe["dim"], tensors)
    blocks = partial(read_part, folder_of(place), part, rows=rows)
    return over(blocks, len(part), measure, *tensors).numpy()


def rows_at_a_time(k: int, handed: Sequence[Tensor]) -> int:
    """How many rows of k features a measure takes at once on a CPU.

    They stay in its cache until they are multiplied; and are several for each row that they are
    multiplied by, since that is read again for the next.

    >>> [rows_at_a_time(4_096, [torch.empty(draws, 4_096)]) for draws in (1, 64)]
    [128, 256]
    """
    return max(IN_CACHE // (4 * k), *(4 * len(each) for each in handed), 1)


def weighted_sum(
    index: Index, executor: Executor, weights: Float[Tensor, " n"]
) -> Float[Tensor, " k"]:
    """The sum over the rows of an index, each times its weight, by workers.

    Raises:
        StoreError, ResourceError, ParameterError: as `measured`.
    """
    parts = _parts_for(index, executor)
    own = weights.split([len(part) for part in parts])
    items = [(part, each.numpy()) for part, each in zip(parts, own, strict=True)]
    found = _done(executor, partial(_weigh, place_of(index.path)), items, "rows")
    return torch.from_numpy(np.sum(found, 0))


def _weigh(place: Path | Place, item: tuple[Part, np.ndarray]) -> np.ndarray:
    part, weights = item
    dim = part.manifest.recipe["dim"]
    return weighted(read_part(folder_of(place), part), dim, torch.tensor(weights)).numpy()


def weighted(
    blocks: Iterable[Float[Tensor, "r k"]], k: int, weights: Float[Tensor, " n"]
) -> Float[Tensor, " k"]:
    """The same of any rows of k features, by this process.

    >>> weighted(torch.eye(2).split(1), 2, torch.tensor([3.0, 4.0]))
    tensor([3., 4.])
    """
    total = torch.zeros(k)
    for start, block in placed(blocks):
        total += weights[start : start + len(block)] @ block
    return total


def _parts_for(index: Index, executor: Executor) -> list[Part]:
    return divided(index.stored, executor.jobs * PARTS_A_WORKER)


# --- parts of a Gram matrix -----------------------------------------------------------------------


def products(
    index: Index, executor: Executor, rows: Part, device: str = "cpu"
) -> Iterator[Float[Tensor, "k k"]]:
    """Phi^T Phi of one part after the other of some rows of an index, each made by a worker.

    A worker holds one such matrix and a block of rows, and whoever adds them up two; a file takes
    another while it is written or read.

    Args:
        device: of the products, as `executor.run`.

    Raises:
        StoreError: a shard is missing, truncated or changed; or parts cannot be written.
        ResourceError, ParameterError: as `executor.run`; the disk is full, or memory has no room.
    """
    require_room(index.recipe.dim)
    parts, folder = _parts_of_gram(rows), _folder(index.path)
    missing = [part for part in parts if not cache.path_of(folder, _facts(part)).exists()]
    _make_products(index, executor, missing, device)
    for part in parts:
        for _ in range(2):
            found = cache.read(folder, _facts(part), _sizes(rows.manifest.recipe["dim"]))
            if found is not None:
                break
            # Damaged since, or removed by another process that has made the same matrix.
            _make_products(index, executor, [part], device)
        else:
            raise StoreError(f"{folder} does not keep what is written to it: mend it")
        yield mirrored(found.tensors["gram"])


def _make_products(index: Index, executor: Executor, parts: Sequence[Part], device: str) -> None:
    work = partial(make_product, place_of(index.path), device)
    for number, made in _results(executor, work, parts, "kernel", device):
        if made is not None:
            _store_product(_folder(index.path), parts[number], torch.from_numpy(made))


def make_product(place: Path | Place, device: str, part: Part) -> np.ndarray | None:
    """Make one of them, or what is left of it; it comes back where the index lies at a URL.

    Whoever asked keeps it then, since its copy of the index is not the worker's. A part that is
    begun is another file than a whole one, which another command may have made.
    """
    folder, facts, begun = folder_of(place), _facts(part), _facts(part, "begun")
    kept, dim = _folder(folder), part.manifest.recipe["dim"]
    if isinstance(place, Path) and cache.read(kept, facts, _sizes(dim)) is not None:
        return None
    found = product(partial(read_part, folder, part), dim, device, progress_in(kept, begun, dim))
    if isinstance(place, Path):
        _store_product(kept, part, found)
    cache.forget(kept, begun)
    return None if isinstance(place, Path) else found.cpu().numpy()


def _store_product(folder: Path, part: Part, found: Float[Tensor, "k k"]) -> None:
    try:
        cache.store(folder, _facts(part), {"gram": found}, {})
    except StoreError as error:
        raise StoreError(f"{error}: leave out --engine and --jobs, which write there") from None


def added(parts: Iterator[Float[Tensor, "k k"]]) -> Float[Tensor, "k k"]:
    """Their sum.

    >>> added(iter([torch.eye(2), torch.ones(2, 2)])).tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    total = next(parts)
    for part in parts:
        total += part
    return total


def forget_products(index: Index, of: Sequence[Part]) -> None:
    """Remove the parts of a matrix that is made, and what nobody has gone on with for long.

    Args:
        of: the rows that parts were made of.
    """
    folder = _folder(index.path)
    parts = [part for rows in of for part in _parts_of_gram(rows)]
    own = {cache.path_of(folder, _facts(part, state)) for part in parts for state in _STATES}
    for path in folder.glob("*.safetensors"):
        with suppress(OSError):  # another process may be at it
            if path in own or path.stat().st_mtime <= time.time() - FORGOTTEN:
                path.unlink()
    remove_parts(folder)
    with suppress(OSError):  # not empty, or not there
        folder.rmdir()


def progress_in(folder: Path, facts: Mapping[str, Any], dim: int) -> Progress:
    """Keeps a Gram matrix in a cache while it is made."""

    def read() -> tuple[int, Tensor] | None:
        entry = cache.read(folder, facts, _sizes(dim))
        rows = None if entry is None else entry.note.get("rows")
        return (rows, entry.tensors["gram"]) if entry and isinstance(rows, int) else None

    def write(rows: int, found: Tensor) -> None:
        cache.write(folder, facts, {"gram": found}, {"rows": rows})

    return Progress(read, write)


def _sizes(dim: int) -> dict[str, list[int | None]]:
    return {"gram": [dim, dim]}


def _folder(index: Path) -> Path:
    return index / KERNELS / PARTS


def _parts_of_gram(rows: Part) -> list[Part]:
    least = ROWS_A_FEATURE * rows.manifest.recipe["dim"]
    return divided(rows, min(MOST_PARTS, max(1, rows.manifest.rows // least)))


def are_divided(rows: Part) -> bool:
    """Whether there is more than one part, for more than one worker.

    One process with all threads is faster than one worker with one.
    """
    return len(_parts_of_gram(rows)) > 1


def _facts(part: Part, state: str = "whole") -> dict[str, Any]:
    chosen = part.chosen
    digest = "" if chosen is None else hashlib.sha256(np.packbits(chosen).tobytes()).hexdigest()
    shards = [shard.checksum for shard in part.manifest.shards]
    return {"shards": shards, "rows": digest, "kept": f"gram of a part, {state}"}


# --- by workers -----------------------------------------------------------------------------------


def _done(
    executor: Executor, work: Callable[[Any], Any], items: Collection[Any], title: str
) -> list[Any]:
    """What workers make of each item, in the order of these."""
    found = dict(_results(executor, work, items, title))
    return [found[number] for number in range(len(items))]


def _results(
    executor: Executor,
    work: Callable[[Any], Any],
    items: Collection[Any],
    title: str,
    device: str = "cpu",
) -> Iterator[tuple[int, Any]]:
    """The number of each item and what a worker makes of it, as they end."""
    with ProgressBar(total=len(items), desc=title, unit="part") as bar:
        for result in run(executor, partial(_worker, work), list(enumerate(items)), device):
            yield result
            bar.update()


def _worker(work: Callable[[Any], Any]) -> Callable[[tuple[int, Any]], tuple[int, Any]]:
    """There is nothing to load: `work` brings what all items need."""
    return partial(_numbered, work)


def _numbered(work: Callable[[Any], Any], item: tuple[int, Any]) -> tuple[int, Any]:
    number, of = item
    return number, work(of)
