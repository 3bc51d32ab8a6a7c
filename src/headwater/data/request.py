"""What `load_dataset` is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from headwater.data.folders.listing import Listing, list_folder
from headwater.errors import DatasetError, first_line


@dataclass(frozen=True)
class Request:
    """A source, as it was given, and which part of it is wanted.

    Without `captions` folders and parquet files leave them unread. `trigger` is what a trainer put
    before each of them.
    """

    source: str | os.PathLike[str]
    split: str = "train"
    image_column: str | None = None
    caption_column: str | None = None
    captions: bool = True
    trigger: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """What was given besides the source, but for what is taken anyway."""
        given = {
            "split": None if self.split == "train" else self.split,
            "image_column": self.image_column,
            "caption_column": self.caption_column,
            "trigger": self.trigger or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    @cached_property
    def path(self) -> Path:
        """The source as a place on disk, absolute, whether anything is there or not."""
        try:
            return Path(self.source).expanduser().resolve()
        except (RuntimeError, OSError, ValueError) as error:  # a home of nobody, a loop of links
            raise DatasetError(f"{str(self.source)!r} is no path: {first_line(error)}") from error

    @cached_property
    def listing(self) -> Listing:
        """The files in the folder `path`."""
        return list_folder(self.path)
