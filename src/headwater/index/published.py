"""Rows that the published Concept-TRAK code wrote (`train_grad-*.npy`), as an index.

The folder becomes the index: `index.json` and `samples.parquet` are written beside the files, and
no row is copied. How they were projected cannot be repeated here (dattri's random mask, drawn on
a GPU), so they are asked by features that were projected alike (`concept_grad.npy`), which
`queries.feature` reads. Rows and these have one sign there, and the score is the same as its own
but for a factor: its kernel is a sum over images, ours a mean.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from headwater.data.training_set import TrainingSet
from headwater.errors import MethodError, MismatchError, NonFiniteError, StoreError
from headwater.features.spec import Side
from headwater.index.config import UNKNOWN, Recipe
from headwater.index.index import Index
from headwater.index.samples import data_facts, write_samples
from headwater.methods.choice import method_named
from headwater.methods.row import Method
from headwater.methods.table import METHODS
from headwater.storage.arrays import open_rows, row_blocks
from headwater.storage.files import checksum_of
from headwater.storage.manifest import Manifest, Shard
from headwater.storage.shards import finish

PUBLISHED_DIM = 2**15
_FILE = re.compile(r"train_grad-(\d+)\.npy")
# Its folders, as in attn2-dps-NFE10-norm-ddim-gs_7.5, and what it calls our deltas.
_FOLDER = re.compile(
    r"(?P<layer>.+)-(?P<f>\w+)-NFE(?P<steps>\d+)(?P<norm>-norm)?(?:-ddim-gs_(?P<guidance>[\d.]+))?"
)
_DELTAS = {"dps": "dps", "dpsv1": "dps", "dsm": "dsm", "ttrakv1": "dsm"}


def import_rows(
    folder: str | Path,
    training_set: TrainingSet,
    *,
    method: str | None = None,
    dim: int | None = None,
    model: str = "",
    note: Callable[[str], None] = lambda line: None,
) -> Index:
    """Make a folder of `train_grad-0.npy`, `train_grad-1.npy`, ... an index.

    Every row is read once. What it was made with is read off the folder's name.

    Args:
        folder: of the files, with a header (`np.save`) or without (`np.memmap`, float32).
        training_set: the images of the rows, in their order, which nothing in the files tells.
        method: whose train side the rows are, where the folder is not named like theirs.
        dim: features in a row; default what the files' header says, else their 32,768.
        model: a name for provenance; it is not loaded.
        note: called with a line of text on what is taken for granted.

    Raises:
        StoreError: no such files, one is missing, cut off or damaged, or this is an index already.
        NonFiniteError: a row is NaN, infinite, or all zero.
        MismatchError: other than as many rows as images; the name says another method.
        MethodError: no method has such rows.
    """
    folder = Path(folder)
    if (folder / "index.json").exists():
        raise StoreError(f"{folder} is an index already: ask it, or remove its index.json")
    files = _files(folder)
    recipe = _recipe(folder.resolve().name, method, _dim(files[0], dim))
    counts = _count(files, recipe.dim)
    if sum(counts) != len(training_set):
        raise MismatchError(
            f"{folder} holds {sum(counts):,} rows, and {training_set.source} {len(training_set):,} "
            f"images: give those that the rows are of (--limit {sum(counts)} takes the first)"
        )
    note("nothing tells in which order the rows are: they are taken to be in that of the images")
    manifest = Manifest(
        recipe={**vars(recipe)},
        model={"source": model, "dtype": "", "fingerprint": "", "options": {}},
        data=data_facts(training_set),
        versions={
            "headwater": metadata.version("headwater"),
            "python": platform.python_version(),
            "rows": f"the published Concept-TRAK code ({folder.resolve().name})",
        },
        shard_rows=counts[0],
    )
    shards = _shards(files, counts, recipe.dim)
    write_samples(folder, training_set.samples, range(len(training_set)))
    finish(folder, manifest, shards)
    return Index.open(folder, training_set=training_set)


# --- files ----------------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    """Those of the rows, by their numbers, from 0 on."""
    names = [path.name for path in folder.glob("train_grad-*.npy")] if folder.is_dir() else []
    numbers = {int(match[1]) for name in names if (match := _FILE.fullmatch(name))}
    if not numbers:
        raise StoreError(f"there is no train_grad-0.npy in {folder}: give the folder that has it")
    missing = sorted(set(range(max(numbers))) - numbers)
    if missing:
        raise StoreError(
            f"train_grad-{missing[0]}.npy is missing in {folder}, which goes up to "
            f"train_grad-{max(numbers)}.npy: copy it there"
        )
    return [folder / f"train_grad-{number}.npy" for number in sorted(numbers)]


def _dim(first: Path, dim: int | None) -> int:
    """What is given, what the header says, or what they have."""
    if dim is not None:
        return dim
    with first.open("rb") as file:
        headed = file.read(1) == b"\x93"
    return open_rows(first, None).shape[1] if headed else PUBLISHED_DIM


def _count(files: Sequence[Path], dim: int) -> list[int]:
    """How many rows each holds: all the same, but for the last, which may hold fewer."""
    counts = [len(open_rows(path, dim)) for path in files]
    for path, count in zip(files, counts, strict=True):
        fewer = path is files[-1] and count < counts[0]
        if count != counts[0] and not fewer:
            raise StoreError(
                f"{path} holds {count:,} rows, and {files[0].name} {counts[0]:,}: one of them is "
                "cut off, copy it again"
            )
    return counts


def _shards(files: Sequence[Path], counts: Sequence[int], dim: int) -> list[Shard]:
    """What `index.json` says of each file, after every row was looked at."""
    shards, first = [], 0
    for path, count in zip(files, counts, strict=True):
        _require_rows(path, dim)
        size = path.stat().st_size
        shards.append(Shard(path.name, first, count, (), size, checksum_of(path)))
        first += count
    return shards


def _require_rows(path: Path, dim: int) -> None:
    """Refuse rows that say nothing; a file that was never filled has zeros where rows lack."""
    rows, start = open_rows(path, dim), 0
    with tqdm(total=len(rows), desc=path.name, unit="row", delay=2, leave=False) as bar:
        for block in row_blocks(rows):
            for what, bad in (
                ("NaN or infinite", ~block.isfinite().all(1)),
                ("all zero, as where a run was stopped", ~block.any(1)),
            ):
                if bad.any():
                    row = start + int(bad.nonzero()[0])
                    raise NonFiniteError(f"row {row} of {path} is {what}: compute the file again")
            start += len(block)
            bar.update(len(block))


# --- what the rows are ----------------------------------------------------------------------------


def _recipe(name: str, method: str | None, dim: int) -> Recipe:
    """What the rows were made with, by the folder's name or by the method that is given."""
    match = _FOLDER.fullmatch(name)
    told = match.groupdict() if match else {}
    row = _told_method(told) if told.get("f") in _DELTAS else None
    if row is None and method is None:
        raise MethodError(
            f"the folder's name {name!r} does not say what its rows are, as in "
            "attn2-dps-NFE10-norm-ddim-gs_7.5: give --method"
        )
    if row is not None and method not in (None, row.name):
        raise MismatchError(
            f"the folder's name {name!r} says that its rows are of {row.name}, not of --method "
            f"{method}: leave it out, or rename the folder"
        )
    row = row or method_named(method or "")
    if row.train is None or "feature" not in row.takes:
        takers = [name for name, each in METHODS.items() if each.train and "feature" in each.takes]
        raise MethodError(f"{row.name} takes no --feature: these take one: {', '.join(takers)}")
    return Recipe(
        method=row.name,
        train_path=row.train.path,
        train_delta=row.train.delta,
        normalise=row.normalise,
        parameters=told.get("layer") or "",
        layers=(),
        timesteps=(),
        draws=1,
        dim=dim,
        seed=0,
        projection=UNKNOWN,
        inversion_guidance=float(told.get("guidance") or row.train.guidance),
    )


def _told_method(told: Mapping[str, Any]) -> Method:
    """The first method with such rows."""
    guidance, delta = told["guidance"], _DELTAS[told["f"]]
    side = Side("inversion", delta, float(guidance)) if guidance else Side("noising", delta)
    normalise = "probe" if told["norm"] else "none"
    for row in METHODS.values():
        if row.train and (row.train.kind(), row.normalise) == (side.kind(), normalise):
            return row
    raise MethodError(f"no method has rows of {side}, normalised by {normalise}")
