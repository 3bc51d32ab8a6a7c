"""`headwater info`: what an index holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cli.options import IndexFolder, Json
from headwater.cli.tables import print_facts
from headwater.errors import StoreError
from headwater.storage.manifest import checkpoint_folders, read_manifest, unfinished_checkpoints

if TYPE_CHECKING:
    from headwater.storage.manifest import Manifest, Shard


def info(
    index: IndexFolder,
    as_json: Json = False,
) -> None:
    """What an index holds, and what it can answer."""
    from headwater.storage import shards

    manifest = read_manifest(index)
    folders = [index, *checkpoint_folders(index, manifest)]
    done = [_whole(folder) for folder in folders]
    whole = sum(map(len, done))
    ranges = shards.shard_ranges(manifest.data["rows"], manifest.shard_rows)
    shards = len(ranges) * len(folders)
    complete = manifest.complete and not unfinished_checkpoints(index, manifest)
    facts = {
        "state": "complete" if complete else "unfinished, run `headwater index` again",
        "rows": sum(shard.rows for shard in done[0]),
        "skipped": sum(len(shard.skipped) for shard in done[0]),
        "models": len(folders),
        "shards": f"{whole} of {shards} whole",
        "size (MB)": round(sum(shard.bytes for each in done for shard in each) / 1e6, 1),
        **_recipe(manifest),
        "written by": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
    }
    if as_json:
        print(json.dumps(facts))
    else:
        print_facts(facts)
    if complete and whole < shards:
        raise StoreError(
            f"{shards - whole} shard(s) of {index} are missing or damaged: run the same "
            "`headwater index` command again to rebuild them"
        )


def _whole(folder: Path) -> list[Shard]:
    """The shards that are there, of an index that may not have been begun."""
    from headwater.storage import shards

    if not (folder / "index.json").exists():
        return []
    return list(shards.finished_shards(folder, read_manifest(folder)).values())


def _recipe(manifest: Manifest) -> dict[str, Any]:
    """What the rows were made of, and what they serve."""
    from headwater.features.spec import Side
    from headwater.methods import served_by

    recipe, model, data = manifest.recipe, manifest.model, manifest.data
    side = Side(recipe["train_path"], recipe["train_delta"])
    served = served_by(side, recipe["normalise"], 1 + manifest.checkpoints)
    return {
        "methods": ", ".join(served),
        "model": model["source"],
        **({"adapters": model["lora_source"]} if "lora_source" in model else {}),
        "model fingerprint": model["fingerprint"][:16],
        "data": data["source"],
        "data fingerprint": data["fingerprint"][:16],
        "parameters": f"{recipe['parameters']} ({len(recipe['layers'])} layers)",
        "features": f"{recipe['dim']} by {recipe['projection']}, seed {recipe['seed']}",
        "timesteps": " ".join(map(str, recipe["timesteps"])),
    }
