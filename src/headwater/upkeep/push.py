"""An index copied to where others fetch it: a hub's data set, an object store, a shared folder."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headwater.errors import MismatchError, StoreError
from headwater.storage.claims import alone
from headwater.storage.files import changing, is_full, renamed
from headwater.storage.manifest import checkpoint_folders, read_manifest
from headwater.storage.remote import (
    DATASETS,
    HUB,
    PUSHING,
    file_system,
    hub_place,
    listed,
    told,
)
from headwater.storage.shard_files import Place, place_of
from headwater.upkeep.card import card_of
from headwater.upkeep.push_lock import alone_at
from headwater.upkeep.verify import verify

CARD = "README.md"
MANIFEST = "index.json"  # which is copied last: a reader without it sees no index
_AT_ONCE = 64


def push(
    folder: str | Path,
    url: str,
    overwrite: bool = False,
    private: bool = True,
    with_removed: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> None:
    """Copy a finished index to a URL that fsspec reaches, with a card that says what it is.

    What is kept of questions (`queries`, `kernels`, `similarity`) stays here. A card that is there
    already stays as it is, and so do rows that are the same as here.

    Args:
        url: `hf://datasets/OWNER/NAME[/FOLDER]`, `s3://BUCKET/FOLDER`, or another.
        overwrite: in the place of another index that is there.
        private: of a repository that is made for it on the hub.
        with_removed: copy an index with images that were removed, whose rows and captions are
            still in its files.
        note: called with a line of text on what is copied.

    Raises:
        ResourceError: there is no space left at the URL.
        StoreError: there is no whole index, it is a copy of one at a URL, it holds removed images,
            somebody writes it, or the place cannot be reached.
        MismatchError: another index is there.

    Example:
        push("my-index", "hf://datasets/someone/my-index")
    """
    folder = Path(folder)
    place = place_of(folder)
    if isinstance(place, Place):
        raise StoreError(f"{folder} is a copy of {place.url}, which may lack rows: push that index")
    read_manifest(folder)  # refuses what is no index, before a lock is left there
    with alone(folder):
        left = verify(folder)
        if left:
            raise StoreError(
                f"{left[0].file} of {folder} {left[0].what}: run its `headwater index` command or "
                f"`headwater repair {folder}` first"
            )
        manifest = read_manifest(folder)
        if manifest.removed and not with_removed:
            raise StoreError(
                f"{len(manifest.removed_rows):,} image(s) were removed from {folder}, and their "
                "rows, ids and captions are still in its files: build an index without them, or "
                "copy it all the same with --with-removed"
            )
        names = sorted(_names(folder), key=lambda name: name == MANIFEST)
        size = sum((folder / name).stat().st_size for name in names)
        note(f"copying {len(names):,} files, {size / 1e6:,.1f} MB, to {url}")
        with told(url), _disk_at(url), tempfile.TemporaryDirectory() as made:
            card = Path(made) / CARD
            card.write_text(card_of(folder, manifest, url), encoding="utf-8")
            put = _to_hub if url.startswith(HUB) else _to_store
            put(folder, names, card, url, overwrite=overwrite, private=private)


@contextmanager
def _disk_at(url: str) -> Iterator[None]:
    """Say that it is full or read-only; to `told` that would be this machine's, or an address."""
    try:
        yield
    except OSError as error:
        if not (is_full(error) or error.errno == errno.EROFS):
            raise
        with changing(url):
            raise


def _names(folder: Path, below: str = "") -> Iterator[str]:
    """The files of an index that somebody else needs, and of its further checkpoints."""
    manifest = read_manifest(folder / below)
    yield f"{below}{MANIFEST}"
    yield f"{below}samples.parquet"
    yield from (f"{below}{shard.file}" for shard in manifest.shards)
    for other in ("removed.json", "curvature/bases.safetensors", "curvature/moments.safetensors"):
        if (folder / below / other).exists():
            yield f"{below}{other}"
    for checkpoint in checkpoint_folders(folder / below, manifest):
        yield from _names(folder, f"{checkpoint.relative_to(folder).as_posix()}/")


