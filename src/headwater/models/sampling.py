"""Pictures that a model makes: DDIM (eta = 0), with guidance, and its trajectory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.models.condition import Condition, joined
from headwater.models.denoiser import Denoiser
from headwater.runtime.progress import ProgressBar


@dataclass(frozen=True)
class Picture:
    """A picture, its latents, and what it was made from.

    `x0hats` are the clean latents that each step of its making aimed at, by timestep; `noise` is
    where that began. Both are empty for a file.
    """

    image: PIL.Image.Image
    x0: Float[Tensor, "1 c *f h w"]
    noise: Float[Tensor, "1 c *f h w"] | None = None
    x0hats: dict[int, Float[Tensor, "1 c *f h w"]] = field(default_factory=dict)
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
    denoiser: Denoiser,
    prompt: str,
    seed: int,
    guidance: float = 5.0,
    steps: int = 50,
    between: Callable[[], object] = lambda: None,
) -> Picture:
    """Make a picture by DDIM with classifier-free guidance, and keep its trajectory.

    Args:
        between: called after each step.
    """
    noise = picture_noise(denoiser, seed)[None]
    condition = denoiser.encode_captions([prompt])
    unconditional = None if guidance == 1 else denoiser.encode_captions([""])
    start = noise.to(denoiser.device, denoiser.latent_dtype)
    path = trajectory(denoiser, start, condition, unconditional, steps=steps, guidance=guidance)
    x0hats = {}
    for t, x0hat in path:
        x0hats[t] = x0hat
        between()
    x0 = x0hats[min(x0hats)]
    return Picture(denoiser.decode(x0)[0], x0, noise, x0hats, guidance, steps)


@torch.no_grad()
def draw_latents(
    denoiser: Denoiser,
    prompts: Sequence[str],
    noise: Float[Tensor, "b c *f h w"],
    *,
    guidance: float,
    steps: int,
) -> Float[Tensor, "b c *f h w"]:
    """Latents of a picture of each prompt, all in one batch, by `draw`'s guidance."""
    start = noise.to(denoiser.device, denoiser.latent_dtype)
    condition = denoiser.encode_captions(prompts)
    empty = None if guidance == 1 else denoiser.encode_captions([""] * len(prompts))
    return sample(denoiser, start, condition, empty, steps=steps, guidance=guidance)


@torch.no_grad()
def guided(
    denoiser: Denoiser, xt: Tensor, t: int, out: Tensor, empty: Condition, guidance: float
) -> Tensor:
    """Classifier-free guidance: out("") + guidance (out - out("")), one forward pass."""
    free = denoiser.predict(xt, t, empty)
    return free + guidance * (out - free)


def trajectory(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c *f h w"],
    condition: Condition | None,
    unconditional: Condition | None = None,
    *,
    steps: int = 50,
    guidance: float = 1.0,
) -> Iterator[tuple[int, Float[Tensor, "b c *f h w"]]]:
    """(t, x0hat) of every step of DDIM (eta = 0, trailing timesteps), noisiest first.

    With guidance if it is not 1. The last x0hat is the picture.
    """
    yield from ddim(
        denoiser,
        noise,
        lambda xt, t: steered(denoiser, xt, t, condition, unconditional, guidance),
        steps,
    )


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c *f h w"],
    predict: Callable[[Tensor, int], Tensor],
    steps: int,
) -> Iterator[tuple[int, Float[Tensor, "b c *f h w"]]]:
    """(t, x0hat) of every step, by the denoiser's schedule and out = predict(xt, t).

    With eta = 0 that is Euler's method for a flow.
    """
    timesteps, schedule = denoiser.schedule.evenly_spaced(steps)[::-1], denoiser.schedule
    xt = noise
    bar = ProgressBar(timesteps, desc="picture", unit="step")
    for t, following in zip(bar, [*timesteps[1:], None], strict=True):
        out = predict(xt, t)
        yield t, schedule.clean(out, xt, t)
        if following is not None:
            xt = schedule.moved(out, xt, t, following)


@torch.no_grad()
def steered(
    denoiser: Denoiser,
    xt: Tensor,
    t: int,
    condition: Condition | None,
    unconditional: Condition | None,
    guidance: float,
) -> Tensor:
    """The output; guided if there is an unconditional side and the guidance is not 1.

    Both sides are one batch, as in diffusers' own pipelines: a picture alone leaves a GPU idle.
    """
    if condition is None or unconditional is None or guidance == 1:
        return denoiser.predict(xt, t, condition)
    both = denoiser.predict(torch.cat([xt, xt]), t, joined([condition, unconditional]))
    out, free = both.chunk(2)
    return free + guidance * (out - free)


def sample(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c *f h w"],
    condition: Condition | None,
    unconditional: Condition | None = None,
    *,
    steps: int = 50,
    guidance: float = 1.0,
) -> Float[Tensor, "b c *f h w"]:
    """x0 of a picture made by DDIM: the end of its `trajectory`."""
    steps_of = trajectory(denoiser, noise, condition, unconditional, steps=steps, guidance=guidance)
    return [x0hat for _, x0hat in steps_of][-1]


def picture_noise(denoiser: Denoiser, seed: int) -> Float[Tensor, "c *f h w"]:
    """Where the picture of a seed begins."""
    return seeded_noise(denoiser.latent_shape, seed, "query")


def seeded_noise(shape: Sequence[int], *key: object) -> Tensor:
    """Standard normal noise, float32 on the CPU, that depends on the key alone."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randn(tuple(shape), generator=generator)
