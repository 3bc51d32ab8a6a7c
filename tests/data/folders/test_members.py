"""Files in archives: found by headers, read by place, damage named."""

import gzip
import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.archives import write_tar, write_zip

from headwater.data.folders.members import Member, members_of, read_member
from headwater.errors import DatasetError

FILES = {"a.txt": b"a cat", "deep/" + "n" * 150 + ".bin": bytes(range(256)) * 9, "empty": b""}


def stored(file, members):
    return write_zip(file, members, zipfile.ZIP_STORED)


@pytest.mark.parametrize("write, name", [(write_tar, "a.tar"), (write_zip, "a.zip"),
                                         (stored, "a.zip")])  # fmt: skip
def test_every_file_comes_back(tmp_path, write, name):
    archive = write(tmp_path / name, FILES)
    members = list(members_of(archive))
    assert [(member.name, member.size) for member in members] == [
        (name, len(content)) for name, content in FILES.items()
    ]
    with ThreadPoolExecutor(4) as threads:
        contents = list(threads.map(lambda m: read_member(archive, m), members * 20))
    assert contents == [*FILES.values()] * 20


def test_folders_links_and_hidden_files_are_no_members(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE), ("f", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        for name in ("./x", "._x", ".git/x", "a/.x"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert [member.name for member in members_of(tmp_path / "a.tar")] == ["./x"]
    write_zip(tmp_path / "a.zip", {"d/": b"", "d/x": b"", "__MACOSX/._x": b""})
    assert [member.name for member in members_of(tmp_path / "a.zip")] == ["d/x"]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_a_compressed_tar_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(write_tar(tmp_path / "b", FILES).read_bytes()))
    with pytest.raises(DatasetError, match=rf"{name} is compressed, .*plain .tar of it.*`gunzip"):
        list(members_of(tmp_path / name))


def truncated(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def overwritten(content: bytes) -> bytes:  # the header of the second file
    return content[:1024] + b"\xff" * 512 + content[1536:]


DAMAGED = {
    "half a tar": (write_tar, "a.tar", truncated),
    "a tar with a hole": (write_tar, "a.tar", overwritten),
    "no tar": (write_tar, "a.tar", lambda content: b"no archive" * 99),
    "half a zip": (write_zip, "a.zip", truncated),
    "no zip": (write_zip, "a.zip", lambda content: b"no archive" * 99),
}


@pytest.mark.parametrize("write, name, damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_archive_is_named(tmp_path, write, name, damage):
    archive = write(tmp_path / name, {f"{i}": bytes([i]) * 400 for i in range(9)})
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DatasetError, match=rf"cannot read .*{name} as an archive .*again"):
        list(members_of(archive))


def test_a_zip_that_cannot_be_read_by_place_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", FILES, zipfile.ZIP_LZMA)
    with pytest.raises(DatasetError, match=r"'a.txt' is neither stored nor deflated"):
        list(members_of(archive))
    content = bytearray(write_zip(archive, FILES).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # encrypted
    archive.write_bytes(content)
    with pytest.raises(DatasetError, match=r"'a.txt' has a password"):
        list(members_of(archive))


CHANGED = {
    "cut off": (lambda content: content[:40], "ends before it does"),
    "no header": (lambda content: b"\0" * len(content), "damaged there"),
    "a bit": (lambda content: content[:36] + b"\x07" + content[37:], "checksum|damaged"),
}


@pytest.mark.parametrize("change, words", CHANGED.values(), ids=CHANGED)
def test_a_zip_that_changed_since_is_damaged(tmp_path, change, words):
    archive = write_zip(tmp_path / "a.zip", {"a.txt": b"a cat" * 99})
    (member,) = members_of(archive)
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(OSError, match=words):
        read_member(archive, member)


def test_a_tar_that_is_shorter_now_is_damaged(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"12345")
    with pytest.raises(OSError, match="ends before it does"):
        read_member(tmp_path / "a.tar", Member("a", 2, 9, 9))


def test_a_file_that_unpacks_to_more_than_it_says_is_bounded(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"a": b"\0" * 1_000_000})
    (member,) = members_of(archive)
    lying = Member("a", member.start, 10, member.stored, member.checksum, True)
    with pytest.raises(OSError, match="checksum"):
        read_member(archive, lying)
