"""What building an index would take, measured on two batches, and what its first query."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from headwater.data.prefetch import reading
from headwater.data.training_set import TrainingSet
from headwater.errors import DatasetError
from headwater.features.extractor import Extractor
from headwater.gradients.layers import size
from headwater.index.config import Recipe
from headwater.index.curvature.fit import fit_bytes, images_of_fit, peak_bytes_of_fit
from headwater.index.machines import extractor
from headwater.index.rows import Source, open_images, rows_of
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.runtime.batch_size import BatchSize
from headwater.runtime.memory import peak_bytes

# Bytes that the kernel takes for each number of the Gram matrix, where one damping is asked. At
# once: that, damped, and its factor in float64. On disk: the Gram matrix, and the factor in
# float32; a session holds the factor in both.
AT_ONCE, ON_DISK, HELD = 8 + 8 + 8, 8 + 4, 4 + 8
# Columns of a kernel that are made at a time; what stands right of them is copied.
_STRIP = 2_048


def estimate(
    denoiser: Denoiser,
    data: TrainingSet,
    planned: Sequence[Recipe],
    batch_size: int | None,
    clip: Clip | None = None,
    taken_over: int | None = None,
) -> dict[str, Any]:
    """Rows, probes, parameters, disk, memory and time, from timed batches; nothing is written.

    The kernel, which the first query computes and keeps, is on lines of its own, and so is what a
    curvature takes while it is fitted: parts, which go before the rows come.

    Args:
        planned: of the model and its checkpoints, each with features and a kernel.
        taken_over: rows that another index has already, and its curvature with them; None where
            there is no such index.

    Raises:
        DatasetError: none of the first pictures can be read.
    """
    recipe, models = planned[0], len(planned)
    machine = extractor(denoiser, recipe, clip)
    layers = machine.layers.values() if isinstance(machine, Extractor) else ()
    batch = BatchSize(batch_size, device=denoiser.device)
    count = min(batch_size or 4 * batch.largest, len(data))
    with reading(data, range(count)) as reader:
        source = Source(machine, data, reader)
        images, _ = open_images(source, range(count), skip_bad=True)
        if not images:
            raise DatasetError(f"none of the first {count} images of {data.source} can be read")

        def timed(rows) -> tuple[float, int]:
            start = time.perf_counter()
            rows_of(source, {row: images[row] for row in rows})
            return time.perf_counter() - start, len(rows)

        speeds = [seconds / rows for seconds, rows in batch.over(list(images), timed)]
        seconds, rows = timed(list(images)[: batch.size])  # warm, and of the size that was found
    probes = len(recipe.timesteps) * recipe.draws
    residuals = 4 * probes if recipe.train_path == "noising" else 0
    row = 2 * recipe.dim + 12 + residuals
    beside = min(models - 1, 1)  # a session keeps its own kernel, and of checkpoints one
    inverts = recipe.train.gradient and not recipe.curvature
    kernel = min(len(data), recipe.dim) ** 2 if inverts else 0
    left, fit, peak = len(data) - (taken_over or 0), 0.0, fit_bytes(recipe, layers)
    if taken_over is None:
        fit, peak = images_of_fit(recipe, left), peak_bytes_of_fit(recipe, layers, left)
    return {
        "models": models,
        "rows": len(data),
        **({} if taken_over is None else {"rows taken over": taken_over}),
        "probes": left * probes * models,
        "layers": len(recipe.layers),
        "parameters": sum(map(size, layers)),
        "dim": recipe.dim,
        "batch size": min(batch.size, len(images)),
        "disk (MB)": round((len(data) * row + fit_bytes(recipe, layers)) * models / 1e6, 1),
        "curvature disk (MB, peak)": round(peak / 1e6, 1),
        "memory (MB, peak)": round((peak_bytes(denoiser.device) or 0) / 1e6) or "unknown",
        "minutes (estimated)": round(min(*speeds, seconds / rows) * (left + fit) * models / 60, 1),
        "kernel disk (MB)": round(ON_DISK * kernel * models / 1e6, 1),
        "kernel memory (MB)": round((AT_ONCE + HELD * beside) * kernel / 1e6, 1),
        "kernel minutes (estimated)": round(
            kernel_seconds(len(data), recipe.dim) * models / 60 if inverts else 0, 1
        ),
    }


def kernel_seconds(rows: int, dim: int, trial: int = 256) -> float:
    """Of computing a kernel and inverting it, by products and a factor of a `trial` part of it.

    Not of reading the rows, which a disk may take longer for.

    Args:
        rows, dim: n and k; the Gram matrix is the smaller of n x n and k x k.
    """
    features = torch.randn(trial, dim)
    small = min(rows, dim, 4 * trial)
    if rows < dim:  # n^2 / 2 products of k numbers
        products = least_seconds(lambda: features @ features.T) / trial**2 * rows**2 / 2
    else:
        products = (
            least_seconds(lambda: features[:, :small].T @ features) * dim / small * rows / trial
        )
        products *= (1 + min(1, _STRIP / dim)) / 2
    matrix = torch.eye(small, dtype=torch.float64) + 0.5 / small
    factor = least_seconds(lambda: torch.linalg.cholesky(matrix)) * (min(rows, dim) / small) ** 3
    return products + factor


def least_seconds(work: Callable[[], object]) -> float:
    """The least of three times."""
    found = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)
