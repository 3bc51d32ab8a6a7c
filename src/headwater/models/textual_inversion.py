r"""Textual inversion (Gal 2022): one new word that stands for what pictures show.

Every weight stays as it is. Learned is v alone, the embedding of a word that the model does not
know:

    min over v of  E_{t, e} mean of m (out(xt, t, c(v)) - target)^2

with the condition c(v) of a prompt that holds the word, and a mask m where only a part counts.
Each step takes the gradient at one t, at unit length: the loss is largest where the noisy picture
shows its colours anyway, and by itself would hardly teach them to the word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from headwater.gradients.vjp import TINY, unit_rms
from headwater.models.condition import Condition, encoded_once
from headwater.models.denoiser import Denoiser
from headwater.models.families.family import Words
from headwater.models.patches import frozen
from headwater.models.sampling import seeded_noise
from headwater.storage.files import renamed

# The first step, in units of the root mean square of all embeddings. What diffusers' script takes
# for Stable Diffusion 1, 5e-4, is 0.04 of these, for ten times as many steps.
LEARNING_RATE = 0.3
STEPS, BATCH = 400, 4


@dataclass(frozen=True)
class Token:
    """A word that the model does not know, such as "<star>", and its embedding."""

    name: str
    embedding: Float[Tensor, " e"]


def new_name(denoiser: Denoiser, words: str) -> str:
    """A name for a token like these words that the model does not know yet."""
    slug = re.sub(r"\W+", "-", words.lower()).strip("-") or "concept"
    known = _words(denoiser).names()
    names = [f"<{slug}>", *(f"<{slug}-{i}>" for i in range(2, 2 + len(known)))]
    return next(name for name in names if name not in known)


def _words(denoiser: Denoiser) -> Words:
    words = denoiser.family.words
    assert words is not None, "a model that reads no prompts is refused before"
    return words


@torch.no_grad()
def encode(denoiser: Denoiser, token: Token, prompts: Sequence[str]) -> Condition:
    """Conditions for prompts that may hold the token."""
    embedding = token.embedding.to(denoiser.device)

    def again(texts: Sequence[str]) -> Condition:
        with _words(denoiser).reader(token.name, embedding) as read:
            return read(texts)

    condition = encoded_once(prompts, again).to(dtype=denoiser.dtype)
    return denoiser.remembered(condition, prompts, again)


def initial(denoiser: Denoiser, words: str) -> Float[Tensor, " e"]:
    """The mean embedding of the words' tokens, or of all tokens for no words."""
    return _words(denoiser).initial(words).to(denoiser.latent_dtype)


@dataclass(frozen=True)
class Learning:
    """How a token is learned.

    Args:
        init_words: what the search begins from; the mean of all tokens for none.
        steps: of AdamW.
        learning_rate: of AdamW, in units of the root mean square of the model's embeddings; it
            falls to zero, so that the last steps average over noise.
        batch: noises for each step, all at one timestep.
        seed: of noise, timesteps, prompts and the choice of pictures.
        mask: where the loss counts.
    """

    init_words: str = ""
    steps: int = STEPS
    learning_rate: float = LEARNING_RATE
    batch: int = BATCH
    seed: int = 0
    mask: Float[Tensor, "1 1 h w"] | None = None


def learn_token(
    denoiser: Denoiser,
    x0: Float[Tensor, "n c *f h w"],
    name: str,
    prompts: Sequence[str],
    learning: Learning,
    tick: Callable[[float], Any] = lambda loss: None,
) -> Float[Tensor, " e"]:
    """The embedding of `name` under which the model denoises x0 best; nothing else changes.

    Args:
        x0: one picture, or several of the same thing: each noise is then of one of them, by chance.
        name: a word that the model does not know; every prompt holds it.
        prompts: one of them for each step, by chance.
        learning: from where, how long, how fast.
        tick: is told the loss after each step.
    """
    words, steps, seed = _words(denoiser), learning.steps, learning.seed
    rate = learning.learning_rate * words.scale()
    vector = initial(denoiser, learning.init_words).requires_grad_()
    optimizer = torch.optim.AdamW([vector], lr=rate, weight_decay=0.0)
    chance, several = random.Random(seed), len(x0) > 1
    with ExitStack() as stack:
        for part in (denoiser.network, *words.encoders):
            stack.enter_context(frozen(part))
        read = stack.enter_context(words.reader(name, vector))
        for step in range(steps):
            t, prompt = chance.randrange(1, len(denoiser.schedule)), chance.choice(prompts)
            draws = [
                seeded_noise(x0.shape[1:], seed, "token", step, i) for i in range(learning.batch)
            ]
            noise = torch.stack(draws).to(x0)
            # Of one picture nothing is drawn, so that its words stay what they were.
            shown = x0[[chance.randrange(len(x0)) for _ in draws]] if several else x0
            noised = Noised(shown, noise, t, learning.mask)
            loss, gradient = loss_and_gradient(denoiser, vector, read([prompt]), noised)
            vector.grad = gradient / gradient.norm().clamp_min(TINY)
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimizer.step()
            tick(loss)
    return vector.detach()


@dataclass(frozen=True)
class Noised:
    """Pictures, the noise that is added to them at timestep t, and where the error counts."""

    x0: Float[Tensor, "#b c *f h w"]
    noise: Float[Tensor, "b c *f h w"]
    t: int
    mask: Float[Tensor, "1 1 h w"] | None = None


def loss_and_gradient(
    denoiser: Denoiser,
    vector: Float[Tensor, " e"],
    condition: Condition,
    noised: Noised,
) -> tuple[float, Float[Tensor, " e"]]:
    """The mean of m (out - target)^2 over noises and the mask, and its gradient for the vector.

    The error goes back through the network at unit size, so that half precision does not lose it.

    Args:
        condition: of a prompt that holds the word, with its graph to the vector.
    """
    x0, noise, t = noised.x0, noised.noise, noised.t
    condition = condition.to(dtype=denoiser.dtype).repeated(len(noise))
    out = denoiser.predict(denoiser.schedule.noised(x0, noise, t), t, condition)
    mask = torch.ones_like(out) if noised.mask is None else noised.mask.expand_as(out)
    share = mask / mask.sum()
    error = out.detach() - denoiser.schedule.asked(x0, noise, t)
    unit, scale = unit_rms((2 * share * error)[None])
    (gradient,) = torch.autograd.grad(out, vector, unit[0])
    return (share * error.square()).sum().item(), gradient * scale


def save_token(path: Path, token: Token) -> None:
    """Write a file for `pipe.load_textual_inversion(path)` of diffusers, atomically."""
    with renamed(path) as part:
        save_file({token.name: token.embedding.detach().cpu().contiguous()}, part)
