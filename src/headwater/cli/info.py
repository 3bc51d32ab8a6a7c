"""Commands of what is on disk: looked at, verified, mended, made smaller, copied, exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.options import CONDITION, Device, IndexFolder, Json, OwnFolder
from headwater.cli.query_options import refuse
from headwater.cli.tables import listed, print_facts
from headwater.errors import MismatchError, StoreError
from headwater.runtime.console import json_line, printable

if TYPE_CHECKING:
    from headwater.storage.manifest import Manifest, Shard

LISTED = 10  # ids that a command names


def info(
    index: IndexFolder,
    as_json: Json = False,
) -> None:
    """What an index holds, and what it can answer."""
    from headwater.storage.manifest import (
        checkpoint_folders,
        read_manifest,
        unfinished_checkpoints,
    )
    from headwater.storage.shards import has_samples, mend, shard_count

    manifest = read_manifest(index)
    folders = [index, *checkpoint_folders(index, manifest)]
    whole = [_whole_shards(folder) for folder in folders]
    expected = shard_count(manifest.data["rows"], manifest.shard_rows) * len(folders)
    missing = expected - sum(map(len, whole))
    state = "complete"
    if not manifest.complete or unfinished_checkpoints(index, manifest):
        state = "unfinished, run `headwater index` again"
    elif missing or not has_samples(index, manifest):
        state = "damaged, see `headwater verify`"
    removed = {"removed": len(manifest.removed_rows)} if manifest.removed_rows else {}
    facts = _stored(whole, expected, state) | removed | _repeats(index, manifest)
    facts |= _recipe(manifest)
    if as_json:
        print(json_line(facts))
    else:
        print_facts(facts)
    if state.startswith("damaged"):
        what = f"{missing} shard(s)" if missing else "samples.parquet"
        raise StoreError(f"{what} of {index}: missing or damaged; {mend(index)}")


def verify(
    index: IndexFolder,
    report: Annotated[
        Path | None,
        typer.Option(help="Of an answer, result.json or journey.json: is it of this index?"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read an index through: is every file what was written?

    With --report also an answer: do model, images, recipe and rows that it says it is of have the
    checksums of this index, and are its scores as they were written?
    """
    from tqdm import tqdm

    from headwater.storage.shards import mend
    from headwater.upkeep.answers import check_answer
    from headwater.upkeep.verify import verify as findings_of

    with tqdm(desc="verify", unit="file", delay=2, leave=False) as bar:
        found = findings_of(index, lambda _: bar.update())
    differences = [] if report is None or found else check_answer(index, report)
    if as_json:
        facts = [finding._asdict() for finding in found]
        print(json_line(facts if report is None else {"index": facts, "report": differences}))
    elif not found:
        print(f"{index} is whole")
    for finding in [] if as_json else found:
        print(f"{finding.file} {finding.what}; it is made again of {finding.needs}")
    if report is not None and not (found or as_json):
        print(*(differences or [f"{report} is of it, and its scores are unchanged"]), sep="\n")
    if differences:
        raise MismatchError(
            f"{report} is not of {index} as it is now, in {len(differences)} place(s): ask the "
            "question again, or name the index that it was asked of"
        )
    if found:
        raise StoreError(f"{len(found)} file(s) of {index}: missing or damaged; {mend(index)}")


def repair(
    index: OwnFolder,
    device: Device = None,
) -> None:
    """Make an index whole again from what is there of it."""
    from headwater.runtime.console import say
    from headwater.upkeep.repair import repair as mend

    mend(index, device, say)
    print(f"{index} is whole")


def export(
    answer: Annotated[Path, typer.Argument(help="Folder of an answer.", metavar="ANSWER")],
    out: Annotated[
        Path, typer.Argument(help="A file that ends in .csv, .json or .parquet.", metavar="OUT")
    ],
) -> None:
    """Write the scores of an answer's questions as one table."""
    from headwater.upkeep.answers import export_answers

    print(f"{export_answers(answer, out):,} rows in {out}")


def push(
    index: OwnFolder,
    url: Annotated[
        str,
        typer.Argument(
            help="hf://datasets/OWNER/NAME, s3://BUCKET/FOLDER, or another that fsspec knows.",
            metavar="URL",
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="In the place of another index that is there.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Of a new repository of the hub; else it is private.")
    ] = False,
    with_removed: Annotated[
        bool,
        typer.Option("--with-removed", help="Although images were removed that are in its files."),
    ] = False,
) -> None:
    """Copy an index to where others can fetch it.

    With a card that says what it is. `headwater concept URL ...` and `Index.from_pretrained` then
    ask it. What is kept of questions stays here.
    """
    from headwater.runtime.console import say
    from headwater.upkeep.push import push as copy

    copy(index, url, overwrite, not public, with_removed, say)
    print(f"{index} is at {url}")


