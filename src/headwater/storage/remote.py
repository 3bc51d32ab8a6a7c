"""Places that are no disk of this machine: object stores, hubs, whatever fsspec reaches by a URL.

What lies there is copied to this machine once, and again where it has changed; everything else sees
a folder or a file. Rows of an index are left until they are read (`storage.shard_files`). `s3://`
needs the package s3fs, `gs://` gcsfs, and so on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from filelock import FileLock
from tqdm import tqdm

from headwater.errors import HeadwaterError, HeadwaterWarning, StoreError, first_line
from headwater.storage import room

HUB = "hf://"
DATASETS = f"{HUB}datasets/"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://")
# What file systems tell of a file that changes with what is in it, besides its size.
_STAMPS = (
    "ETag", "etag", "md5Hash", "md5", "content_md5", "crc32c", "generation", "version_id", "mtime",
    "LastModified", "last_modified", "updated", "created",
)  # fmt: skip
PUSHING = "headwater-push.json"  # is at a place while an index is pushed there
_CHECKPOINT = re.compile(r"checkpoints/\d+/")
# What an index there keeps of questions: nothing tells that whoever put it there computed it.
_KEPT = [f"{at}{each}/*.safetensors" for at in ("", "checkpoints/*/") for each in room.CACHES]
_AT_ONCE = 64  # files that are copied side by side, where the file system can


class There(NamedTuple):
    """What a file system says of a file; with another size or stamp it is another file."""

    size: int
    stamp: str


def is_remote(source: object) -> bool:
    """Whether a source is a URL.

    >>> is_remote("s3://bucket/index"), is_remote("a/folder")
    (True, False)
    """
    return isinstance(source, str) and _URL.match(source) is not None


def here(source: str) -> str:
    """A place on this machine: a copy of what lies at a URL, anything else as it is."""
    return str(fetch(source)) if is_remote(source) else source


def fetch(url: str) -> Path:
    """A copy of the folder or file at a URL, in the cache (`cache_folder`) of this machine.

    Files that were copied before are copied again where size or stamp differ, or they are gone.
    Of an index rows are left until they are read, but for the hub of Hugging Face, and what is kept
    there of questions for good. Where the place cannot be reached, a whole copy of an earlier time
    serves, with a HeadwaterWarning.

    Raises:
        StoreError: there is nothing, or it cannot be reached.
        ResourceError: the disk is full.

    Example:
        folder = fetch("s3://bucket/index")
    """
    copy = _copy_of(url)
    with told(url):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{copy}.lock"):
            if url.startswith(HUB):
                return _from_hub(url, copy)
            return _copied(url, copy)


def cache_folder() -> Path:
    """Where copies are kept: $HEADWATER_CACHE, else `headwater` in the user's cache."""
    own, users = os.environ.get("HEADWATER_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(users or Path.home() / ".cache") / "headwater"


def was_copied(url: str) -> bool:
    """Whether this machine has a copy, of whatever time, or a part of one."""
    return bool(_known(_record_of(_copy_of(url))))


def copy_for_rows(url: str) -> Path:
    """The folder that rows of an index at a URL are copied to, whether the rest is there or not."""
    copy = _copy_of(url)
    copy.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{copy}.lock"):
        rows = room.rows_at(copy)
        if rows is None or rows.are_gone:  # it may be there again
            room.leave(copy, room.Rows(url, {}))
    return copy


def _copy_of(url: str) -> Path:
    name = PurePosixPath(url.partition("://")[2]).name or "all"
    return cache_folder() / "remote" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _record_of(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.json")


def _copied(url: str, copy: Path) -> Path:
    files, root = file_system(url)
    record = _record_of(copy)
    known = _known(record)
    try:
        single = files.isfile(root)
        there = listed(files, root)
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # each file system has its own
        return _as_before(url, copy, known, error)
    others = (PUSHING, *_KEPT)
    there = {n: f for n, f in there.items() if not any(fnmatchcase(n, each) for each in others)}
    if not there:
        raise FileNotFoundError(url)
    for name in known.keys() - there.keys():  # others there are what this machine made
        (copy / name).unlink(missing_ok=True)
    rows = {name: there.pop(name).size for name in _rows_in(there, room.rows_at(copy))}
    room.leave(copy, room.Rows(url, rows)) if rows else room.forget(copy)
    wanted = [
        n for n, now in there.items() if not (now == known.get(n) and _is_there(copy / n, now))
    ]
    with tqdm(desc="fetching", total=len(wanted), unit="file", delay=2, leave=False) as bar:
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            _copy(
                files, [root if single else f"{root}/{n}" for n in some], [copy / n for n in some]
            )
            known |= {name: there[name] for name in some}
            _write(record, {n: facts for n, facts in known.items() if n in there})
            bar.update(len(some))
    return copy / next(iter(there)) if single else copy


def _as_before(url: str, copy: Path, known: Mapping[str, There], error: Exception) -> Path:
    """The copy of an earlier time, if all of it is there; else the error is raised again."""
    left = room.rows_at(copy) or room.Rows(url, {})
    every = {**known, **{name: There(size, "") for name, size in left.sizes.items()}}
    if not known or not all(_is_there(copy / name, facts) for name, facts in every.items()):
        raise error
    warnings.warn(
        f"cannot reach {url} ({type(error).__name__}: {first_line(error)}): using the copy of an "
        f"earlier time, {copy}; whether it has changed there is not known",
        HeadwaterWarning,
        stacklevel=2,
    )
    (name, *others) = known
    single = not others and name == PurePosixPath(url.partition("://")[2]).name
    return copy / name if single else copy


def _rows_in(there: Mapping[str, There], before: room.Rows | None) -> list[str]:
    """The files of rows, of an index and of its further checkpoints.

    `index.json` tells them from files of other things. It is not there while another index is
    pushed; what were rows before are rows then.
    """
    were, found = before.sizes if before is not None else {}, []
    for name in there:
        checkpoint = _CHECKPOINT.match(name)
        index = checkpoint[0] if checkpoint else ""
        known = f"{index}index.json" in there or name in were
        if known and room.FILE_OF_ROWS.fullmatch(name.removeprefix(index)):
            found.append(name)
    return found


def listed(files: Any, root: str) -> dict[str, There]:
    """The files below a folder by their names in it, or the one file; nothing that is not there.

    Raises:
        ValueError: a name leads out of the folder.
    """
    found: dict[str, There] = {}
    for path, facts in files.find(root, detail=True).items():
        name = path.removeprefix(root).strip("/") or PurePosixPath(path).name
        if "\\" in name or ".." in name.split("/") or ":" in name.split("/")[0]:
            raise ValueError(f"{name!r} is no name of a file")
        found[name] = _there(facts)
    return found


def there_of(files: Any, place: str) -> There:
    """What a file system says of one file: comparable with what it says later, not with a list."""
    return _there(files.info(place))


def _there(facts: Mapping[str, Any]) -> There:
    stamp = {key: str(facts[key]) for key in _STAMPS if facts.get(key) is not None}
    return There(int(facts["size"]), json.dumps(stamp, sort_keys=True))


def _is_there(file: Path, facts: There) -> bool:
    return facts.stamp != "{}" and file.is_file() and file.stat().st_size == facts.size


def _copy(files: Any, sources: Sequence[str], targets: Sequence[Path]) -> None:
    """Copy files side by side; each has its name once it is whole."""
    parts = [target.with_name(f"{target.name}.part") for target in targets]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
    files.get(list(sources), list(map(str, parts)))
    for part, target in zip(parts, targets, strict=True):
        part.replace(target)


def _known(record: Path) -> dict[str, There]:
    """What was copied before, as it was then."""
    try:
        return {name: There(*facts) for name, facts in json.loads(record.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(record: Path, known: Mapping[str, There]) -> None:
    part = record.with_name(f"{record.name}.part")
    part.write_text(json.dumps(known))
    part.replace(record)


def _from_hub(url: str, copy: Path) -> Path:
    """A repository of the Hugging Face hub, or a folder in one, by its own library."""
    from huggingface_hub import snapshot_download

    repository, below, revision = hub_place(url)
    at = f"{below}/" if below else ""
    chosen = {"allow_patterns": f"{at}*", "ignore_patterns": [at + each for each in _KEPT]}
    kind = "dataset" if url.startswith(DATASETS) else "model"
    snapshot_download(repository, repo_type=kind, revision=revision, local_dir=copy, **chosen)
    return copy / below


def hub_place(url: str) -> tuple[str, str, str | None]:
    """The repository, the folder in it, and the revision that a URL of the hub names.

    Raises:
        ValueError: it names no repository.

    >>> hub_place("hf://datasets/someone/theirs@v1/index")
    ('someone/theirs', 'index', 'v1')
    """
    owner, _, rest = url.removeprefix(DATASETS).removeprefix(HUB).partition("/")
    name, _, below = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise ValueError("name a repository, such as hf://datasets/someone/theirs")
    return f"{owner}/{name}", below.strip("/"), revision or None


def hub_url(name: str, revision: str | None = None) -> str:
    """The URL of a data set of the hub, or of a folder in one.

    >>> hub_url("someone/theirs/index", "v1")
    'hf://datasets/someone/theirs@v1/index'
    """
    owner, _, rest = name.partition("/")
    repository, slash, below = rest.partition("/")
    at = f"@{revision}" if revision else ""
    return f"{DATASETS}{owner}/{repository}{at}{slash}{below}"


def file_system(url: str) -> tuple[Any, str]:
    """The file system that a URL is of, and the path in it."""
    from fsspec.core import url_to_fs

    files, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    return files, root.rstrip("/")


@contextmanager
def told(url: str) -> Iterator[None]:
    """Say in one line what went wrong at a URL, whatever a library raises.

    Raises:
        StoreError, ResourceError: see `fetch`.
    """
    try:
        yield
    except (HeadwaterError, KeyboardInterrupt, MemoryError):
        raise
    except FileNotFoundError:
        raise StoreError(f"there is nothing at {url}: check the address") from None
    except ImportError as error:
        raise StoreError(
            f"{url} needs a package that is not installed: {first_line(error)}"
        ) from None
    except Exception as error:  # each file system has its own
        if _is_of_copies(error):
            from headwater.storage.files import changing  # takes seconds to import

            with changing(f"{cache_folder()} (HEADWATER_CACHE), where {url} is copied to"):
                raise
        why = f"{type(error).__name__}: {first_line(error)}"
        raise StoreError(f"cannot reach {url} ({why}): check the address and your keys") from None


def _is_of_copies(error: Exception) -> bool:
    """Whether the disk of this machine refuses that copies are on, and not the place itself."""
    from headwater.storage.files import is_full

    named, copies = getattr(error, "filename", None), cache_folder().resolve()
    in_copies = isinstance(named, str) and Path(named).resolve().is_relative_to(copies)
    return isinstance(error, OSError) and (is_full(error) or in_copies)
