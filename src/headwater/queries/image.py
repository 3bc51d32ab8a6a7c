"""Questions about a picture: one that the model makes from a prompt and a seed, or a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from PIL import ImageOps
from torch import Tensor

from headwater.data.images import on_black, read_image
from headwater.errors import QueryError
from headwater.features.extractor import Extractor
from headwater.features.objectives import Asked, about_images, about_prompt
from headwater.features.spec import DRAWS, Side
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture, draw
from headwater.models.schedule import evenly_spaced
from headwater.queries.draws import _condition
from headwater.queries.query import require_draws
from headwater.storage.files import sha256_of


@dataclass(frozen=True)
class Image:
    """Which training images taught the model this picture, or a part or a step of it?

    Args:
        prompt: what the picture is made from; of a file, what it is a picture of.
        file: a picture to ask about, instead of one made from the prompt and the seed.
        mask: a picture of the same size, white where it counts, black where not.
        step: a timestep of the trajectory that makes the picture; scores are then of that step.
        draws: of noise; None takes as many as a stable top ten needs.
        seed: of the picture and of the draws.
        guidance: classifier-free guidance scale of the picture.
        steps: of DDIM, in making the picture.

    Raises:
        QueryError: neither prompt nor file, or a step that the trajectory has not.
    """

    prompt: str = ""
    file: str | Path | None = None
    mask: str | Path | None = None
    step: int | None = None
    draws: int | None = DRAWS
    seed: int = 0
    guidance: float = 5.0
    steps: int = 50

    def __post_init__(self) -> None:
        require_draws(self.draws)
        if self.step is not None and self.file is not None:
            raise QueryError(
                "--step is of the making of a picture, and a file was made elsewhere: give "
                "--prompt and --seed instead of the file"
            )

    @property
    def kind(self) -> str:
        """Which of the kinds of question it is."""
        if self.step is not None:
            return "step"
        return "image" if self.mask is None else "patch"

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        what = "the picture" if self.mask is None else "the part inside the mask"
        return what if self.step is None else f"{what} at step {self.step}"

    @property
    def description(self) -> str:
        """How it is asked, to go on from "asked"."""
        return f"of {self.title}"

    def details(self) -> dict[str, Any]:
        """The same for provenance."""
        made = {"picture": self.prompt, "guidance": self.guidance, "steps": self.steps}
        return {
            **(made if self.file is None else {}),
            **digests(self.file, self.mask),
            "prompt": self.prompt,
            "step": self.step,
        }

    def contents(self) -> list[str]:
        """sha256 of the files that it is about, wherever they lie."""
        found = digests(self.file, self.mask)
        return [value for name, value in found.items() if name.endswith("sha256")]


def opened(denoiser: Denoiser, file: str | Path) -> Picture:
    """The picture in a file, encoded.

    Raises:
        QueryError: it is missing or no picture.
    """
    image = read_image(file)
    return Picture(image, denoiser.encode_images([image]).to(denoiser.latent_dtype))


def digests(file: str | Path | None, mask: str | Path | None) -> dict[str, str]:
    """Paths and checksums of the files that a question is about, for provenance."""
    given = {"picture": file, "mask": mask}
    return {
        name: value
        for part, path in given.items()
        if path is not None
        for name, value in ((part, str(path)), (f"{part} sha256", sha256_of(Path(path))))
    }


def picture_of(denoiser: Denoiser, query: Image) -> Picture:
    """The picture that is asked about.

    Raises:
        QueryError: neither file nor prompt, or an unreadable file.
    """
    if query.file is not None:
        return opened(denoiser, query.file)
    if denoiser.conditional and not query.prompt:
        raise QueryError("give a picture: a file, or --prompt and --seed to make one")
    return draw(denoiser, query.prompt, query.seed, query.guidance, query.steps)


def require_step(denoiser: Denoiser, step: int, steps: int) -> None:
    """Refuse a timestep that a trajectory of so many steps does not pass.

    Raises:
        QueryError: names the nearest one.
    """
    passed = evenly_spaced(steps, len(denoiser.alpha_bar))
    if step not in passed:
        nearest = min(passed, key=lambda t: abs(t - step))
        raise QueryError(
            f"--step {step} is not a step of the trajectory, which goes from {passed[-1]} to "
            f"{passed[0]} in {steps}: the nearest is {nearest}"
        )


def latent_mask(
    denoiser: Denoiser, file: str | Path, image: PIL.Image.Image
) -> Float[Tensor, "1 1 h w"]:
    """A mask of the picture brought to latent size by area, from 0 to 1.

    Raises:
        QueryError: unreadable, of another size than the picture, or black all over.
    """
    mask = read_image(file, on_black).convert("L")
    if mask.size != image.size:
        raise QueryError(
            f"--mask {str(file)!r} is {mask.width}x{mask.height}, the picture is "
            f"{image.width}x{image.height}: paint it over the picture itself"
        )
    height, width = denoiser.image_size
    fitted = np.asarray(ImageOps.fit(mask, (width, height)), np.float32) / 255
    pixels = torch.from_numpy(fitted)[None, None]
    whole = torch.nn.functional.adaptive_avg_pool2d(pixels, denoiser.latent_shape[1:])
    if not whole.any():
        raise QueryError(f"--mask {str(file)!r} is black all over: paint what counts in white")
    return whole.to(denoiser.device, denoiser.latent_dtype)


@dataclass(frozen=True)
class PictureDrawer:
    """A method's own question about a picture, or about clean latents that its making aimed at.

    `targets` are (x0, timesteps): the picture at the index's timesteps, or x0hat of each step at
    that step alone.
    """

    title: str
    side: Side
    targets: tuple[tuple[Float[Tensor, "1 c h w"], tuple[int, ...]], ...]
    digest: str
    prompt: str
    seed: int
    mask: Float[Tensor, "1 1 h w"] | None = None
    inversion_guidance: float = 1.0

    @property
    def limit(self) -> int | None:
        """An inversion draws no noise."""
        return 1 if self.side.path == "inversion" else None

    def key(self, draws: range) -> Mapping[str, Any]:
        """The picture goes by its digest."""
        mask = None if self.mask is None else self.mask.flatten().tolist()
        steps = [timesteps for _, timesteps in self.targets]
        return {
            "type": "part" if self.side.delta == "concept" else "picture",
            "side": [self.side.path, self.side.delta],
            "picture": self.digest,
            "timesteps": steps,
            "prompt": self.prompt,
            "seed": self.seed,
            "mask": mask,
        }

    def probes(self, machine: Extractor) -> int:
        """One at each timestep of each target."""
        return sum(len(timesteps) for _, timesteps in self.targets)

    def asked(self, machine: Extractor, draws: Sequence[int]) -> Iterator[Asked]:
        """The side's delta at its probes of each target."""
        denoiser, count = machine.denoiser, len(draws)
        condition = denoiser.encode_captions([self.prompt] * count)
        common = {
            "ids": [f"query|{self.seed}|{draw}" for draw in draws],
            "seed": machine.seed,
            "mask": self.mask,
        }
        empty = _condition(denoiser, [""] * count) if self.side.delta == "concept" else None
        for x0, timesteps in self.targets:
            x0 = x0.expand(count, -1, -1, -1)
            if empty is not None and condition is not None:
                yield from about_prompt(denoiser, x0, condition, empty, timesteps, **common)
            else:
                yield from about_images(
                    denoiser,
                    self.side,
                    x0,
                    condition,
                    timesteps,
                    inversion_guidance=self.inversion_guidance,
                    **common,
                )
