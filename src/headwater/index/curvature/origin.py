"""A curvature that was fitted to the images of another index, and taken over with its rows.

Rows in one metric stay what they are when images come, so that only those of new images have to be
computed, in the same metric. What is lost: the new images had no part in the curvature, and images
that are gone still have theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headwater.errors import StoreError
from headwater.storage.manifest import Manifest

FITTED = "fitted"  # what `data` of `index.json` has of it


@dataclass(frozen=True)
class Origin:
    """The images that a curvature was fitted to.

    Attributes:
        fingerprint: of the data set.
        rows: images in that.
        left: how many of those that it was fitted to are among the index's; the fewest it can be,
            where it was taken over more than once and images went.
        gone: how many are not, since they were removed, or are not there any more as they were.

    >>> Origin("cd" * 32, rows=70, left=67, gone=3).line(71)
    'fitted to 67 of the 71 images, and to images that are not among them: 3'
    """

    fingerprint: str
    rows: int
    left: int
    gone: int

    def line(self, images: int) -> str:
        """In words, for an index of so many images."""
        gone = f", and to images that are not among them: {self.gone:,}" if self.gone else ""
        return f"fitted to {self.left:,} of the {images:,} images{gone}"

    def warning(self, images: int) -> str:
        """What is to be said of it at once, in a line; "" where nothing is."""
        few = "fewer than a half" if 2 * self.left < images else ""
        gone = "it keeps a trace of what is gone" if self.gone else ""
        why = " and ".join(filter(None, (few, gone)))
        mend = "leave out --reuse to fit it anew"
        return f"the curvature is {self.line(images)} ({why}): {mend}" if why else ""


def origin_of(manifest: Manifest) -> Origin | None:
    """Where the curvature of an index comes from; None where it is of its own images.

    Raises:
        StoreError: `index.json` says what nobody could mean.
    """
    said = manifest.data.get(FITTED)
    if said is None:
        return None
    kinds = {"fingerprint": str, "rows": int, "left": int, "gone": int}
    if not isinstance(said, Mapping) or {n: type(value) for n, value in said.items()} != kinds:
        raise StoreError(
            "index.json does not say to which images its curvature was fitted (data fitted): "
            "build the index again with --overwrite"
        )
    return Origin(**said)
