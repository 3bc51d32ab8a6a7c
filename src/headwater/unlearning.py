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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from headwater import asking, probes
from headwater.asking import Asked
from headwater.batching import BatchSize
from headwater.denoiser import Denoiser
from headwater.drawing import trajectory_noise
from headwater.encoding import encode, reading
from headwater.errors import HeadwaterWarning, MismatchError, NonFiniteError, ParameterError
from headwater.files import keep, read_tensors
from headwater.gradients import TINY, Tape, unit_rms
from headwater.methods import Side
from headwater.network import captions_kept, frozen
from headwater.parameters import select

if TYPE_CHECKING:
    from headwater.index import Index

Result = TypeVar("Result")

# Which weights are changed, the first of these that a model has: keys and values of its
# cross-attention, which bind pictures to words (the paper's choice); those of its self-attention,
# in a model that reads no prompts; everything.
PARAMETERS = ("attn2-kv", r"\.to_[kv](\.|$)", "all")
TIMESTEPS = 4
DRAWS = 32
# On the bundled model (pictures of four concepts, damping 0.1) a step of 0.01, 0.03, 0.05, 0.1
# raises the query's loss by 4%, 13%, 24%, 53%, and that of training images on the whole by 0.05%,
# 0.6%, 1.6%, 6%. At 0.05 the query is clearly forgotten and the rest is not. Of the first ten of
# 400 images 0.62, 0.75, 0.82, 0.88 showed the concept (chance 0.14); a damping of 1, or four steps
# to the same place, gave the same within 0.05.
STEP = 0.05
STEPS = 1
DAMPING = 0.1
FISHER_IMAGES = 256
# How the pictures of a concept are made.
PICTURE_STEPS, GUIDANCE = 25, 5.0

_NOISED = Side("noising", "dsm")


