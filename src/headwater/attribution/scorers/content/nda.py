r"""Nonparametric data attribution (2510.14269): what of a picture is owed to each image's pixels?

    score(i) = sum over patches p of the picture, mean over scales, of what image i owns of p

at one noise level, where `patches.owned` says what an image owns: a posterior over all patches of
all training images. The model is not asked, only its way of cutting pictures to size. Pictures are
seen small, at most `SIDE` pixels a side, which is the size of the paper's; the schedule is that of
its models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwater.attribution.answer.result import leading
from headwater.attribution.resources import Resources
from headwater.attribution.scorers.content.patches import Noisy, Owned, Patches, owned
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scores import Scored
from headwater.data.prefetch import reading
from headwater.errors import QueryError
from headwater.methods.row import Method
from headwater.models.fitting import RESIZE, fitted
from headwater.models.sampling import seeded_noise
from headwater.queries.image import Image
from headwater.queries.pictures.files import read_mask
from headwater.queries.query import Description, Question
from headwater.runtime.progress import ProgressBar

ONCE = "one noise is drawn, by the seed"
# Pixels of the longer side at which pictures are compared: the paper's CIFAR. All pairs of patches
# are, so twice as many cost sixteen times as much.
SIDE = 32
# Of how many images the answer says which patch they own most of.
SHOWN = 10


@dataclass(frozen=True)
class Options:
    """At which noise, and by which patches, pictures are compared: the published command's.

    Args:
        timestep: of 1,000, by the linear schedule of DDPM; the paper tries 100 to 500.
        patch: pixels a side; the paper tries 7 to 21.
        scales: how far apart these lie, see `Patches`; the score is the mean over scales.
        best: how many patches of an image count for each patch of the picture.
        side: pixels of a picture's longer side.
    """

    timestep: int = 100
    patch: int = 7
    scales: tuple[int, ...] = (1, 2)
    best: int = 100
    side: int = SIDE

    @property
    def rates(self) -> tuple[float, float]:
        """(a, s) at the timestep.

        >>> [round(rate, 3) for rate in Options(timestep=500).rates]
        [0.279, 0.96]
        """
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        alpha_bar = (1 - betas).cumprod(0)[self.timestep].item()
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """What each image owns of a picture, or of a part of it.

    Raises:
        MismatchError: the images are not those of the index.
        QueryError: the mask does not fit the picture, or is black all over.
    """
    assert isinstance(query, Image), f"{method.name} takes pictures alone"
    given, picture = Options(), resources.picture(query).image
    seen = _seen(resources, picture, given.side)
    inside = _inside(resources, query, picture, seen)
    found = shares(resources, Shown(_pixels(seen), inside, query.seed), given)
    scores = torch.stack([each.shares for each in found]).mean(0, keepdim=True)
    places = _places(resources, found[0], seen.size)
    facts = {**query.details(), "nda": asdict(given), "patches": places}
    return Scoring(
        dict.fromkeys(options.dampings, Scored(scores)),
        Description(f"of the pixels of {query.title}", facts),
        once=ONCE,
    )


@dataclass(frozen=True)
class Shown:
    """A picture as it is compared.

    Attributes:
        pixels: from -1 to 1.
        inside: numbers of the patches that are asked about, row by row.
        seed: of the noise.
    """

    pixels: Float[Tensor, "c h w"]
    inside: Int[Tensor, " m"]
    seed: int = 0


def shares(resources: Resources, shown: Shown, options: Options) -> list[Owned]:
    """What training images own of a picture, scale by scale.

    Raises:
        MismatchError: the images are not those of the index.
    """
    index, device = resources.index, resources.denoiser.device
    index.require_same_images()
    a, s = options.rates
    noise = seeded_noise(shown.pixels.shape, shown.seed, "nda", options.timestep)
    xt = a * shown.pixels + s * noise
    noisy = Noisy(xt.to(device), a, s, shown.inside.to(device))

    def images() -> Iterator[tuple[int, Tensor]]:
        with reading(index.pictures) as reader:
            places = ProgressBar(index.positions, desc="patches", unit="image")
            for row, place in enumerate(places):
                small = _seen(resources, reader.image(place), options.side)
                yield row, _pixels(small).to(device)

    every = [Patches(options.patch, scale, options.best) for scale in options.scales]
    with torch.inference_mode():
        return [owned(noisy, images, len(index), patches) for patches in every]


# --- pictures as they are compared ----------------------------------------------------------------


def _seen(resources: Resources, image: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """As the model saw it in training, then made small by means of areas."""
    denoiser = resources.denoiser
    (size,) = denoiser.by_size([image])
    image = fitted(image.convert("RGB"), size, denoiser.options.get("resize", RESIZE))
    return seen_small(image, side)


def seen_small(image: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """At most so many pixels a side, each the mean of what it covers."""
    ratio = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * ratio)) for length in image.size)
    return image.resize((width, height), PIL.Image.Resampling.BOX)


def _pixels(image: PIL.Image.Image) -> Float[Tensor, "c h w"]:
    """From -1 to 1."""
    return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1) / 127.5 - 1


def _inside(
    resources: Resources, query: Image, picture: PIL.Image.Image, seen: PIL.Image.Image
) -> Int[Tensor, " m"]:
    """Numbers of the patches whose middle lies inside the question's mask; all without one."""
    every = torch.arange(seen.width * seen.height)
    if query.mask is None:
        return every
    mask = read_mask(query.mask, picture.size)
    small = np.asarray(_seen(resources, mask, max(seen.size)).convert("L"))
    inside = every[torch.from_numpy(small >= 128).flatten()]
    if not len(inside):
        raise QueryError(
            f"--mask {str(query.mask)!r} has no white of a {seen.width}th of the picture's width: "
            "paint what counts in white"
        )
    return inside


def _places(resources: Resources, found: Owned, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Of the images that own most, where in the picture (width, height) each owns most of a patch.

    Places are parts of its width and height, from its upper left.
    """
    best = leading(found.shares.cpu().numpy(), SHOWN).tolist()
    width, height = size
    return [
        {
            "id": resources.index.samples[row].id,
            "x": round((int(found.at[row]) % width + 0.5) / width, 3),
            "y": round((int(found.at[row]) // width + 0.5) / height, 3),
            "owns": round(found.most[row].item(), 4),
        }
        for row in best
    ]
