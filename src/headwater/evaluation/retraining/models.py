"""Small diffusion models: made from a configuration, trained on any rows of a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from headwater.data.training_set import TrainingSet, every_caption
from headwater.errors import ModelError
from headwater.evaluation.retraining.config import WEIGHTS, ModelConfig
from headwater.evaluation.retraining.trainer import FitOptions, Loss, fit
from headwater.models.denoiser import Denoiser
from headwater.models.schedule import TARGETS


def save_pipeline(pipe: Any, out: Path) -> None:
    """Save it from the CPU, without the names of the folders that its parts were loaded from."""
    pipe.to("cpu").save_pretrained(out)
    for path in [out / "model_index.json", *out.glob("*/config.json")]:
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")


@dataclass(frozen=True)
class EncodedData:
    """A data set as a model is trained on it.

    Attributes:
        x0: latents.
        tokens: of each picture's caption, or captions, and at last of the empty one. None where
            the model reads no captions.
        counts: captions of each picture; None where each has one.
    """

    x0: Float[Tensor, "n c h w"]
    tokens: Int[Tensor, "m l"] | None
    counts: Int[Tensor, " n"] | None = None

    def take(self, rows: Sequence[int]) -> EncodedData:
        """The same of these pictures, in this order."""
        index, tokens, counts = torch.as_tensor(rows), self.tokens, self.counts
        if tokens is None:
            return EncodedData(self.x0[index], None)
        if counts is None:
            return EncodedData(self.x0[index], torch.cat([tokens[index], tokens[-1:]]))
        own = tokens[:-1].split(counts.tolist())
        taken = torch.cat([*(own[row] for row in index.tolist()), tokens[-1:]])
        return EncodedData(self.x0[index], taken, counts[index])

    def to(self, device: torch.device | str) -> EncodedData:
        """The same on another device; `counts` stay, by which captions are drawn on the CPU."""
        tokens = self.tokens
        there = None if tokens is None else tokens.to(device)
        return EncodedData(self.x0.to(device), there, self.counts)


class TrainingBatch(NamedTuple):
    """What a step of training is given by chance.

    Attributes:
        rows: of the pictures.
        t: timesteps.
        eps: noise.
        captions: rows of tokens: of each picture one of its captions, or the empty one.
        mirrored: which pictures are.
    """

    rows: Int[Tensor, " b"]
    t: Int[Tensor, " b"]
    eps: Float[Tensor, "b c h w"]
    captions: Int[Tensor, " b"]
    mirrored: Bool[Tensor, " b"]


@dataclass(frozen=True)
class NoiseSchedule:
    """How much noise a timestep has, and how much its loss counts.

    Attributes:
        weight: a name of `WEIGHTS`.
    """

    alpha_bar: Float[Tensor, " t"]
    weight: str = "even"


def new_pipeline(config: ModelConfig, seed: int) -> Any:
    """The pipeline that a configuration describes, with random weights of this seed.

    Raises:
        ModelError: no network or text encoder can be made of it, or the base cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return _build(config)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"no model can be made of the configuration's unet and text_encoder: {error}"
            ) from None


def _build(config: ModelConfig) -> Any:
    if not config.base:
        scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
        return DDIMPipeline(UNet2DModel(**(config.unet or {})), scheduler)
    pipe = Denoiser.load(config.base, "cpu").pipe
    if config.unet is not None:
        pipe.unet = type(pipe.unet).from_config({**pipe.unet.config, **config.unet})
    if isinstance(config.text_encoder, Mapping):
        kind = type(pipe.text_encoder)
        changed = {**pipe.text_encoder.config.to_dict(), **config.text_encoder}
        pipe.text_encoder = kind(type(pipe.text_encoder.config).from_dict(changed))
    return pipe


def encode_data(denoiser: Denoiser, data: TrainingSet, batch: int = 50) -> EncodedData:
    """Latents and tokens of a data set."""
    rows = range(len(data))
    bar = tqdm(rows[::batch], desc="encoding", unit="batch", delay=2, leave=False)
    parts = [
        denoiser.encode_images([data.image(row) for row in rows[start : start + batch]]).cpu()
        for start in bar
    ]
    captions = every_caption(data.samples)
    tokens = tokenize_captions(denoiser.pipe, captions)
    counts = torch.tensor([len(sample.all_captions) for sample in data.samples])
    several = tokens is not None and len(captions) > len(data)
    return EncodedData(torch.cat(parts), tokens, counts if several else None)


