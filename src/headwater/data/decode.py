"""Files and bytes -> pictures: which formats are read, and in words why something is none.

Of a file with several pictures (GIF, TIFF, WebP, AVIF) the first is read, of an icon the largest.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError, features

from headwater.errors import HeadwaterWarning, first_line

# What Pillow is asked to recognise, as far as it is built with it. Left out are PostScript and
# Windows metafiles, for which it starts other programs, and formats that hold no photographs.
_FORMATS = (
    "PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO",
    "ICNS", "PCX", "QOI", "SGI", "SUN", "DDS", "PSD",
    "HEIF", "JXL",  # read by plug-ins
)  # fmt: skip
# The formats, in Pillow's names, of files that are taken for images, by their suffixes.
SUFFIXES = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".bmp": "BMP",
    ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".ico": "ICO",
    ".jp2": "JPEG2000", ".ppm": "PPM", ".pgm": "PPM", ".tga": "TGA", ".qoi": "QOI",
    ".heic": "HEIF", ".heif": "HEIF", ".jxl": "JXL",
}  # fmt: skip


@dataclass(frozen=True)
class Plugin:
    """What teaches Pillow a format: by being imported, or by a function of it."""

    module: str
    register: str = ""


_PLUGINS = {"HEIF": Plugin("pillow_heif", "register_heif_opener"), "JXL": Plugin("pillow_jxl")}
_EXTRA = "pip install 'headwater[formats]'"
_NEWER = "pip install --upgrade pillow"

# What Pillow and its plug-ins have been seen to raise on damaged files.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    OverflowError,
    RuntimeError,  # of pillow-jxl-plugin
    struct.error,
    Image.DecompressionBombError,
)

# How a file begins that is no picture here, from which byte on, and what to do about it.
_LFS = "it is a git-lfs pointer, not the picture: run `git lfs pull`"
_POSTSCRIPT = "it is PostScript, which is not read: convert it to PNG"
_HEIC = f"it is HEIC, which Pillow does not read: {_EXTRA}, or convert it to PNG or JPEG"
_JXL = f"it is JPEG XL, which Pillow does not read: {_EXTRA}, or convert it to PNG"
_AVIF = f"it is AVIF, which this Pillow does not read: {_NEWER}, or convert it to PNG"
_NOT_READ = (
    (b"version https://git-lfs", 0, _LFS),
    (b"%!PS", 0, _POSTSCRIPT),
    (b"\xc5\xd0\xd3\xc6", 0, _POSTSCRIPT),
    (b"%PDF", 0, "it is a PDF, which is not read: convert it to PNG"),
    (b"\xff\x0a", 0, _JXL),
    (b"JXL ", 4, _JXL),
    (b"ftypavif", 4, _AVIF),
    *((b"ftyp" + brand, 4, _HEIC) for brand in (b"heic", b"heix", b"heim", b"heis")),
    *((b"ftyp" + brand, 4, _HEIC) for brand in (b"hevc", b"hevx", b"mif1", b"msf1")),
)

_PLUGIN_FOR = {_HEIC: "HEIF", _JXL: "JXL"}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(source: str | Path | Any) -> Image.Image:
    """A picture file, or the bytes of one, opened by Pillow; its pixels are not decoded yet.

    Raises:
        OSError: there is no such file, or it is no regular one.
        UnidentifiedImageError: says what it is instead of a picture.
        DecompressionBombError: it has more pixels than Pillow opens.
    """
    in_file = isinstance(source, (str, Path))
    if in_file:
        _require_regular(source)
    try:
        return _opened(source, in_file)
    except Image.DecompressionBombError as error:
        too_large = f"{first_line(error).rstrip('.')}: scale it down"
        raise Image.DecompressionBombError(too_large) from None
    except UnidentifiedImageError:
        what = _what_it_is(source, in_file)
        format = _PLUGIN_FOR.get(what, "")
        if format and format not in Image.OPEN and can_read(format):
            return _opened(source, in_file)
        raise UnidentifiedImageError(what) from None


def can_read(format: str) -> bool:
    """Whether pictures of a format are read here; a plug-in that is installed is set to work.

    Args:
        format: in Pillow's name.
    """
    Image.init()
    plugin = _PLUGINS.get(format)
    if plugin and format not in Image.OPEN:
        try:
            module = importlib.import_module(plugin.module)
        except ImportError:
            return False
        if plugin.register:
            getattr(module, plugin.register)()
    if format == "AVIF":  # for which Pillow has an opener even where it is built without
        return "avif" in features.get_supported()
    return format in Image.OPEN


def unread_kinds(counts: Mapping[str, int]) -> str:
    """A line, or none, on images of kinds that are not read here: how many, and what would mend it.

    Args:
        counts: numbers of files by suffix.

    >>> unread_kinds({".png": 3, ".txt": 2})
    ''
    """
    lost = {end: n for end, n in counts.items() if end in SUFFIXES and not can_read(SUFFIXES[end])}
    if not lost:
        return ""
    shown = ", ".join(f"{n} {end}" for end, n in lost.items())
    mends = dict.fromkeys(_EXTRA if SUFFIXES[end] in _PLUGINS else _NEWER for end in lost)
    what = f"{sum(lost.values())} image(s) of kinds that are not read here are left out ({shown})"
    return f"{what}: {', '.join(mends)}"


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; as it lies where its EXIF is broken, with a warning."""
    image.load()  # so that damaged pixels are not taken for broken EXIF
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's readers of metadata raise whatever they run into
        text = "some pictures have broken EXIF: they are taken as they lie, upright or not"
        warnings.warn(text, HeadwaterWarning, stacklevel=2)
        return image
    return image if turn is None else image.transpose(turn)


def without_orientation(image: Image.Image) -> Image.Image:
    """The same picture, whose metadata would not turn it a second time."""
    for name in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    return image


def _opened(source: Any, in_file: bool) -> Image.Image:
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    return Image.open(source if in_file else io.BytesIO(source), formats=formats)


def _require_regular(file: str | Path) -> None:
    mode = os.stat(file).st_mode  # noqa: PTH116 - of a str as well
    if stat.S_ISDIR(mode):
        raise OSError("it is a folder")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for somebody to write
        raise OSError("it is no regular file but a pipe, a socket or a device")


def _what_it_is(source: Any, in_file: bool) -> str:
    if in_file:
        with Path(source).open("rb") as file:
            head = file.read(64)
    else:
        head = bytes(memoryview(source)[:64])
    for magic, start, text in _NOT_READ:
        if head[start : start + len(magic)] == magic:
            return text
    return "it is no image" if head else "it is empty, no image"
