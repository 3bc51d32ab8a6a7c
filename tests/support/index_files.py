"""What lies in an index folder, to compare two."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headwater.storage import blocks
from headwater.storage.manifest import read_manifest, write_manifest

RECIPE = {"timesteps": 2, "dim": 64}


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
