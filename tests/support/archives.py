"""Tars and zips of small files."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def write_tar(file: Path, members: Mapping[str, bytes | str], mode: str = "w") -> Path:
    """A tar of these files, in this order."""
    with tarfile.open(file, mode) as tar:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def write_zip(
    file: Path, members: Mapping[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    """A zip of these files, in this order."""
    with zipfile.ZipFile(file, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file
