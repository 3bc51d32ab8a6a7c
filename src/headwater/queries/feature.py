"""A feature that was computed elsewhere: which training images have rows like it?

The published Concept-TRAK code leaves one of each concept (`concept_grad.npy`), and so does
`--layout concept-trak`. It says something only to an index that was projected alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import NonFiniteError, QueryError
from headwater.queries.query import Name, Question
from headwater.storage.arrays import open_rows, row_blocks
from headwater.storage.files import sha256_of


@dataclass(frozen=True)
class Feature(Question):
    """Which training images push the model where this feature points?

    Args:
        file: `.npy`, [k] or [q, k], with a header or bare float32. Several rows are draws of one
            question. Its sign is that of the gradient of a loss, as of an index's rows: then a
            positive score is a proponent.

    >>> Feature("results/concept_grad.npy").title
    'concept_grad'
    """

    file: str | Path
    prompt: str = ""
    seed: int = 0
    draws: int | None = 1

    kind = "feature"

    @property
    def title(self) -> str:
        """The file's name, without its end."""
        return Path(self.file).stem

    def name(self) -> Name:
        """As it stands in a sentence."""
        return Name(f"the feature of {Path(self.file).name}", False)

    def facts(self) -> Mapping[str, Any]:
        """Its own entries of the JSON answer."""
        return {"title": self.title, "file": str(self.file)}

    def likeness(self) -> str:
        """A feature is like no picture and no words.

        Raises:
            QueryError: always.
        """
        raise QueryError("a feature that is given is like no picture: leave --candidates out")

    def rows(self, dim: int) -> Float[Tensor, "q k"]:
        """What is in the file.

        Raises:
            StoreError: it cannot be read, or its rows are not of `dim` features.
            NonFiniteError: one is NaN, infinite, or all zero.
        """
        rows = torch.cat(list(row_blocks(open_rows(Path(self.file), dim))))
        if not rows.isfinite().all() or not rows.any(1).all():
            raise NonFiniteError(f"{self.file} holds NaN, infinities or a row of zeros")
        return rows

    def digest(self) -> str:
        """A SHA-256 of the file, in hex."""
        return sha256_of(Path(self.file))

    def picture_beside(self) -> PIL.Image.Image | None:
        """The `query.png` that the published code leaves beside it; None where there is none."""
        try:
            with PIL.Image.open(Path(self.file).parent / "query.png", formats=["PNG"]) as png:
                return png.convert("RGB")
        except OSError:
            return None
