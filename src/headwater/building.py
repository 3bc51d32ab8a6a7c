"""Training set -> index: which shards are missing, compute them, write them, finish."""

from __future__ import annotations

import platform
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headwater import store
from headwater.batching import BatchSize
from headwater.denoiser import Denoiser
from headwater.errors import (
    BadImageError,
    DatasetError,
    HeadwaterWarning,
    MismatchError,
    NonFiniteError,
    StoreError,
)
from headwater.features import Extractor
from headwater.files import write_table
from headwater.index import Index
from headwater.layers import size
from headwater.recipe import Recipe, extractor, plan
from headwater.training_set import TrainingSet

# What an index folder holds; --overwrite removes no other folder.
_OWN = ("index.json", "samples.parquet", "features", "kernels", "queries")


def build_index(
    denoiser: Denoiser,
    training_set: TrainingSet,
    out: str | Path,
    *,
    batch_size: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda line: None,
    **recipe: Any,
) -> Index:
    """Compute the features of every training image and store them in the folder `out`.

    Resumes: shards that are whole stay, whatever batch size made them. Rows depend on (model,
    sample, recipe, seed) alone.

    Args:
        batch_size: images at a time; None starts at 32 and halves when memory runs out.
        skip_bad: leave out files that are no images (they are counted in the manifest).
        overwrite: drop an index that is there already.
        note: called with one line of text on what was chosen.
        **recipe: `method`, `parameters`, `timesteps`, `dim`, `seed`, as in `recipe.plan`.

    Raises:
        MismatchError: `out` was begun with another recipe, model or data set.
        BadImageError, NonFiniteError, ResourceError, MethodError, ParameterError, StoreError.
    """
    out = Path(out)
    planned = plan(denoiser, **recipe)
    existed, begun = out.exists(), (out / "index.json").exists() and not overwrite
    manifest = _begin(out, _new_manifest(denoiser, training_set, planned), overwrite)
    done = store.finished_shards(out, manifest)
    ranges = store.shard_ranges(len(training_set), manifest.shard_rows)
    if manifest.complete and len(done) == len(ranges):
        return Index.open(out, denoiser, training_set)
    if done:
        note(f"resuming: {len(done)} of {len(ranges)} shards are there")
    captions = [sample.caption for sample in training_set.samples]
    denoiser.warn_of_lost_words(captions)
    if denoiser.conditional and not any(captions):
        text = f"{training_set.source} has no captions, and the model was trained with them"
        warnings.warn(text, HeadwaterWarning, stacklevel=2)
    batch = BatchSize(batch_size, note)
    try:
        _missing_shards(
            out, extractor(denoiser, planned), training_set, ranges, done, batch, skip_bad
        )
    except BaseException:
        if not (done or begun):
            _withdraw(out, existed)
        raise
    return _finish(out, manifest, [done[rows.start] for rows in ranges], denoiser, training_set)


def _missing_shards(
    out: Path,
    machine: Extractor,
    data: TrainingSet,
    ranges: list[range],
    done: dict[int, store.Shard],
    batch: BatchSize,
    skip_bad: bool,
) -> None:
    """Compute and write the shards that are not in `done` yet, and add them there."""
    left = [(i, rows) for i, rows in enumerate(ranges) if rows.start not in done]
    first = len(data) - sum(len(rows) for _, rows in left)
    with tqdm(total=len(data), initial=first, desc="index", unit="row", delay=2) as bar:
        for number, rows in left:
            features, good, skipped = _shard_rows(machine, data, rows, batch, skip_bad, bar.update)
            done[rows.start] = store.write_shard(out, number, rows.start, features, good, skipped)


def _withdraw(out: Path, existed: bool) -> None:
    """Leave nothing of a run that failed before its first shard."""
    (out / "index.json").unlink(missing_ok=True)
    for folder in (out / "features", *(() if existed else (out,))):
        with suppress(OSError):  # one that is not there, or that holds other files
            folder.rmdir()


def _new_manifest(denoiser: Denoiser, data: TrainingSet, recipe: Recipe) -> store.Manifest:
    packages = ("headwater", "torch", "diffusers", "transformers")
    return store.Manifest(
        recipe={**vars(recipe)},
        model={
            "source": denoiser.source,
            "dtype": str(denoiser.dtype).removeprefix("torch."),
            "fingerprint": denoiser.fingerprint(),
        },
        data={
            "source": data.source,
            "options": dict(data.options),
            "fingerprint": data.fingerprint,
            "rows": len(data),
        },
        versions={name: metadata.version(name) for name in packages}
        | {"python": platform.python_version(), "device": denoiser.device.type},
        shard_rows=store.default_shard_rows(len(data)),
    )


