"""Candidates: of all training images only those most similar to the query compete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headwater.data.images import read_image
from headwater.errors import QueryError
from headwater.features.embeddings import latents
from headwater.index.index import Index
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.queries.local_concept import Local
from headwater.queries.query import Question
from headwater.storage.files import keep, read_tensors


def _nearest(index: Index, query: Question, candidates: str) -> list[int]:
    """Rows of the images most like the picture that is asked about, or else like the words."""
    image = None
    if query.kind == "preference":
        raise QueryError(
            "--candidates are like a picture or words, and a preference is between many pictures: "
            "leave it out"
        )
    if isinstance(query, Image):
        image = index.picture(query).image
    elif isinstance(query, Local):
        image = read_image(query.file)
    words = query.concept if isinstance(query, Concept) else query.title
    return Nearest(index, words, image)(candidates)


# --- candidates -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nearest:
    """The training images most similar to a query, for "clip:COUNT" or "pixel:COUNT"."""

    index: Index
    text: str | None = None
    image: PIL.Image.Image | None = None

    def __call__(self, candidates: str) -> list[int]:
        """Index rows, the nearest first, by cosine.

        Raises:
            QueryError: another form than "clip:COUNT" or "pixel:COUNT", or pixels of a text.
        """
        kind, _, count = candidates.partition(":")
        if kind not in ("clip", "pixel") or not count.isdecimal() or int(count) < 1:
            raise QueryError(f"--candidates {candidates!r} is neither clip:COUNT nor pixel:COUNT")
        if kind == "pixel":
            if self.image is None:
                raise QueryError("--candidates pixel:COUNT needs a picture: give clip:COUNT")
            embed: Any = partial(latents, self.index.denoiser)
            own, name = embed([self.image]), self.index.denoiser.encoders_fingerprint()
        else:
            clip = self.index.clip()
            embed, name = clip.images, clip.fingerprint()
            own = clip.texts([self.text or ""]) if self.image is None else embed([self.image])
        rows = embedded(self.index, embed, f"{kind}-{name[:32]}")
        cosine = torch.nn.functional.cosine_similarity(rows, own.float().cpu())
        return cosine.topk(min(int(count), len(rows))).indices.tolist()


def embedded(index: Index, embed: Callable, name: str) -> Float[Tensor, "n k"]:
    """Every training image of an index embedded; kept in the index.

    Raises:
        DatasetError, MismatchError: the images are not where they were, or not the same.
    """
    index.require_same_images()
    path = index.path / "similarity" / f"{name}.safetensors"
    kept = read_tensors(path)
    if kept is None or len(kept["rows"]) != len(index):
        made = []
        bar = tqdm(index.positions, desc="embedding", unit="image", delay=2, leave=False)
        for part in batched(bar, 32):
            made.append(embed([index.training_set.image(row) for row in part]).float().cpu())
        kept = {"rows": torch.cat(made)}
        keep(path, kept, {})
    return kept["rows"]


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last may be shorter."""
    items = iter(items)
    while part := list(islice(items, size)):
        yield part