def tokenize_captions(pipe: Any, captions: Sequence[str]) -> Int[Tensor, "n1 l"] | None:
    """Tokens of the captions, and of the empty one at the end; None of a pipeline without text."""
    tokenizer = pipe.components.get("tokenizer")
    if tokenizer is None:
        return None
    texts = [*captions, ""]
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def train(
    pipe: Any,
    data: EncodedData,
    config: ModelConfig,
    work: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> None:
    """Train the pipeline's network, and its text encoder if the configuration has one, in place.

    Two runs with one seed see the same batches, noise and dropouts. A run that was stopped goes on
    from the last checkpoint in the folder `work`.
    """
    data = data.to(device)
    learned = {"unet": pipe.unet.to(device, memory_format=torch.channels_last)}
    if data.tokens is not None:
        pipe.text_encoder.to(device).requires_grad_(config.text_encoder is not None)
        if config.text_encoder is not None:
            learned["text_encoder"] = pipe.text_encoder
    alpha_bar = pipe.scheduler.alphas_cumprod.to(device)
    begun = 0
    for number, phase in enumerate(config.phases):
        noise = NoiseSchedule(alpha_bar, phase.weight)
        fit(
            nn.ModuleDict(learned),
            partial(draw_batch, data, len(alpha_bar), config, phase.batch),
            _loss_of(pipe, data, noise),
            work / f"{phase.name}-{number}.safetensors",
            FitOptions(
                phase.steps,
                phase.learning_rate,
                seed,
                config.ema_decay,
                stop=phase.stop,
                begun=begun,
            ),
        )
        begun += phase.last
    pipe.unet.to(memory_format=torch.contiguous_format)


def _loss_of(pipe: Any, data: EncodedData, noise: NoiseSchedule) -> Loss:
    return lambda *drawn: denoising_loss(pipe, data, noise, TrainingBatch(*drawn))


def draw_batch(
    data: EncodedData, steps: int, config: ModelConfig, batch: int, generator: torch.Generator
) -> TrainingBatch:
    """A batch by chance.

    Args:
        steps: of the noise schedule.
    """
    rows = torch.randint(len(data.x0), (batch,), generator=generator)
    t = torch.randint(steps, (batch,), generator=generator)
    eps = torch.randn(batch, *data.x0.shape[1:], generator=generator)
    dropped = torch.rand(batch, generator=generator) < config.caption_dropout
    mirrored = torch.rand(batch, generator=generator) < (0.5 if config.flip else 0)
    empty = len(data.x0) if data.counts is None else int(data.counts.sum())
    captions = _draw_captions(data, rows, generator).masked_fill(dropped, empty)
    return TrainingBatch(rows, t, eps.to(data.x0.dtype), captions, mirrored)


def _draw_captions(
    data: EncodedData, rows: Int[Tensor, " b"], generator: torch.Generator
) -> Int[Tensor, " b"]:
    """For each picture the row of its caption's tokens; of several, one by chance."""
    counts = data.counts
    if counts is None:
        return rows
    drawn = (torch.rand(len(rows), generator=generator) * counts[rows]).long()
    return (counts.cumsum(0) - counts)[rows] + drawn


def denoising_loss(
    pipe: Any, data: EncodedData, noise: NoiseSchedule, batch: TrainingBatch
) -> Float[Tensor, ""]:
    """Weighted mean of (target - prediction)^2 over a batch.

    The target is what the pipeline's scheduler takes its predictions for: eps, v or x0.
    """
    x0 = data.x0[batch.rows]
    x0 = torch.where(batch.mirrored.view(-1, 1, 1, 1), x0.flip(-1), x0)
    a = noise.alpha_bar[batch.t].view(-1, 1, 1, 1)
    xt = a.sqrt() * x0 + (1 - a).sqrt() * batch.eps
    if data.tokens is None:
        predicted = pipe.unet(xt, batch.t).sample
    else:
        words = pipe.text_encoder(data.tokens[batch.captions])[0]
        predicted = pipe.unet(xt, batch.t, words).sample
    kind = pipe.scheduler.config.get("prediction_type", "epsilon")
    p, q = TARGETS[kind](a.sqrt(), (1 - a).sqrt())
    error = (predicted - (p * x0 + q * batch.eps)).square().mean((1, 2, 3))
    return (WEIGHTS[noise.weight](noise.alpha_bar[batch.t]) * error).mean()
