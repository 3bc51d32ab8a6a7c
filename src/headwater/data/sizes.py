"""How large pictures are, by the first bytes of their files where these lie on disk."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from headwater.data.decode import DAMAGE
from headwater.data.training_set import TrainingSet
from headwater.errors import BadImageError

# Of EXIF: turned by a quarter, to one side or the other.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
# So many pictures are looked at: files by their heads, others must be decoded.
_HEADS, _WHOLE = 1_000, 50


def picture_sizes(data: TrainingSet) -> dict[str, tuple[int, int] | None]:
    """Id -> (height, width) as people see it, of pictures evenly spread; None of damaged ones."""
    on_disk = _file(data, 0).is_file()
    step = -(-len(data) // (_HEADS if on_disk else _WHOLE))
    return {data.samples[row].id: _size(data, row, on_disk) for row in range(0, len(data), step)}


def _size(data: TrainingSet, row: int, on_disk: bool) -> tuple[int, int] | None:
    try:
        if not on_disk:
            width, height = data.image(row).size
            return height, width
        with Image.open(_file(data, row)) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except (BadImageError, *DAMAGE):
        return None
    return (width, height) if turned else (height, width)


def _file(data: TrainingSet, row: int) -> Path:
    """Where a picture is, if it is a file: a uri begins beside its source."""
    return Path(data.source).parent / data.samples[row].uri
