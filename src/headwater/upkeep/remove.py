"""Images that an index is asked without from now on, as if it had been built without them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from headwater.errors import QueryError
from headwater.index.conditions import rows_of_ids, rows_where
from headwater.index.index import Index
from headwater.storage.claims import alone
from headwater.storage.files import remove_parts
from headwater.storage.manifest import Removal, read_manifest, write_manifest


def remove(
    folder: str | Path,
    ids: Sequence[str] | Path | None = None,
    where: Sequence[str] = (),
    why: str = "",
    dry_run: bool = False,
) -> list[str]:
    """Ask an index without some of its images from now on; returns their ids.

    Scores, kernel and captions are then those of an index that was built without them. Their rows
    stay on disk, so that `restore` can bring them back. A curvature stays the one that was
    fitted with them, and keeps a trace of them: an index that is built anew, without `reuse`, has
    none.

    Args:
        ids: or a file with one on each line; None for all.
        where: conditions, all of which an image has to fulfil (`index.conditions`).
        why: is written down with them, and when.
        dry_run: only say which.

    Raises:
        QueryError: neither ids nor conditions, no id of any image, or no image would be left.
        StoreError: there is no index, it is unfinished, damaged, or is being written.

    Example:
        remove("my-index", where=["artist is Jane Doe"], why="opted out on 2026-11-28")
    """
    folder = Path(folder)
    if ids is None and not where:
        raise QueryError("nothing says which images are removed: give --ids or --where")
    index = Index.open(folder)
    rows = rows_where(index, where)
    if ids is not None:
        chosen = set(rows_of_ids(index, ids))
        rows = [row for row in rows if row in chosen]
    if len(rows) == len(index):
        raise QueryError(f"no image of {folder} would be left: name fewer")
    if rows and not dry_run:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        _write(folder, [Removal(now, why, tuple(index.positions[row] for row in rows))])
    return [index.samples[row].id for row in rows]


def restore(folder: str | Path) -> int:
    """Ask an index with all its images again; returns how many were removed.

    Raises:
        StoreError: there is no index, it is damaged, or is being written.
    """
    folder = Path(folder)
    count = len(read_manifest(folder).removed_rows)
    if count:
        _write(folder, None)
    return count


def removal_facts(index: Index) -> dict[str, Any]:
    """What an answer says of the images that its index is asked without; nothing if there are none.

    Example:
        facts = removal_facts(Index.open("my-index"))
    """
    if not index.removed:
        return {}
    return {"images": len(index.removed), "fingerprint of the rest": index.fingerprint}


def _write(folder: Path, more: Collection[Removal] | None) -> None:
    """Add removals to those there, or drop all."""
    with alone(folder):
        now = read_manifest(folder)
        removed = () if more is None else (*now.removed, *more)
        write_manifest(folder, replace(now, removed=removed))
        remove_parts(folder, older_than=0)  # of one that was killed: nobody else writes here