def _begin(out: Path, manifest: store.Manifest, overwrite: bool) -> store.Manifest:
    """The manifest to build under: the one there if it is of the same run, else the new one."""
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out} is a file: name a folder for the index")
    if (out / "index.json").exists() and not overwrite:
        old = store.read_manifest(out)
        store.require_same(out, old, manifest)
        return old
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise MismatchError(f"{out} holds other files: name an empty or a new folder")
        if not (out / "index.json").exists():
            raise MismatchError(f"{out} holds no index, so --overwrite leaves it alone")
        foreign = [p.name for p in out.iterdir() if p.suffix != ".part" and p.name not in _OWN]
        if foreign:
            raise MismatchError(
                f"{out} holds more than an index ({min(foreign)}), so --overwrite leaves it alone"
            )
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {out}: {error.strerror}") from None
    store.write_manifest(out, manifest)
    return manifest


def _finish(out, manifest, shards, denoiser, training_set) -> Index:
    positions = store.read_positions(out, shards)
    if not positions:
        raise DatasetError(f"{training_set.source}: every image was skipped, nothing to index")
    samples = [training_set.samples[i] for i in positions]
    table = pa.table({
        "row": positions,
        "id": [sample.id for sample in samples],
        "caption": [sample.caption for sample in samples],
        "uri": [sample.uri for sample in samples],
    })  # fmt: skip
    write_table(out / "samples.parquet", table)
    store.finish(out, manifest, shards)
    return Index.open(out, denoiser, training_set)


def _shard_rows(
    machine: Extractor,
    data: TrainingSet,
    rows: range,
    batch: BatchSize,
    skip_bad: bool,
    tick: Callable[[int], Any],
) -> tuple[Float[Tensor, "r k"], list[int], list[str]]:
    """Features of one shard's rows, the rows that are in it, and the ids that were skipped."""
    features = torch.zeros(0, machine.sketch.dim)
    good: list[int] = []
    skipped: list[str] = []

    def compute(part: Sequence[int]) -> tuple[Tensor | None, list[int], list[str]]:
        opened, bad = _open_images(data, part, skip_bad)
        rows = _rows_of(machine, data, opened) if opened else None
        return rows, list(opened), bad

    for computed, opened, bad in batch.over(rows, compute):
        if computed is not None:
            features = torch.cat([features, computed])
        good += opened
        skipped += bad
        tick(len(opened) + len(bad))
    return features, good, skipped


def _open_images(
    data: TrainingSet, rows: Sequence[int], skip_bad: bool
) -> tuple[dict[int, Any], list[str]]:
    """Row -> picture for the rows that are pictures, and the ids of those that are not."""
    opened, bad = {}, []
    for row in rows:
        try:
            opened[row] = data.image(row)
        except BadImageError:
            if not skip_bad:
                raise
            bad.append(data.samples[row].id)
    return opened, bad


def _rows_of(machine: Extractor, data: TrainingSet, images: dict[int, Any]) -> Float[Tensor, "b k"]:
    samples = [data.samples[row] for row in images]
    ids = [sample.id for sample in samples]
    x0 = machine.denoiser.encode_images(list(images.values()))
    condition = machine.denoiser.encode_captions([sample.caption for sample in samples])
    features = machine.train_rows(x0, condition, ids).cpu()
    require_finite(features, ids)
    return features


def require_finite(features: Float[Tensor, "b k"], ids: Sequence[str]) -> None:
    """Refuse rows that are NaN, infinite or all zero.

    Raises:
        NonFiniteError: names up to five of the ids.
    """
    wrong = ~features.isfinite().all(1) | (features == 0).all(1)
    if wrong.any():
        names = [id for id, bad in zip(ids, wrong.tolist(), strict=True) if bad]
        raise NonFiniteError(
            f"{len(names)} input(s) gave a NaN, infinite or all-zero feature row: "
            f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}; look at these inputs, "
            "and compute in float32 if the model ran in half precision"
        )


def _only(images: dict[int, Any], rows: Sequence[int]) -> dict[int, Any]:
    return {row: images[row] for row in rows}


def estimate(denoiser: Denoiser, data: TrainingSet, recipe: Recipe, batch_size: int | None) -> dict:
    """What building an index would take, from two timed batches; nothing is written."""
    machine = extractor(denoiser, recipe)
    count = min(batch_size or BatchSize.LARGEST, len(data))
    images, _ = _open_images(data, range(count), skip_bad=True)
    if not images:
        raise DatasetError(f"none of the first {count} images of {data.source} can be read")
    seconds = []
    batch = BatchSize(batch_size)
    for _ in range(2):
        start = time.perf_counter()
        for _ in batch.over(
            list(images), lambda part: _rows_of(machine, data, _only(images, part))
        ):
            pass
        seconds.append(time.perf_counter() - start)
    return {
        "rows": len(data),
        "probes": len(data) * len(recipe.timesteps),
        "layers": len(recipe.layers),
        "parameters": sum(map(size, machine.layers.values())),
        "dim": recipe.dim,
        "batch size": min(batch.size, len(images)),
        "disk (MB)": round(len(data) * (2 * recipe.dim + 12) / 1e6, 1),
        "minutes (estimated)": round(min(seconds) / len(images) * len(data) / 60, 1),
    }
