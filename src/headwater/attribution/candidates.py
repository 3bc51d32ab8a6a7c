"""Candidates: of all training images only those most similar to the query compete.

Or, of a concept, those in which the model sees it most surely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.content.presence import presence
from headwater.errors import QueryError
from headwater.features.embeddings import latents
from headwater.queries.concept import Concept
from headwater.queries.outputs.output import Output
from headwater.queries.query import Question
from headwater.runtime.progress import ProgressBar
from headwater.storage import cache

KINDS = ("clip", "pixel", "presence")
BATCH = 32  # images embedded at a time

Embed = Callable[[Sequence[PIL.Image.Image]], Float[Tensor, "b k"]]


def nearest_rows(
    resources: Resources, query: Question, candidates: str, among: Sequence[int] | None = None
) -> list[int]:
    """Index rows of the images most similar to a query, the nearest first.

    Args:
        candidates: "clip:COUNT" or "pixel:COUNT", by cosine, or "presence:COUNT".
        among: the rows that they are chosen from; all by default.

    Raises:
        QueryError: another form, pixels of words, presence of anything but a concept, or a query
            that nothing can be like.
        MethodError: presence, and the model reads no prompts.
        DatasetError, MismatchError: the images are not where they were, or not the same.
    """
    kind, _, count = candidates.partition(":")
    if kind not in KINDS or not count.isdecimal() or int(count) < 1:
        forms = ", ".join(f"{each}:COUNT" for each in KINDS)
        raise QueryError(f"--candidates {candidates!r} is none of {forms}")
    if kind == "presence":
        return _first(_presence(resources, query), int(count), among)
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
    return _first(cosine, int(count), among)


def _first(likeness: Float[Tensor, " n"], count: int, among: Sequence[int] | None) -> list[int]:
    rows = torch.arange(len(likeness)) if among is None else torch.tensor(among)
    return rows[likeness[rows].topk(min(count, len(rows))).indices].tolist()


def _presence(resources: Resources, query: Question) -> Float[Tensor, " n"]:
    asked = query.slider if isinstance(query, Output) else query
    if not isinstance(asked, Concept):
        raise QueryError(
            f"--candidates presence:COUNT is of words, and {query.title!r} is none: give clip:COUNT"
        )
    return presence(resources, asked)


def embed_all(resources: Resources, embed: Embed, facts: dict[str, str]) -> Float[Tensor, "n k"]:
    """Every training image of an index embedded; kept in the index."""
    index = resources.index
    index.require_same_images()

    def compute() -> cache.Computed:
        rows = []
        bar = ProgressBar(total=len(index), desc="embedding", unit="image")
        for start in range(0, len(index), BATCH):
            positions = index.positions[start : start + BATCH]
            images = [index.pictures.image(position) for position in positions]
            rows.append(embed(images).float().cpu())
            bar.update(len(images))
        return {"rows": torch.cat(rows)}

    of = {"data": index.fingerprint, "rows": len(index), **facts}
    folder, sizes = index.path / "similarity", {"rows": (len(index), None)}
    return cache.remember(folder, of, compute, sizes=sizes).tensors["rows"]


def scored_candidates(
    candidates: Sequence[int] | None, scored: Sequence[int] | None
) -> list[int] | None:
    """The candidates that were scored, or all that were if these are none."""
    if candidates is None or scored is None:
        rows = candidates if scored is None else scored
        return None if rows is None else list(rows)
    inside = set(scored)
    return [row for row in candidates if row in inside] or list(scored)
