"""Small diffusion models, trained on any rows of a data set."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from headwater.data.training_set import TrainingSet
from headwater.errors import ModelError
from headwater.evaluation.retraining.config import ModelConfig
from headwater.evaluation.retraining.trainer import FitOptions, fit
from headwater.evaluation.retraining.weights import WEIGHTS
from headwater.models.condition import Condition
from headwater.models.denoiser import Denoiser
from headwater.models.families import name_of
from headwater.models.schedule import TARGETS

# Of numbers of captions, what a network reads of them; None where it reads none.
Reads = Callable[[Int[Tensor, " b"]], Condition | None]


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
        captions: of each picture one or more. None where the model reads no captions.
    """

    x0: Float[Tensor, "n c h w"]
    captions: Sequence[Sequence[str]] | None

    def take(self, rows: Sequence[int]) -> EncodedData:
        """The same of these pictures, in this order."""
        own = None if self.captions is None else [self.captions[row] for row in rows]
        return EncodedData(self.x0[torch.as_tensor(rows)], own)

    @property
    def texts(self) -> list[str]:
        """All captions, picture by picture, and the empty one at last."""
        return [*itertools.chain.from_iterable(self.captions or ()), ""]

    @cached_property  # each step of a training asks
    def counts(self) -> Int[Tensor, " n"]:
        """How many captions each picture has; one where none are read."""
        if self.captions is None:
            return torch.ones(len(self.x0), dtype=torch.long)
        return torch.tensor([len(own) for own in self.captions], dtype=torch.long)


class TrainingBatch(NamedTuple):
    """What a step of training is given by chance.

    Attributes:
        rows: of the pictures.
        t: timesteps.
        eps: noise.
        captions: numbers among all captions: of each picture one of its own, or the empty one.
        mirrored: which pictures are.
    """

    rows: Int[Tensor, " b"]
    t: Int[Tensor, " b"]
    eps: Float[Tensor, "b c h w"]
    captions: Int[Tensor, " b"]
    mirrored: Bool[Tensor, " b"]


def encode_data(denoiser: Denoiser, data: TrainingSet, batch: int = 50) -> EncodedData:
    """Latents of a data set, with its captions."""
    rows = range(len(data))
    bar = tqdm(rows[::batch], desc="encoding", unit="batch", delay=2, leave=False)
    parts = [
        denoiser.encode_images([data.image(row) for row in rows[start : start + batch]]).cpu()
        for start in bar
    ]
    return EncodedData(torch.cat(parts), captions_of(denoiser, data))


def captions_of(denoiser: Denoiser, data: TrainingSet) -> list[tuple[str, ...]] | None:
    """Of each picture; None of a model that reads none."""
    if not denoiser.conditional:
        return None
    return [sample.all_captions for sample in data.samples]


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

    Raises:
        ModelError: the text encoder is to learn, and is not the one encoder of a UNet.
    """
    denoiser = Denoiser(pipe, device=device)
    network: Any = denoiser.network
    network.to(memory_format=torch.channels_last)
    learned = {"network": network.requires_grad_(True)}
    learns = config.text_encoder is not None and data.captions is not None
    reads = reader(denoiser, data, learns)
    if learns:
        learned["text_encoder"] = pipe.text_encoder
    begun = 0
    for number, phase in enumerate(config.phases):
        fit(
            nn.ModuleDict(learned),
            partial(draw_batch, data, len(denoiser.schedule), config, phase.batch),
            denoising_loss(denoiser, data, reads, phase.weight),
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
    network.to(memory_format=torch.contiguous_format)


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
    captions = _draw_captions(data.counts, rows, generator)
    captions = captions.masked_fill(dropped, int(data.counts.sum()))
    return TrainingBatch(rows, t, eps.to(data.x0.dtype), captions, mirrored)


def _draw_captions(
    counts: Int[Tensor, " n"], rows: Int[Tensor, " b"], generator: torch.Generator
) -> Int[Tensor, " b"]:
    """For each picture the number of its caption among all; of several, one by chance."""
    if counts.max() == 1:
        return rows
    drawn = (torch.rand(len(rows), generator=generator) * counts[rows]).long()
    return (counts.cumsum(0) - counts)[rows] + drawn


def reader(denoiser: Denoiser, data: EncodedData, learns: bool) -> Reads:
    """What makes of captions, by their numbers, what the network reads.

    Args:
        learns: whether the text encoder does, so that it has to be asked anew at each step.

    Raises:
        ModelError: it is to learn, and is not the one encoder of a UNet.
    """
    if data.captions is None:
        return lambda rows: None
    if not learns:
        known = denoiser.encode_captions(data.texts)
        return lambda rows: None if known is None else known[rows]
    tokens = _tokens(denoiser, data.texts)
    text_encoder = denoiser.pipe.text_encoder.requires_grad_(True)
    return lambda rows: Condition({"encoder_hidden_states": text_encoder(tokens[rows])[0]})


def _tokens(denoiser: Denoiser, texts: Sequence[str]) -> Int[Tensor, "m l"]:
    if name_of(denoiser.family) != "unet":
        raise ModelError(
            f"the text encoder of a {type(denoiser.pipe).__name__} is not trained here: give "
            "text_encoder null"
        )
    whole: dict[str, Any] = dict(padding="max_length", truncation=True, return_tensors="pt")
    return denoiser.pipe.tokenizer(list(texts), **whole).input_ids.to(denoiser.device)


def denoising_loss(
    denoiser: Denoiser, data: EncodedData, reads: Reads, weight: str = "even"
) -> Callable[..., Float[Tensor, ""]]:
    """The loss of a batch that `draw_batch` drew: weighted mean of (target - prediction)^2.

    The target is what the pipeline's scheduler takes its predictions for: eps, v, x0 or a flow.

    Args:
        weight: a name of `WEIGHTS`.
    """
    schedule, device = denoiser.schedule, denoiser.device
    x0s = data.x0.to(device)
    rates = torch.stack([schedule.a, schedule.s]).float().to(device)
    weights = WEIGHTS[weight](schedule).float().to(device)

    def loss(*drawn: Tensor) -> Tensor:
        batch = TrainingBatch(*drawn)
        x0 = x0s[batch.rows]
        x0 = torch.where(batch.mirrored.view(-1, 1, 1, 1), x0.flip(-1), x0)
        a, s = rates[:, batch.t].view(2, -1, 1, 1, 1)
        xt = a * x0 + s * batch.eps
        predicted = denoiser.family.forward(denoiser.network, xt, batch.t, reads(batch.captions))
        p, q = TARGETS[schedule.prediction](a, s)
        error = (predicted - (p * x0 + q * batch.eps)).square().mean((1, 2, 3))
        return (weights[batch.t] * error).mean()

    return loss
