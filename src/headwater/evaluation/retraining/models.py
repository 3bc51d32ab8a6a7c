"""Small diffusion models: made from a configuration, trained on any rows of a data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from headwater.data.training_set import TrainingSet
from headwater.errors import ModelError
from headwater.evaluation.retraining.config import WEIGHTS, ModelConfig
from headwater.evaluation.retraining.trainer import fit
from headwater.models.denoiser import Denoiser


def save_pipeline(pipe: Any, out: Path) -> None:
    """Save it from the CPU, without the names of the folders that its parts were loaded from."""
    pipe.to("cpu").save_pretrained(out)
    for path in [out / "model_index.json", *out.glob("*/config.json")]:
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")


@dataclass(frozen=True)
class Encoded:
    """A data set as a model is trained on it.

    `tokens` has one row more than there are pictures: the empty caption. None where the model
    reads no captions.
    """

    x0: Float[Tensor, "n c h w"]
    tokens: Int[Tensor, "n1 l"] | None


def new_pipeline(config: ModelConfig, seed: int) -> Any:
    """The pipeline that a configuration describes, with random weights of this seed.

    Raises:
        ModelError: no network or text encoder can be made of it, or the base cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return _built(config)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"no model can be made of the configuration's unet and text_encoder: {error}"
            ) from None


def _built(config: ModelConfig) -> Any:
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


def encoded(denoiser: Denoiser, data: TrainingSet, batch: int = 50) -> Encoded:
    """Latents and tokens of a data set."""
    rows = range(len(data))
    bar = tqdm(rows[::batch], desc="encoding", unit="batch", delay=2, leave=False)
    parts = [
        denoiser.encode_images([data.image(row) for row in rows[start : start + batch]]).cpu()
        for start in bar
    ]
    captions = [sample.caption for sample in data.samples]
    return Encoded(torch.cat(parts), tokens_of(denoiser.pipe, captions))


def tokens_of(pipe: Any, captions: Sequence[str]) -> Int[Tensor, "n1 l"] | None:
    """Tokens of the captions, and of the empty one at the end."""
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        return None
    said = tokenizer([*captions, ""], padding="max_length", truncation=True, return_tensors="pt")
    return said.input_ids


def train(
    pipe: Any,
    data: Encoded,
    rows: Sequence[int] | Tensor,
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
    rows = torch.as_tensor(rows)
    tokens = data.tokens
    data = Encoded(
        data.x0[rows].to(device),
        None if tokens is None else torch.cat([tokens[rows], tokens[-1:]]).to(device),
    )
    learned = {"unet": pipe.unet.to(device, memory_format=torch.channels_last)}
    if tokens is not None:
        pipe.text_encoder.to(device).requires_grad_(config.text_encoder is not None)
        if config.text_encoder is not None:
            learned["text_encoder"] = pipe.text_encoder
    alpha_bar = pipe.scheduler.alphas_cumprod.to(device)
    begun = 0
    for number, phase in enumerate(config.phases):
        fit(
            nn.ModuleDict(learned),
            partial(drawn, data, len(alpha_bar), config, phase.batch),
            partial(denoising_loss, pipe, data, alpha_bar, phase.weight),
            work / f"{phase.name}-{number}.safetensors",
            steps=phase.steps,
            stop=phase.stop,
            learning_rate=phase.learning_rate,
            ema_decay=config.ema_decay,
            seed=seed,
            begun=begun,
        )
        begun += phase.last
    pipe.unet.to(memory_format=torch.contiguous_format)


def drawn(
    data: Encoded, steps: int, config: ModelConfig, batch: int, chance: torch.Generator
) -> tuple[Tensor, ...]:
    """What a step of training is given by chance.

    Args:
        steps: of the noise schedule.

    Returns:
        Rows, timesteps, noise, whose caption is dropped, and which pictures are mirrored.
    """
    rows = torch.randint(len(data.x0), (batch,), generator=chance)
    t = torch.randint(steps, (batch,), generator=chance)
    eps = torch.randn(batch, *data.x0.shape[1:], generator=chance)
    dropped = torch.rand(batch, generator=chance) < config.caption_dropout
    mirrored = torch.rand(batch, generator=chance) < (0.5 if config.flip else 0)
    return rows, t, eps.to(data.x0.dtype), dropped, mirrored


def denoising_loss(
    pipe: Any,
    data: Encoded,
    alpha_bar: Float[Tensor, " t"],
    weight: str,
    rows: Int[Tensor, " b"],
    t: Int[Tensor, " b"],
    eps: Float[Tensor, "b c h w"],
    dropped: Bool[Tensor, " b"],
    mirrored: Bool[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Weighted mean of (target - prediction)^2 over what was drawn.

    The target is what the pipeline's scheduler takes its predictions for: eps, v or x0.
    """
    shown = data.x0[rows]
    shown = torch.where(mirrored.view(-1, 1, 1, 1), shown.flip(-1), shown)
    a = alpha_bar[t].view(-1, 1, 1, 1)
    xt = a.sqrt() * shown + (1 - a).sqrt() * eps
    if data.tokens is None:
        predicted = pipe.unet(xt, t).sample
    else:
        said = data.tokens[rows.masked_fill(dropped, len(data.x0))]
        predicted = pipe.unet(xt, t, pipe.text_encoder(said)[0]).sample
    kind = pipe.scheduler.config.get("prediction_type", "epsilon")
    error = (predicted - TARGETS[kind](shown, eps, a)).square().mean((1, 2, 3))
    return (WEIGHTS[weight](alpha_bar[t]) * error).mean()


# Kind of prediction -> what it should be: of x0, eps and alpha_bar.
TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda x0, eps, a: eps,
    "v_prediction": lambda x0, eps, a: a.sqrt() * eps - (1 - a).sqrt() * x0,
    "sample": lambda x0, eps, a: x0,
}
