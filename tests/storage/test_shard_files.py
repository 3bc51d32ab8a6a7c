"""Shards of an index at a URL: copied when they are read, and what is read is what was opened."""

import os
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.object_store import bucket

from headwater.errors import HeadwaterWarning, ParameterError, ResourceError, StoreError
from headwater.storage import blocks, room
from headwater.storage.blocks import (
    Part,
    divided,
    read_blocks,
    read_part,
    read_residuals,
    read_rows,
)
from headwater.storage.files import checksum_of
from headwater.storage.manifest import Manifest, Shard, write_manifest
from headwater.storage.remote import fetch
from headwater.storage.shard_files import Place, folder_of, place_of, shard_files
from headwater.storage.shards import ShardRows, mend, shard_ranges, write_shard

ROWS, DIM, SHARD = 103, 8, 10
URL = "memory://there/index"
FEATURES = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
CLOSE = dict(rtol=1e-3, atol=1e-3)  # rows are stored in half precision


def written(folder, features=FEATURES) -> Manifest:
    """An index of these rows in shards of ten, all that reading them needs."""
    manifest = Manifest({"dim": DIM}, {}, {}, {}, SHARD)
    shards = [
        write_shard(
            folder, manifest, number, ShardRows(features[own], own, residuals=features[own, :2])
        )
        for number, own in enumerate(map(list, shard_ranges(len(features), SHARD)))
    ]
    manifest = replace(manifest, shards=tuple(shards), complete=True)
    write_manifest(folder, manifest)
    for note in folder.glob("features/*.json"):
        note.unlink()
    return manifest


def put(files, folder, root="/there/index"):
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    files.pipe({f"{root}/{name.as_posix()}": (folder / name).read_bytes() for name in names})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(room.LIMIT, raising=False)
    monkeypatch.setattr(room, "MARGIN", 0)
    yield tmp_path / "cache" / "remote"
    reading = tmp_path / "cache" / "remote" / "reading"
    assert not [path for path in reading.rglob("*") if path.is_file()], "nobody reads any more"


@pytest.fixture
def manifest(memory, tmp_path) -> Manifest:
    """Of the index at the URL, in eleven shards."""
    found = written(tmp_path / "index")
    put(memory, tmp_path / "index")
    return found


@pytest.fixture
def copied(memory, monkeypatch) -> list[tuple[str, str, int]]:
    """Each file that is copied: its name, the thread, bytes of rows on the disk right after."""
    found, get = [], type(memory).get_file

    def counted(self, source, target, **options):
        get(self, source, target, **options)
        name = source.partition("index/")[2]
        found.append((name, threading.current_thread().name, bytes_of_rows(target)))

    monkeypatch.setattr(type(memory), "get_file", counted)
    return found


def bytes_of_rows(target) -> int:
    top = next(parent for parent in Path(target).parents if parent.name == "remote")
    return size_of_rows(top)


def size_of_rows(root) -> int:
    """Bytes of all files beside rows, what was begun of some among them."""
    return sum(path.stat().st_size for path in root.rglob("features/*") if path.is_file())


def names(copied) -> list[str]:
    return [name for name, *_ in copied]


def limit(monkeypatch, manifest, shards: float) -> int:
    """So many shards may be kept, of the size of the first."""
    size = int(manifest.shards[0].bytes * shards)
    monkeypatch.setenv(room.LIMIT, str(size))
    return size


def rows_in(folder, manifest, verified=None) -> torch.Tensor:
    return torch.cat(list(read_blocks(folder, manifest, verified)))


def files_of_rows(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("features/*"))


# --- what is copied -------------------------------------------------------------------------------


def test_rows_are_copied_when_they_are_read_and_once(manifest, copied):
    folder = fetch(URL)
    assert names(copied) == ["index.json"] and not (folder / "features").exists()
    for _ in range(2):
        torch.testing.assert_close(rows_in(folder, manifest), FEATURES, **CLOSE)
    assert names(copied)[1:] == [shard.file for shard in manifest.shards]
    assert fetch(URL) == folder and len(copied) == 12
    assert len(files_of_rows(folder)) == 11


def test_one_is_copied_ahead_by_a_thread(manifest, copied):
    left = read_blocks(fetch(URL), manifest)
    next(left)
    left.close()  # once what is copied ahead is there
    first, second = copied[1:]
    assert first[1] == threading.current_thread().name
    assert second[1].startswith("headwater-shards") and second[0] == manifest.shards[1].file