@dataclass(frozen=True)
class Options:
    """How the model is made to forget.

    Args:
        step: how far the weights move, as a share of their own norm.
        steps: in how many steps of gradient ascent they go there.
        damping: added to F, as a multiple of its mean.
        timesteps: at how many of the index's timesteps losses are taken.
        images: training images that F is the mean over.
        parameters: which weights, as `--parameters`; None for the first of `PARAMETERS`.
        seed: of the noise and of the choice of images.
    """

    step: float = STEP
    steps: int = STEPS
    damping: float = DAMPING
    timesteps: int = TIMESTEPS
    images: int = FISHER_IMAGES
    parameters: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Clean latents, their prompts' conditions, and what their noise is drawn for."""

    x0: Float[Tensor, "b c h w"]
    condition: Float[Tensor, "b l e"] | None
    ids: tuple[str, ...]

    def part(self, rows: Sequence[int]) -> Batch:
        """Some of it."""
        chosen = list(rows)
        condition = None if self.condition is None else self.condition[chosen]
        return Batch(self.x0[chosen], condition, tuple(self.ids[row] for row in chosen))


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
        return probes.sample(
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


# --- losses and their gradients -------------------------------------------------------------------


@dataclass(frozen=True)
class Loss:
    """The mean squared error of the predicted noise, at these timesteps."""

    denoiser: Denoiser
    timesteps: tuple[int, ...]
    seed: int = 0

    def asked(self, batch: Batch) -> Iterator[Asked]:
        """The prediction at each timestep, its gradient and its error."""
        return asking.about_images(
            self.denoiser,
            _NOISED,
            batch.x0,
            batch.condition,
            self.timesteps,
            ids=batch.ids,
            seed=self.seed,
        )


def losses(loss: Loss, batch: Batch) -> Float[Tensor, " b"]:
    """The loss of each sample."""
    network = loss.denoiser.network
    # A path asks for a graph; inference mode does without, in two thirds of the time.
    with frozen(network), captions_kept(network), torch.inference_mode():
        return torch.stack([_error(asked) for asked in loss.asked(batch)]).mean(0)


def _error(asked: Asked) -> Tensor:
    assert asked.residual is not None, "noising knows its noise"
    return asked.residual


def gradient_sums(
    loss: Loss,
    layers: Mapping[str, nn.Module],
    batch: Batch,
    of: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> dict[str, Float[Tensor, " d"]]:
    """For each layer the sum over samples and timesteps of `of` a sample's gradient.

    A gradient is that of half the squared error.
    """
    network = loss.denoiser.network
    total: dict[str, Tensor] = {}
    with frozen(network), captions_kept(network), Tape(layers) as tape:
        for eps, delta, _ in loss.asked(batch):
            unit, scale = unit_rms(delta)
            for name, rows in tape.gradients(eps, unit):
                summed = of(rows * scale[:, None]).sum(0)
                total[name] = total[name] + summed if name in total else summed
    return total


def layers_of(network: nn.Module, parameters: str | None = None) -> dict[str, nn.Module]:
    """The layers whose weights are changed.

    Raises:
        ParameterError: `parameters` matches none.
    """
    if parameters is None:
        for each in PARAMETERS[:-1]:
            with suppress(ParameterError):
                return select(network, each)
    return select(network, parameters or PARAMETERS[-1])


# --- forgetting -----------------------------------------------------------------------------------


@contextmanager
def restored(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """These weights may change inside; afterwards they are what they were, bit for bit."""
    kept = [(weight, weight.detach().clone()) for weight in _weights(layers)]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


def _weights(layers: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    return [weight for layer in layers.values() for weight in layer.parameters(recurse=False)]


def forget(
    loss: Loss,
    layers: Mapping[str, nn.Module],
    target: Batch,
    fisher: Mapping[str, Float[Tensor, " d"]],
    options: Options,
    batch_size: int | None = None,
) -> None:
    """Move the weights uphill on the target's loss; call it inside `restored`.

    Raises:
        NonFiniteError: the loss has no slope, or it is NaN.
    """
    length = torch.stack([weight.detach().float().norm() for weight in _weights(layers)]).norm()
    for _ in range(options.steps):
        parts = _over(
            BatchSize(batch_size, device=loss.denoiser.device),
            range(len(target.ids)),
            lambda rows: gradient_sums(loss, layers, target.part(rows)),
            "unlearning",
        )
        uphill = direction(_added(parts), fisher, options.damping)
        move(layers, uphill, options.step / options.steps * length.item())


def direction(
    gradient: Mapping[str, Float[Tensor, " d"]],
    fisher: Mapping[str, Float[Tensor, " d"]],
    damping: float,
) -> dict[str, Float[Tensor, " d"]]:
    """F^-1 g, at unit length over all layers.

    Raises:
        NonFiniteError: g is zero or NaN.
    """
    mean = sum(f.sum() for f in fisher.values()) / sum(f.numel() for f in fisher.values())
    scaled = {
        name: g / (fisher[name].to(g) + damping * mean).clamp_min(TINY)
        for name, g in gradient.items()
    }
    length = torch.stack([part.norm() for part in scaled.values()]).norm()
    if not 0 < length < float("inf"):
        raise NonFiniteError(
            "the query's denoising loss has a zero, infinite or NaN gradient, so there is nothing "
            "to unlearn: compute in float32 if the model ran in half precision"
        )
    return {name: part / length for name, part in scaled.items()}


@torch.no_grad()
def move(
    layers: Mapping[str, nn.Module], way: Mapping[str, Float[Tensor, " d"]], distance: float
) -> None:
    """Add `distance * way` to the weights."""
    for name, part in way.items():
        weights = list(layers[name].parameters(recurse=False))
        for weight, change in zip(weights, part.split([w.numel() for w in weights]), strict=True):
            weight.add_((distance * change).reshape(weight.shape).to(weight.dtype))


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
    _require_same_images(index)
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
    among = index.recipe.timesteps or probes.evenly_spaced(10, len(index.denoiser.alpha_bar))
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

        return torch.cat(list(_over(batch, range(len(index)), compute, title)))


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

    total = _added(_over(batch, sorted(rows), compute, "Fisher information"))
    return {name: (sum_ / len(rows) / len(loss.timesteps)).cpu() for name, sum_ in total.items()}


def _training_batch(
    index: Index, image: Callable[[int], Image.Image], rows: Sequence[int]
) -> Batch:
    samples = [index.samples[row] for row in rows]
    images = [image(index.positions[row]) for row in rows]
    encoded = encode(index.denoiser, images, [sample.caption for sample in samples])
    return Batch(*encoded, tuple(sample.id for sample in samples))


def _require_same_images(index: Index) -> None:
    """Refuse images that have moved to other rows since.

    Raises:
        MismatchError: so they have.
    """
    there = dict(enumerate(sample.id for sample in index.training_set.samples))
    for position, sample in zip(index.positions, index.samples, strict=True):
        if there.get(position) != sample.id:
            raise MismatchError(
                f"{index.training_set.source} is not what {index.path} was built from, "
                f"{sample.id!r} is not at row {position}: build the index again"
            )


def _over(
    batch: BatchSize,
    rows: Sequence[int],
    compute: Callable[[Sequence[int]], Result],
    title: str,
) -> Iterator[Result]:
    """Results of `compute` batch by batch, with a bar."""
    with tqdm(total=len(rows), desc=title, unit="image", delay=2, leave=False) as bar:
        for count, result in batch.over(rows, lambda part: (len(part), compute(part))):
            bar.update(count)
            yield result


def _added(parts: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    total = next(parts)
    for part in parts:
        total = {name: total[name] + part[name] for name in total}
    return total


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