def remove(
    index: OwnFolder,
    ids: Annotated[
        Path | None, typer.Option(help="File of ids, one on each line; all images if not given.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help=f"Those that fulfil it: {CONDITION}; may be repeated."),
    ] = None,
    why: Annotated[str, typer.Option(help="Is written down with them.")] = "",
    restore: Annotated[
        bool, typer.Option("--restore", help="Bring back all that were removed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which; remove nothing.")] = False,
) -> None:
    """Ask an index without some of its images from now on.

    Such as those of an artist who opted out. Answers are then as of an index that was built without
    them. Their rows stay on disk.
    """
    from headwater.upkeep.remove import remove as leave_out
    from headwater.upkeep.remove import restore as bring_back

    if restore:
        given = {"--ids": ids, "--where": where, "--why": why, "--dry-run": dry_run}
        refuse({name: bool(value) for name, value in given.items()}, "--restore")
        print(f"{bring_back(index):,} image(s) of {index} are back")
        return
    left = leave_out(index, ids, where or (), why, dry_run)
    print(
        printable(f"{'would remove' if dry_run else 'removed'} {len(left):,} image(s) of {index}")
    )
    for id in left[:LISTED]:
        print(f"  {printable(id)}")
    if len(left) > LISTED:
        print(f"  and {len(left) - LISTED:,} more")


def _whole_shards(folder: Path) -> list[Shard]:
    """The shards that are there, of an index that may not have been begun.

    Those at a URL are not read: they are whole by their sizes.
    """
    from headwater.storage.manifest import read_manifest
    from headwater.storage.shard_files import shards_there
    from headwater.storage.shards import finished_shards

    if not (folder / "index.json").exists():
        return []
    manifest = read_manifest(folder)
    there = shards_there(folder, manifest)
    return list(finished_shards(folder, manifest).values()) if there is None else there


def _stored(whole: Sequence[Sequence[Shard]], expected: int, state: str) -> dict[str, Any]:
    """How much of an index is there.

    Args:
        whole: the shards that are whole, model by model.
        expected: how many shards there should be, of all models.
        state: of the whole, in words.
    """
    first, shards = whole[0], [shard for of_model in whole for shard in of_model]
    return {
        "state": state,
        "rows": sum(shard.rows for shard in first),
        "skipped": sum(len(shard.skipped) for shard in first),
        "models": len(whole),
        "shards": f"{len(shards)} of {expected} whole",
        "size (MB)": round(sum(shard.bytes for shard in shards) / 1e6, 1),
    }


def _repeats(index: Path, manifest: Manifest) -> dict[str, str]:
    """How often images were seen in training, where a data set says so."""
    from headwater.data.training_set import repeats_line
    from headwater.index.samples import count_repeats

    counts = count_repeats(index) if manifest.complete else {}
    return {"repeats": repeats_line(counts)} if counts else {}


def _recipe(manifest: Manifest) -> dict[str, Any]:
    """What the rows were made of, and what they serve."""
    from headwater.methods.choice import served_by, side_of

    recipe, model, data = manifest.recipe, manifest.model, manifest.data
    side, curvature = side_of(recipe), recipe.get("curvature", "")
    recorded = "run" in manifest.model.get("options", {})
    served = served_by(side, recipe["normalise"], 1 + manifest.checkpoints, curvature, recorded)
    return {
        "methods": ", ".join(served),
        "model": model["source"],
        **{name: listed(value) for name, value in model.get("options", {}).items()},
        "model fingerprint": model["fingerprint"][:16],
        "data": data["source"],
        "data fingerprint": data["fingerprint"][:16],
        "parameters": f"{recipe['parameters']} ({len(recipe['layers'])} layers)",
        "features": f"{recipe['dim']} by {recipe['projection']}, seed {recipe['seed']}",
        **_metric(manifest),
        "timesteps": " ".join(map(str, recipe["timesteps"])),
        **({"inversion guidance": f"{side.guidance:g}"} if side.guided else {}),
        "written by": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
    }


def _metric(manifest: Manifest) -> dict[str, str]:
    """What rows are in the metric of, where they are in one; and of which images, if of others."""
    from headwater.index.curvature.origin import origin_of

    kind, origin = manifest.recipe.get("curvature", ""), origin_of(manifest)
    fitted = "" if origin is None else f", {origin.line(manifest.data['rows'])}"
    targets = f"targets of the {manifest.recipe.get('curvature_targets')}"
    return {"curvature": f"{kind}, {targets}{fitted}"} if kind else {}
