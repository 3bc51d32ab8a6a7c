"""Questions about a picture: one that the model makes from a prompt and a seed, or a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from PIL import ImageOps
from torch import Tensor

from headwater.denoiser import Denoiser
from headwater.errors import QueryError
from headwater.files import sha256_of
from headwater.probes import evenly_spaced, seeded_noise, trajectory
from headwater.queries import DRAWS, require_draws
from headwater.training_set import first_line, to_rgb


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


@dataclass(frozen=True)
class Picture:
    """A picture, its latents, and what it was made from.

    `x0hats` are the clean latents that each step of its making aimed at, by timestep; `noise` is
    where that began. Both are empty for a file.
    """

    image: PIL.Image.Image
    x0: Float[Tensor, "1 c h w"]
    noise: Float[Tensor, "1 c h w"] | None = None
    x0hats: dict[int, Float[Tensor, "1 c h w"]] = field(default_factory=dict)
    guidance: float = 1.0
    steps: int = 0

    def digest(self) -> str:
        """sha256 over the latents and the trajectory."""
        digest = hashlib.sha256()
        for tensor in (self.x0, *self.x0hats.values()):
            digest.update(tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()


@torch.no_grad()
def draw(
    denoiser: Denoiser, prompt: str, seed: int, guidance: float = 5.0, steps: int = 50
) -> Picture:
    """Make a picture by DDIM with classifier-free guidance, and keep its trajectory."""
    noise = seeded_noise(denoiser.latent_shape, seed, "query")[None]
    condition, unconditional = (denoiser.encode_captions([text]) for text in (prompt, ""))
    start = noise.to(denoiser.device, denoiser.latent_dtype)
    path = trajectory(denoiser, start, condition, unconditional, steps=steps, guidance=guidance)
    x0hats = dict(path)
    x0 = x0hats[min(x0hats)]
    return Picture(denoiser.decode(x0)[0], x0, noise, x0hats, guidance, steps)


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


def on_black(image: PIL.Image.Image) -> PIL.Image.Image:
    """A mask as RGB: what was not painted, and so is transparent, does not count."""
    if image.has_transparency_data:
        image = ImageOps.exif_transpose(image).convert("RGBA")
        black = PIL.Image.new("RGBA", image.size, "black")
        image = PIL.Image.alpha_composite(black, image)
    return to_rgb(image)


def read_image(
    file: str | Path, seen: Callable[[PIL.Image.Image], PIL.Image.Image] = to_rgb
) -> PIL.Image.Image:
    """A picture file as RGB, upright.

    Raises:
        QueryError: it is missing or no picture.
    """
    try:
        with PIL.Image.open(file) as image:
            return seen(image)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        reason = (
            "it is no image" if isinstance(error, PIL.UnidentifiedImageError) else first_line(error)
        )
        raise QueryError(f"cannot read the picture {str(file)!r}: {reason}") from None