@pytest.mark.parametrize("shards", [0, 0.5, 1, 2, 2.5, 5])
def test_no_more_is_kept_than_may_be(manifest, copied, monkeypatch, shards):
    most = limit(monkeypatch, manifest, shards)
    folder = fetch(URL)
    for name in ("kernels/a.safetensors", "queries/b.safetensors", "features/notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    for _ in range(2):
        torch.testing.assert_close(rows_in(folder, manifest), FEATURES, **CLOSE)
    every = [shard.file for shard in manifest.shards]
    assert names(copied)[1:12] == every and len(copied) <= 23
    assert shards > 1 or names(copied)[12:] == every
    largest = max(shard.bytes for shard in manifest.shards)  # the one that is read may always be
    assert max(kept for *_, kept in copied) <= max(most, largest) + 1  # and the note
    assert (
        len(list(folder.glob("*/?.safetensors"))) == 2 and (folder / "features/notes.txt").exists()
    )


def test_what_was_longest_unread_goes_first(manifest, copied, monkeypatch):
    folder, shards = fetch(URL), manifest.shards
    list(shard_files(folder, shards[:3]))
    for hours, shard in zip((3, 2, 1), shards, strict=False):
        # of a file that was read since it was changed, and today, few disks note another time
        now = time.time()
        os.utime(folder / shard.file, (now - 3600 * hours, now - 3600 * 9))
    list(shard_files(folder, shards[:1]))
    limit(monkeypatch, manifest, 3)
    list(shard_files(folder, shards[3:4]))
    assert files_of_rows(folder) == [f"0000{n}.safetensors" for n in (0, 2, 3)]


def test_passes_that_lack_room_for_one_shard_copy_one(manifest, copied, monkeypatch):
    """What goes is what was read last, else each shard would go right before its turn."""
    limit(monkeypatch, manifest, 10)
    folder = fetch(URL)
    rows_in(folder, manifest)
    for number in range(3):
        assert len(copied) == 12 + number
        torch.testing.assert_close(rows_in(folder, manifest), FEATURES, **CLOSE)
    assert len(copied) == 15


def test_what_a_pass_does_not_read_goes_before_what_it_does(manifest, copied, monkeypatch):
    limit(monkeypatch, manifest, 5)
    folder, shards = fetch(URL), manifest.shards
    list(shard_files(folder, shards[:5]))
    for _ in range(2):
        list(shard_files(folder, shards[5:10]))
    assert names(copied)[1:] == [shard.file for shard in shards[:10]]


def test_copies_of_another_index_go_too(manifest, copied, memory, tmp_path, monkeypatch):
    put(memory, tmp_path / "index", "/other/index")
    other, folder = fetch("memory://other/index"), fetch(URL)
    list(shard_files(other, manifest.shards[:2]))
    limit(monkeypatch, manifest, 2)
    list(shard_files(folder, manifest.shards[:1]))
    assert files_of_rows(other) == ["00001.safetensors"]


def test_a_lower_limit_is_kept_when_an_index_is_opened(manifest, monkeypatch):
    folder = fetch(URL)
    rows_in(folder, manifest)
    limit(monkeypatch, manifest, 2)
    assert len(files_of_rows(fetch(URL))) == 2


def test_who_reads_a_part_copies_a_part(manifest, copied):
    folder, parts = fetch(URL), divided(Part(manifest), 4)
    found = torch.cat([block.clone() for block in read_part(folder, parts[1])])
    assert names(copied)[1:] == [shard.file for shard in parts[1].manifest.shards]
    start = parts[0].manifest.rows
    torch.testing.assert_close(found, FEATURES[start : start + len(found)], **CLOSE)


def test_some_rows_and_residuals(manifest, copied):
    folder = fetch(URL)
    found = read_rows(folder, Part(manifest), [57, 3, 51])
    torch.testing.assert_close(found.features, FEATURES[[57, 3, 51]], **CLOSE)
    assert names(copied)[1:] == [manifest.shards[0].file, manifest.shards[5].file]
    torch.testing.assert_close(read_residuals(folder, manifest.shards), FEATURES[:, :2])
    kept = torch.arange(ROWS) % 3 > 0  # without those that were removed
    found = read_rows(folder, Part(manifest, kept.numpy()), [40, 0])
    torch.testing.assert_close(found.features, FEATURES[kept][[40, 0]], **CLOSE)


def test_arrays_of_other_programs(memory, copied, tmp_path, monkeypatch):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", FEATURES[20 * number : 20 * (number + 1)].numpy())
    files = [tmp_path / f"{number}.npy" for number in range(3)]
    shards = tuple(
        Shard(file.name, 20 * n, 20, (), file.stat().st_size, checksum_of(file))
        for n, file in enumerate(files)
    )
    manifest = Manifest({"dim": DIM}, {}, {}, {}, 20, shards=shards, complete=True)
    write_manifest(tmp_path, manifest)
    for name in ("index.json", *(shard.file for shard in shards)):
        memory.pipe(f"/there/index/{name}", (tmp_path / name).read_bytes())
    limit(monkeypatch, manifest, 1)
    folder = fetch(URL)
    assert names(copied) == ["index.json"]
    torch.testing.assert_close(rows_in(folder, manifest), FEATURES[:60])
    found = read_rows(folder, Part(manifest), [45, 7])
    torch.testing.assert_close(found.features * found.scale[:, None], FEATURES[[45, 7]])
    read_rows(folder, Part(manifest), [45])
    assert [path.name for path in folder.glob("*.npy")] == ["2.npy"]
    assert read_residuals(folder, manifest.shards) is None


def test_files_that_have_names_of_rows_and_are_of_no_index(memory, copied):
    others = ["0.npy", "checkpoints/0/1.npy", "features/00000.safetensors"]
    memory.pipe({f"/there/index/{name}": b"not rows" for name in others})
    folder = fetch(URL)
    assert sorted(names(copied)) == others
    assert place_of(folder) == folder and all((folder / name).is_file() for name in others)


def test_rows_are_not_copied_while_another_index_is_pushed(manifest, memory, copied):
    fetch(URL)
    memory.rm_file("/there/index/index.json")
    fetch(URL)
    assert names(copied) == ["index.json"]


def test_nothing_is_read_where_none_is_asked_for(manifest, copied):
    folder = fetch(URL)
    assert list(shard_files(folder, [])) == []
    assert read_rows(folder, Part(manifest), []).features.shape == (0, DIM)
    assert list(read_part(folder, Part(replace(manifest, shards=())))) == []
    assert names(copied) == ["index.json"]


def test_checkpoints(memory, copied, tmp_path):
    written(tmp_path / "index")
    other = written(tmp_path / "index" / "checkpoints" / "0", -FEATURES)
    put(memory, tmp_path / "index")
    folder = fetch(URL)
    assert sorted(names(copied)) == ["checkpoints/0/index.json", "index.json"]
    checkpoint = folder / "checkpoints" / "0"
    assert place_of(checkpoint) == Place(URL, "checkpoints/0/") and place_of(folder) == Place(URL)
    assert folder_of(place_of(checkpoint)) == checkpoint
    torch.testing.assert_close(rows_in(checkpoint, other), -FEATURES, **CLOSE)
    assert not files_of_rows(folder) and len(files_of_rows(checkpoint)) == 11


def test_a_folder_of_this_machine_is_its_own_place(tmp_path, monkeypatch):
    manifest = written(tmp_path / "index")
    assert place_of(tmp_path / "index") == tmp_path / "index" == folder_of(tmp_path / "index")
    monkeypatch.chdir(tmp_path)
    for folder in (Path("index"), Path(), Path("/")):
        assert place_of(folder) == folder
    torch.testing.assert_close(rows_in(Path("index"), manifest), FEATURES, **CLOSE)


def test_an_object_store(tmp_path, monkeypatch):
    manifest = written(tmp_path / "index")
    limit(monkeypatch, manifest, 2)
    with bucket() as files:
        files.put(str(tmp_path / "index"), "bucket/index", recursive=True)
        folder = fetch("s3://bucket/index")
        torch.testing.assert_close(rows_in(folder, manifest), FEATURES, **CLOSE)
        assert len(files_of_rows(folder)) == 2
        files.rm_file(f"bucket/index/{manifest.shards[0].file}")
        # of two that stay, which those are is by who was faster
        (folder / manifest.shards[0].file).unlink(missing_ok=True)
        with pytest.raises(StoreError, match="is missing or damaged there"):
            rows_in(folder, manifest)


# --- what is there is what was opened -------------------------------------------------------------


@pytest.mark.parametrize("state", ["another", "half pushed", "fewer"])
def test_another_index_in_its_place_is_refused(manifest, memory, tmp_path, state, monkeypatch):
    limit(monkeypatch, manifest, 2)
    folder = fetch(URL)
    left = read_blocks(folder, manifest)
    next(left)
    other = written(tmp_path / "other", FEATURES.flip(0)[: 10 if state == "fewer" else None])
    for name in memory.find("/there/index"):
        memory.rm_file(name)
    put(memory, tmp_path / "other")
    if state == "half pushed":
        memory.rm_file("/there/index/index.json")
    with pytest.raises(StoreError, match=rf"the index at {URL} has changed there since.*ask again"):
        list(left)
    if state != "half pushed":
        assert fetch(URL) == folder
        found = rows_in(folder, other)
        torch.testing.assert_close(found, FEATURES.flip(0)[: len(found)], **CLOSE)
        assert set(files_of_rows(folder)) <= {shard.file[9:] for shard in other.shards}


@pytest.mark.parametrize("content", [None, b"", b"cut", "same size"])
def test_what_is_damaged_there_is_told_from_what_has_changed(manifest, memory, content):
    name = f"/there/index/{manifest.shards[4].file}"
    memory.rm_file(name)
    if content is not None:
        whole = content if isinstance(content, bytes) else bytes(manifest.shards[4].bytes)
        memory.pipe(name, whole)
    folder = fetch(URL)
    with pytest.raises(StoreError, match=r"features/00004.* is missing or damaged there: remove"):
        rows_in(folder, manifest)
    assert files_of_rows(folder) == [f"0000{n}.safetensors" for n in range(4)]


def test_a_copy_that_is_damaged_here_is_made_again(manifest, copied):
    folder, verified = fetch(URL), {}
    rows_in(folder, manifest, verified)
    (folder / manifest.shards[3].file).write_bytes(bytes(manifest.shards[3].bytes))
    (folder / manifest.shards[5].file).unlink()
    torch.testing.assert_close(rows_in(folder, manifest, verified), FEATURES, **CLOSE)
    assert names(copied)[12:] == [manifest.shards[3].file, manifest.shards[5].file]


def replaced(path):
    """Another file of the same bytes, as of another process that has opened another index there."""
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def rows_of(folder, manifest):
    return read_rows(folder, Part(manifest), [57, 3])


def residuals_of(folder, manifest):
    return read_residuals(folder, manifest.shards)


@pytest.mark.parametrize("read", [rows_in, rows_of, residuals_of])
@pytest.mark.parametrize("source", ["a disk", URL])
@pytest.mark.parametrize("is_removed", [False, True])
def test_what_is_put_in_its_place_while_it_is_read_is_refused(
    manifest, tmp_path, monkeypatch, read, source, is_removed
):
    """After its checksum was taken, and before it is opened; or it is gone after that."""
    folder, opened = fetch(URL) if source == URL else tmp_path / "index", blocks.safe_open

    def then_opened(path, framework):
        if not is_removed:
            replaced(path)
        file = opened(path, framework)
        if is_removed:
            path.unlink()
        return file

    monkeypatch.setattr(blocks, "safe_open", then_opened)
    with pytest.raises(StoreError, match="was replaced while it was read: ask again"):
        read(folder, manifest)


def test_what_is_put_in_its_place_once_it_is_copied_is_refused(manifest, monkeypatch):
    files = blocks.shard_files

    def then_replaced(*given):
        for path in files(*given):
            replaced(path)
            yield path

    monkeypatch.setattr(blocks, "shard_files", then_replaced)
    with pytest.raises(StoreError, match="was replaced while it was read: ask again"):
        residuals_of(fetch(URL), manifest)


def test_an_earlier_whole_copy_serves_where_nothing_is_reached(manifest, memory, monkeypatch):
    folder = fetch(URL)
    rows_in(folder, manifest)

    def cut(*_, **__):
        raise ConnectionError("the line is cut")

    monkeypatch.setattr(type(memory), "find", cut)
    monkeypatch.setattr(type(memory), "get_file", cut)
    with pytest.warns(HeadwaterWarning, match="the line is cut.* using the copy of an earlier"):
        assert fetch(URL) == folder
    torch.testing.assert_close(rows_in(folder, manifest), FEATURES, **CLOSE)
    (folder / manifest.shards[7].file).unlink()
    with warnings.catch_warnings(record=True) as told:  # an error would be told as another
        warnings.simplefilter("always")
        with pytest.raises(StoreError, match=rf"cannot reach {URL} .*: the line is cut"):
            fetch(URL)
    assert not [each for each in told if each.category is HeadwaterWarning]


def test_an_index_that_is_gone_is_told_to_who_has_it_open(manifest, memory, monkeypatch, copied):
    folder = fetch(URL)
    list(shard_files(folder, manifest.shards[:2]))
    for name in memory.find("/there/index"):
        memory.rm_file(name)
    others = ["0.npy", "features/00099.safetensors"]  # of a data set
    memory.pipe({f"/there/index/{name}": b"not rows" for name in others})
    limit(monkeypatch, manifest, 0)
    for _ in range(2):
        assert fetch(URL) == folder
        with pytest.raises(StoreError, match=rf"the index at {URL} has changed there since"):
            rows_in(folder, manifest)
    assert names(copied)[-2:] == others and all((folder / name).is_file() for name in others)
    assert not (folder / manifest.shards[0].file).exists()
    assert folder_of(Place(URL)) == folder
    put(memory, folder.parents[2] / "index")
    torch.testing.assert_close(rows_in(fetch(URL), manifest), FEATURES, **CLOSE)


@pytest.mark.parametrize("below", ["", "checkpoints/0"])
def test_what_mends_a_copy_is_another_push(manifest, below):
    assert mend(fetch(URL) / below).startswith(f"this is a copy of {URL}: mend the index")
    assert mend(Path("of-this-disk") / below).startswith("`headwater repair of-this-disk")


# --- what stops it --------------------------------------------------------------------------------


def failing(monkeypatch, memory, name, error, times=1):
    """A copy of a file ends in the middle, as often as that."""
    get, failed = type(memory).get_file, []

    def cut(self, source, target, **options):
        if source.endswith(name) and len(failed) < times:
            failed.append(source)
            with open(target, "wb") as file:  # noqa: PTH123
                file.write(b"half")
            raise error
        get(self, source, target, **options)

    monkeypatch.setattr(type(memory), "get_file", cut)


def test_a_line_that_is_cut_is_said_and_the_next_pass_goes_on(manifest, memory, monkeypatch):
    failing(monkeypatch, memory, "00006.safetensors", ConnectionError("the line is cut"))
    folder = fetch(URL)
    with pytest.raises(StoreError, match=rf"cannot reach {URL} .*the line is cut") as error:
        rows_in(folder, manifest)
    assert "\n" not in str(error.value)
    assert files_of_rows(folder) == [f"0000{n}.safetensors" for n in range(6)]
    torch.testing.assert_close(rows_in(folder, manifest), FEATURES, **CLOSE)


def test_what_a_kill_left_goes_before_what_is_whole(manifest, monkeypatch):
    folder = fetch(URL)
    list(shard_files(folder, manifest.shards[:2]))
    (folder / "features" / "00009.safetensors.part").write_bytes(bytes(1000))
    limit(monkeypatch, manifest, 3)
    list(shard_files(folder, manifest.shards[2:3]))
    assert files_of_rows(folder) == [f"0000{n}.safetensors" for n in range(3)]


def test_a_full_disk_that_did_not_say_so(manifest, memory, monkeypatch):
    """As a quota does: what may go goes, and it is tried once more."""
    folder, full = fetch(URL), OSError(28, "No space left on device")
    list(shard_files(folder, manifest.shards[:3]))
    failing(monkeypatch, memory, "00003.safetensors", full)
    list(shard_files(folder, manifest.shards[3:4]))
    assert files_of_rows(folder) == [f"0000{n}.safetensors" for n in range(1, 4)]
    failing(monkeypatch, memory, "00004.safetensors", full, times=2)
    with pytest.raises(ResourceError, match=r"no space left to write .*HEADWATER_CACHE"):
        list(shard_files(folder, manifest.shards[4:5]))
    assert "00004.safetensors.part" not in files_of_rows(folder)


def test_a_disk_that_says_that_it_is_full(manifest, monkeypatch, cache):
    """Of a disk of three shards one is the margin, as long as something can go."""
    folder, size = fetch(URL), manifest.shards[0].bytes + 100
    disk = [3 * size]

    def usage(_):
        return type("Usage", (), {"free": disk[0] - size_of_rows(cache)})

    monkeypatch.setattr(room.shutil, "disk_usage", usage)
    monkeypatch.setattr(room, "MARGIN", size)
    torch.testing.assert_close(rows_in(folder, manifest), FEATURES, **CLOSE)
    assert len(files_of_rows(folder)) == 2
    disk[0] = size
    torch.testing.assert_close(rows_in(folder, manifest), FEATURES, **CLOSE)
    assert len(files_of_rows(folder)) == 1
    disk[0] = size // 2
    with pytest.raises(ResourceError, match=r"no space left to copy features/00000.* free some"):
        rows_in(folder, manifest)


def test_what_others_are_to_copy_ahead_does_not_stop_who_reads(manifest, monkeypatch, cache):
    """A disk has room for one shard, which another process is about to copy ahead."""
    folder, (first, second, third, *_) = fetch(URL), manifest.shards
    usage = type("Usage", (), {"free": first.bytes})
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage)
    pinned = room.pin(cache, folder / second.file, second.bytes)
    assert list(shard_files(folder, [first])) == [folder / first.file]
    (folder / first.file).unlink()
    usage.free = third.bytes - 1
    with pytest.raises(ResourceError, match="no space left to copy features/00002"):
        list(shard_files(folder, [third]))
    room.unpin(pinned)


