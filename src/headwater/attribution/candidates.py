"""Candidates: of all training images only those most similar to the query compete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headwater.attribution.resources import Resources
from headwater.errors import QueryError
from headwater.features.embeddings import latents
from headwater.queries.query import Question
from headwater.storage import cache

BATCH = 32  # images embedded at a time

Embed = Callable[[Sequence[PIL.Image.Image]], Float[Tensor, "b k"]]


def nearest_rows(resources: Resources, query: Question, candidates: str) -> list[int]:
    """Index rows of the images most similar to a query, the nearest first, by cosine.

    Args:
        candidates: "clip:COUNT" or "pixel:COUNT".

    Raises:
        QueryError: another form, pixels of words, or a query that nothing can be like.
        DatasetError, MismatchError: the images are not where they were, or not the same.
    """
    kind, _, count = candidates.partition(":")
    if kind not in ("clip", "pixel") or not count.isdecimal() or int(count) < 1:
        raise QueryError(f"--candidates {candidates!r} is neither clip:COUNT nor pixel:COUNT")
    like = query.likeness()
    image = None if isinstance(like, str) else resources.picture(like).image
    if kind == "pixel":
        if image is None:
            raise QueryError("--candidates pixel:COUNT needs a picture: give clip:COUNT")
        embed: Embed = partial(latents, resources.denoiser)
        own, by = embed([image]), resources.denoiser.encoders_fingerprint()
    else:
        clip = resources.clip()
        embed, by = clip.images, clip.fingerprint()
        own = clip.texts([str(like)]) if image is None else embed([image])
    rows = embed_all(resources, embed, {"candidates": kind, "by": by})
    cosine = torch.nn.functional.cosine_similarity(rows, own.float().cpu())
    return cosine.topk(min(int(count), len(rows))).indices.tolist()


def embed_all(resources: Resources, embed: Embed, facts: dict[str, str]) -> Float[Tensor, "n k"]:
    """Every training image of an index embedded; kept in the index."""
    index = resources.index
    index.require_same_images()

    def compute() -> cache.Computed:
        rows = []
        bar = tqdm(total=len(index), desc="embedding", unit="image", delay=2, leave=False)
        for start in range(0, len(index), BATCH):
            positions = index.positions[start : start + BATCH]
            images = [index.pictures.image(position) for position in positions]
            rows.append(embed(images).float().cpu())
            bar.update(len(images))
        return {"rows": torch.cat(rows)}

    of = {"data": index.manifest.data["fingerprint"], "rows": len(index), **facts}
    return cache.remember(index.path / "similarity", of, compute).tensors["rows"]
