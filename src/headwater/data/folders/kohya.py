"""Folders as kohya's trainer has them: `10_girl` holds pictures of "girl", seen 10 times a round.

    DATA/10_girl/a.png, a.txt     seen 10 times for each time that 1_style/b.png was
    DATA/1_style/b.png            without a caption file: its caption is "style"

A number has three digits at most, so that years are none.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headwater.errors import HeadwaterWarning

_NAME = re.compile(r"(\d{1,3})_(.*\S.*)", re.DOTALL)
_SHOWN = 4  # folders


@dataclass(frozen=True)
class Repeated:
    """What the name of a folder says.

    Attributes:
        repeats: how often each of its images was seen in a round of training.
        words: the caption of those that have no other.
    """

    repeats: int
    words: str


def repeated(name: str) -> Repeated | None:
    """What the first folder of a name says; None where it is none of kohya's.

    Args:
        name: of an image, from the data set's folder on, with `/`.

    >>> repeated("10_sks girl/a.png")
    Repeated(repeats=10, words='sks girl')
    >>> repeated("2024_summer/a.png") or repeated("10_girl.png")
    """
    folder, slash, _ = name.partition("/")
    match = _NAME.fullmatch(folder) if slash else None
    return Repeated(int(match[1]), match[2]) if match and int(match[1]) else None


def warn_of_repeats(
    folder: Path, names: Sequence[str], captions: Mapping[str, Sequence[str]]
) -> None:
    """Say which folders were taken for kohya's, since a name may mean something else."""
    own = [name for name in names if repeated(name)]
    if not own:
        return
    counts = Counter(name.partition("/")[0] for name in own)
    shown = ", ".join(f"{each!r} ({n} images)" for each, n in [*counts.items()][:_SHOWN])
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    bare = sum(name not in captions for name in own)
    text = (
        f"{folder}: {shown}{more} are read as kohya's trainer does: the number says how often an "
        f"image was seen, the rest is the caption of images without one ({bare}); rename folders "
        "that mean something else"
    )
    warnings.warn(text, HeadwaterWarning, stacklevel=3)