@pytest.mark.parametrize("given", ["much", "-1", "nan"])
def test_a_limit_that_is_no_number(manifest, monkeypatch, given):
    monkeypatch.setenv(room.LIMIT, given)
    with pytest.raises(ParameterError, match=f"{room.LIMIT}='{given}' is no number of bytes"):
        fetch(URL)


# --- side by side ---------------------------------------------------------------------------------


def test_what_another_process_reads_stays(manifest, monkeypatch, cache):
    folder = fetch(URL)
    first, second = (folder / shard.file for shard in manifest.shards[:2])
    list(shard_files(folder, manifest.shards[:2]))
    pinned = room.pin(cache, first, manifest.shards[0].bytes)
    limit(monkeypatch, manifest, 1)
    list(shard_files(folder, manifest.shards[2:4]))
    assert first.exists() and not second.exists()
    pinned.lock.release(force=True)  # as when it is killed: its file stays
    list(shard_files(folder, manifest.shards[4:5]))
    assert files_of_rows(folder) == ["00004.safetensors"]


def test_what_others_leave_among_the_files_that_are_read(manifest, monkeypatch, cache):
    """A network file system, of a file that was removed while it was open; a file manager."""
    folder = fetch(URL)
    left = cache / "reading" / folder.name / manifest.shards[0].file
    left.mkdir(parents=True)
    strange = [left / ".nfs000000000004", left / "12.34", left.parent / ".DS_Store"]
    for path in strange:
        path.touch()
    limit(monkeypatch, manifest, 1)
    torch.testing.assert_close(rows_in(folder, manifest), FEATURES, **CLOSE)
    assert len(files_of_rows(folder)) == 1
    for path in strange:
        path.unlink()  # and it is not ours to remove


def test_who_reads_at_once_copies_once(manifest, copied):
    folder, found = fetch(URL), []

    def read():
        found.append(rows_in(folder, manifest))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and sorted(names(copied)[1:]) == [s.file for s in manifest.shards]
    for rows in found:
        torch.testing.assert_close(rows, FEATURES, **CLOSE)


def test_the_first_shards_of_two_indexes_are_copied_at_once(cache, monkeypatch):
    held, lock = [], room.FileLock
    monkeypatch.setattr(room, "FileLock", lambda path: held.append(path.name) or lock(path))
    for index in ("one", "two", "one"):
        with room.copying(cache, cache / index / "features" / "00000.safetensors"):
            pass
    assert held[0] == held[2] != held[1]


def test_readers_side_by_side_have_one_each_whatever_the_limit(manifest, monkeypatch):
    limit(monkeypatch, manifest, 0)
    folder = fetch(URL)
    both = zip(read_blocks(folder, manifest), read_blocks(folder, manifest), strict=True)
    found = torch.stack([torch.cat(pair) for pair in both][:10])
    torch.testing.assert_close(found[0], FEATURES[:10].repeat(2, 1), **CLOSE)
    assert len(files_of_rows(folder)) <= 2