def _to_store(
    folder: Path, names: Sequence[str], card: Path, url: str, *, overwrite: bool, private: bool
) -> None:
    files, root = file_system(url)
    files.makedirs(root, exist_ok=True)
    with alone_at(files, root, url) as turn:
        there = listed(files, root)
        there.pop(PUSHING, None)
        same: set[str] = set()
        if MANIFEST in there:
            with tempfile.TemporaryDirectory() as made:
                files.get_file(f"{root}/{MANIFEST}", f"{made}/{MANIFEST}")
                _require_same(Path(made), folder, url, overwrite, turn.was_begun)
                same = _same_rows(Path(made), folder)
        elif there.keys() - {CARD} and not (overwrite or turn.was_begun):
            raise MismatchError(f"{url} holds other files ({min(there)}): name a new folder")
        turn.begin()
        if MANIFEST in there:
            files.rm_file(f"{root}/{MANIFEST}")  # while files change, there is no index there
        own = {*names, CARD}
        for name in (n for n in there if n not in own and n != MANIFEST and _is_ours(n)):
            files.rm_file(f"{root}/{name}")
        if CARD not in there or (turn.was_begun and _may_be_half(files, root, card)):
            files.put_file(str(card), f"{root}/{CARD}")
        for parent in sorted({name.rpartition("/")[0] for name in names}):
            files.makedirs(f"{root}/{parent}".rstrip("/"), exist_ok=True)
        kept = {n for n in same & there.keys() if there[n].size == (folder / n).stat().st_size}
        for some in _in_parts([name for name in names[:-1] if name not in kept]):
            files.put([str(folder / name) for name in some], [f"{root}/{name}" for name in some])
        _put_whole(files, folder / MANIFEST, root)


def _put_whole(files: Any, manifest: Path, root: str) -> None:
    """Put `index.json` there whole or not at all, as object stores do anyway.

    On a disk a kill would leave its first half, for readers to find.
    """
    from fsspec.implementations.local import LocalFileSystem

    if not isinstance(files, LocalFileSystem):
        files.put_file(str(manifest), f"{root}/{MANIFEST}")
        return
    for left in Path(root).glob(f"{MANIFEST}.*.part"):  # by a push that was killed
        left.unlink()
    with renamed(Path(root, MANIFEST)) as part:
        files.put_file(str(manifest), str(part))


def _may_be_half(files: Any, root: str, card: Path) -> bool:
    """Whether a card that is there may be what a push wrote of this one, and no more."""
    return card.read_bytes().startswith(files.cat_file(f"{root}/{CARD}"))


def _same_rows(there: Path, folder: Path) -> set[str]:
    """Files of rows that the index there has as this one does, by their checksums."""
    try:
        other = read_manifest(there)
    except StoreError:  # damaged, or of another version
        return set()
    return {shard.file for shard in {*other.shards} & {*read_manifest(folder).shards}}


def _is_ours(name: str) -> bool:
    """Whether a file can be one of an index, and not something else that somebody keeps there."""
    own = ("features/", "curvature/", "checkpoints/")
    return name.startswith(own) or name in ("removed.json", "samples.parquet")


def _in_parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE))


def _to_hub(
    folder: Path, names: Sequence[str], card: Path, url: str, *, overwrite: bool, private: bool
) -> None:
    """As one commit of a data set's repository, by the hub's own library."""
    from huggingface_hub import HfApi

    if not url.startswith(DATASETS):
        raise StoreError(f"{url} is no data set, which an index is kept as: {DATASETS}OWNER/NAME")
    repository, below, revision = hub_place(url)
    api, at = HfApi(), f"{below}/" if below else ""
    kind: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset"}
    api.create_repo(**kind, private=private, exist_ok=True)
    there = api.list_repo_files(**kind, revision=revision)
    if f"{at}{MANIFEST}" in there:
        with tempfile.TemporaryDirectory() as made:
            api.hf_hub_download(**kind, filename=f"{at}{MANIFEST}", local_dir=made)
            _require_same(Path(made) / below, folder, url, overwrite)
    if f"{at}{CARD}" not in there:
        card_at = f"{at}{CARD}"
        api.upload_file(**kind, path_or_fileobj=card, path_in_repo=card_at, revision=revision)
    api.upload_folder(
        **kind,
        folder_path=folder,
        path_in_repo=below or None,
        revision=revision,
        allow_patterns=list(names),
        delete_patterns=["features/*", "curvature/*", "checkpoints/*"],
        commit_message="Index by headwater",
    )


def _require_same(
    there: Path, folder: Path, url: str, overwrite: bool, was_begun: bool = False
) -> None:
    """Refuse to put an index into another's place, unless that is meant.

    Args:
        was_begun: by a push that did not end, which may have left its first half.
    """
    own, other = ((at / MANIFEST).read_bytes() for at in (folder, there))
    same = own == other or (was_begun and own.startswith(other))
    if not (same or overwrite):
        raise MismatchError(f"another index is at {url}: name another place, or --overwrite")
