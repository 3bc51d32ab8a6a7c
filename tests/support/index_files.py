"""What lies in an index folder, to compare two."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headwater import Denoiser, build_index, load_dataset
from headwater.data.training_set import make_sample
from headwater.index.index import Index
from headwater.index.samples import write_samples
from headwater.storage import blocks, shards
from headwater.storage.manifest import read_manifest, write_manifest

# A method named: without one an index takes two passes more, for its curvature.
RECIPE = {"method": "concept-trak-unguided", "timesteps": 2, "dim": 64}


def files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def state(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file's content and when it was last written."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    """Change what `index.json` says; its checksum stays right."""
    write_manifest(folder, replace(read_manifest(folder), **changes))


def rows(folder: Path) -> torch.Tensor:
    return torch.cat(list(blocks.read_blocks(folder, read_manifest(folder))))


# Of `eleven_shards`, and how its features were asked for.
ROWS, DIM = 103, 8
OPTIONS = dict(timesteps=1, parameters="attn2-kv", dim=DIM, self_check=False)


def eleven_shards(folder: Path, model: Path, images: Path) -> Path:
    """An index of random rows in eleven shards, that was never asked."""
    data = load_dataset(images).first(2)
    small = build_index(Denoiser.load(model), data, folder / "small", method="trak", **OPTIONS)
    features = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))
    return index_of_rows(small, folder / "index", features, shard_rows=10).path


def index_of_rows(like: Index, folder: Path, features: torch.Tensor, shard_rows: int) -> Index:
    """An index of these rows, recipe and model those of another; captions name one of two things.

    Residuals are made up of the features, so that every rule can be asked.
    """
    count = len(features)
    manifest = replace(
        like.manifest,
        shard_rows=shard_rows,
        shards=(),
        complete=False,
        data={**like.manifest.data, "rows": count},
    )
    made = []
    for number, own in enumerate(shards.shard_ranges(count, shard_rows)):
        part = features[own.start : own.stop]
        rows = shards.ShardRows(part, own, residuals=part[:, :2].abs() + 0.1)
        made.append(shards.write_shard(folder, manifest, number, rows))
    things = ("a red star", "a blue fish", "a blue house")
    samples = [make_sample(f"{row:03d}", [things[row % 3]], "") for row in range(count)]
    write_samples(folder, samples, range(count))
    shards.finish(folder, manifest, made)
    return Index.open(folder)
