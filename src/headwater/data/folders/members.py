"""Files in tar and zip archives: where they lie, by one pass over the headers, and their bytes.

Bytes are read by place, from a file that is opened for it, so that any number of threads and
processes may read one archive.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headwater.errors import DatasetError, first_line

PLAIN = (".tar", ".zip")
# In which a file can only be read after all before it, and how to undo that.
_PACKED = {
    ".tar.gz": "gunzip", ".tgz": "gunzip -S .tgz", ".tar.bz2": "bunzip2", ".tar.xz": "unxz",
    ".tar.zst": "unzstd",
}  # fmt: skip
COMPRESSED = tuple(_PACKED)
_MAGIC = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"(\xb5/\xfd": "unzstd"}
_LOCAL_HEADER = 30  # bytes of fixed length at the head of a file in a zip


@dataclass(frozen=True)
class Member:
    """A regular file in an archive.

    Attributes:
        name: its path in the archive, with `/`.
        start: of its bytes in a tar, of its own header in a zip.
        size: of the file, in bytes.
        stored: bytes that it takes in the archive; other than `size` where it is compressed.
        checksum: CRC-32 of the file; None in a tar, which has none.
        deflated: whether it is compressed.
    """

    name: str
    start: int
    size: int
    stored: int
    checksum: int | None = None
    deflated: bool = False


def members_of(archive: Path) -> Iterator[Member]:
    """The regular files in an archive, in its order; hidden ones are left out.

    Raises:
        DatasetError: it is none, compressed as a whole, damaged, or its files are locked.
    """
    _require_random_access(archive)
    members = _of_zip if archive.suffix.lower() == ".zip" else _of_tar
    try:
        for member in members(archive):
            if not any(part.startswith(".") for part in member.name.split("/") if part != "."):
                yield member
    except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        what = f"cannot read {archive} as an archive ({first_line(error)})"
        raise DatasetError(f"{what}: write or download it again") from error


def read_member(archive: Path, member: Member) -> bytes:
    """The bytes of a file in an archive.

    Raises:
        OSError: they are damaged, or the archive has changed.
    """
    with archive.open("rb") as file:
        file.seek(member.start)
        if member.checksum is not None:
            header = file.read(_LOCAL_HEADER)
            if header[:4] != b"PK\x03\x04":
                raise OSError("the archive is damaged there")
            # two lengths: of the name and of what else stands before the bytes
            lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            file.seek(sum(lengths), 1)
        content = file.read(member.stored)
    if len(content) < member.stored:
        raise OSError("the archive ends before it does")
    return content if member.checksum is None else _unpacked(content, member)


def _unpacked(content: bytes, member: Member) -> bytes:
    if member.deflated:
        try:  # one byte more than it should be shows what is longer, and bounds it
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size + 1)
        except zlib.error as error:
            raise OSError(f"the archive is damaged there: {first_line(error)}") from error
    if len(content) != member.size or zlib.crc32(content) != member.checksum:
        raise OSError("its checksum is not that of the archive")
    return content


def _require_random_access(archive: Path) -> None:
    tool = next((tool for end, tool in _PACKED.items() if archive.name.lower().endswith(end)), "")
    if not tool:
        with archive.open("rb") as file:
            head = file.read(6)
        tool = next((own for magic, own in _MAGIC.items() if head.startswith(magic)), "")
    if tool:
        raise DatasetError(
            f"{archive} is compressed, and its images cannot be read one by one: write a plain "
            f".tar of it, with `{tool}`"
        )


def _of_tar(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive, "r:") as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # which holds every header that was read
            if info.isreg() and not info.issparse():
                yield Member(info.name, info.offset_data, info.size, info.size)
        end = tar.offset
    with archive.open("rb") as file:  # tarfile stops without a word at a header that is damaged
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"it is damaged at byte {end}")


def _of_zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                raise ValueError(f"{info.filename!r} has a password, take it off")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{info.filename!r} is neither stored nor deflated")
            deflated = info.compress_type == zipfile.ZIP_DEFLATED
            yield Member(
                info.filename, info.header_offset, info.file_size, info.compress_size, info.CRC,
                deflated,
            )  # fmt: skip
