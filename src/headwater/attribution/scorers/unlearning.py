r"""Unlearning (Wang et al. 2024): make the model forget the query; which images does that hurt?

    theta' = theta + s ||theta|| u,     u = F^-1 g / ||F^-1 g||,     g = grad loss(query)
    score(i) = loss_i(theta') - loss_i(theta)

F is the diagonal of the Fisher information, the mean of squared per-sample gradients over training
images. To first order score(i) is <grad loss_i, F^-1 g> times a positive constant: an influence
that needs no features, so any index will do. The price is paid by each query: a forward pass of
the network for every training image and timestep (and once as many before the first query), and
the encoding of every image. Noise is the same before and after, and belongs to (seed, id, t).
"""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from headwater.attribution.scorers.natural_gradient import (
    Batch,
    Loss,
    Options,
    added,
    forget,
    gradient_sums,
    in_batches,
    layers_of,
    losses,
    restored,
)
from headwater.data.prefetch import reading
from headwater.errors import HeadwaterWarning, NonFiniteError
from headwater.index.index import Index
from headwater.models.denoiser import Denoiser
from headwater.models.encodings import encode
from headwater.models.sampling import sample
from headwater.models.schedule import evenly_spaced
from headwater.queries.draws import trajectory_noise
from headwater.runtime.batch_size import BatchSize
from headwater.storage.files import keep, read_tensors

DRAWS = 32
# How the pictures of a concept are made.
PICTURE_STEPS, GUIDANCE = 25, 5.0


# --- what is to be forgotten ----------------------------------------------------------------------


def picture(
    denoiser: Denoiser, x0: Float[Tensor, "1 c h w"], prompt: str, seed: int, draws: int
) -> Batch:
    """One picture with its prompt, under several noises."""
    condition = denoiser.encode_captions([prompt] * draws)
    return Batch(x0.expand(draws, -1, -1, -1), condition, _ids(seed, draws))


def pictures_of(denoiser: Denoiser, prompts: Sequence[str], seed: int) -> Batch:
    """Pictures that the model makes of these prompts, each with its own.

    They stand for a concept when the prompts differ in all but the concept.
    """
    empty = denoiser.encode_captions([""])
    condition = denoiser.encode_captions(prompts)
    assert condition is not None and empty is not None, "a model that reads no prompts is refused"

    def make(part: Sequence[int]) -> Tensor:
        return sample(
            denoiser,
            trajectory_noise(denoiser, seed, part),
            condition[list(part)],
            empty.expand(len(part), -1, -1),
            steps=PICTURE_STEPS,
            guidance=GUIDANCE,
        )

    batch = BatchSize(None, device=denoiser.device)
    made = torch.cat(list(batch.over(range(len(prompts)), make)))
    return Batch(made, condition, _ids(seed, len(prompts)))


def _ids(seed: int, draws: int) -> tuple[str, ...]:
    return tuple(f"query|{seed}|{draw}" for draw in range(draws))


# --- the score ------------------------------------------------------------------------------------


def scores(
    index: Index, target: Batch, options: Options | None = None, batch_size: int | None = None
) -> Float[Tensor, "1 n"]:
    """By how much the loss of every training image rises when the model forgets the target.

    The losses before and the Fisher information do not depend on the query: they are computed
    once and kept in the index.

    Args:
        batch_size: images at a time; None finds the largest that memory safely holds.

    Raises:
        MismatchError: the images are not those of the index.
        NonFiniteError: there is nothing to unlearn, or the model broke.
    """
    options = options or Options()
    denoiser = index.denoiser
    index.require_same_images()
    if denoiser.latent_dtype != denoiser.dtype:
        text = f"unlearning moves weights by small steps, which {denoiser.dtype} rounds"
        warnings.warn(text, HeadwaterWarning, stacklevel=2)
    loss = Loss(denoiser, timesteps_of(index, options.timesteps), options.seed)
    layers = layers_of(denoiser.network, options.parameters)
    before = _kept(
        index,
        {"losses": loss.timesteps, "seed": loss.seed},
        lambda: {"losses": training_losses(index, loss, batch_size, "losses before")},
    )["losses"]
    fisher = _kept(
        index,
        {"fisher": loss.timesteps, "seed": loss.seed, "of": list(layers), "n": options.images},
        lambda: fisher_of(index, loss, layers, options.images, batch_size),
    )
    with restored(layers):
        forget(loss, layers, target, fisher, options, batch_size)
        after = training_losses(index, loss, batch_size, "losses after")
    if not after.isfinite().all():
        raise NonFiniteError(f"unlearning broke the model: take a smaller step than {options.step}")
    return (after - before)[None]


def timesteps_of(index: Index, count: int) -> tuple[int, ...]:
    """The middles of `count` equal parts of the index's timesteps, or of ten if it has none."""
    among = index.recipe.timesteps or evenly_spaced(10, len(index.denoiser.alpha_bar))
    count = min(count, len(among))
    return tuple(among[(2 * i + 1) * len(among) // (2 * count)] for i in range(count))


def training_losses(
    index: Index, loss: Loss, batch_size: int | None = None, title: str = "losses"
) -> Float[Tensor, " n"]:
    """The loss of every training image, in index order."""
    batch = BatchSize(batch_size, device=loss.denoiser.device)
    with reading(index.training_set) as reader:

        def compute(rows: Sequence[int]) -> Tensor:
            return losses(loss, _training_batch(index, reader.image, rows)).cpu()

        return torch.cat(list(in_batches(batch, range(len(index)), compute, title)))


def fisher_of(
    index: Index,
    loss: Loss,
    layers: Mapping[str, nn.Module],
    count: int,
    batch_size: int | None = None,
) -> dict[str, Float[Tensor, " d"]]:
    """The mean over some training images and the timesteps of squared per-sample gradients."""
    rows = random.Random(f"fisher|{loss.seed}").sample(range(len(index)), min(count, len(index)))
    batch = BatchSize(batch_size, device=loss.denoiser.device)

    def compute(part: Sequence[int]) -> dict[str, Tensor]:
        of = _training_batch(index, index.training_set.image, part)
        return gradient_sums(loss, layers, of, torch.square)

    total = added(in_batches(batch, sorted(rows), compute, "Fisher information"))
    return {name: (sum_ / len(rows) / len(loss.timesteps)).cpu() for name, sum_ in total.items()}


def _training_batch(
    index: Index, image: Callable[[int], Image.Image], rows: Sequence[int]
) -> Batch:
    samples = [index.samples[row] for row in rows]
    images = [image(index.positions[row]) for row in rows]
    encoded = encode(index.denoiser, images, [sample.caption for sample in samples])
    return Batch(*encoded, tuple(sample.id for sample in samples))


def _kept(
    index: Index, key: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What does not depend on the query: computed once for this model and kept."""
    spec = json.dumps({"unlearning": 1, "model": index.manifest.model["fingerprint"], **key})
    name = hashlib.sha256(spec.encode()).hexdigest()[:32]
    path = index.path / "queries" / f"unlearning-{name}.safetensors"
    kept = read_tensors(path)
    if kept is None:
        kept = compute()
        keep(path, kept, {"spec": spec})
    return kept
