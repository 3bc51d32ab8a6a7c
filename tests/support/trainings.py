"""Small trainings that a test can repeat: of a toy network, or of adapters of a tiny model."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from headwater import Denoiser, Recorder, load_dataset
from support.tiny import tiny_folder, tiny_pipeline

IMAGES = 5


class Toy(nn.Module):
    """A network with the call of a UNet."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.words = nn.Linear(3, 4)
        self.last = nn.Conv2d(4, 1, 3, padding=1)
        self.unused = nn.Linear(2, 2)
        self.to(dtype)

    def forward(self, sample, timestep, encoder_hidden_states, more=None):
        hidden = self.first(sample) + self.words(encoder_hidden_states).mean(1)[..., None, None]
        hidden = torch.tanh(hidden + (timestep.to(sample) / 1000).view(-1, 1, 1, 1))
        return SimpleOutput(self.last(hidden))


class SimpleOutput(SimpleNamespace):
    """An output of diffusers, which has a name and a number."""

    def __init__(self, sample):
        super().__init__(sample=sample)

    def __getitem__(self, number):
        return (self.sample,)[number]


def toy_batches(steps, accumulated=1, size=3):
    """For each step its batches: images, what the network is called with, and targets."""
    chance = torch.Generator().manual_seed(1)

    def drawn(*shape):
        return torch.randn(*shape, generator=chance, dtype=torch.float64)

    words = drawn(IMAGES, 2, 3)
    for _ in range(steps):
        batches = []
        for _ in range(accumulated):
            images = torch.randint(IMAGES, (size,), generator=chance).tolist()
            timesteps = torch.randint(1000, (size,), generator=chance)
            given = drawn(size, 1, 4, 4), timesteps, words[images]
            batches.append((images, given, drawn(size, 1, 4, 4)))
        yield batches


def train_toy(
    batches,
    folder=None,
    counts=None,
    weights=(1.0, 1.0, 1.0),
    norm=None,
    optimizer=torch.optim.AdamW,
    **options,
):
    """The weights at the end; `counts` is what each image counts in the loss."""
    network = Toy()
    counts = torch.ones(IMAGES, dtype=torch.float64) if counts is None else counts
    weights = torch.tensor(weights, dtype=torch.float64)
    groups = [
        {"params": list(network.first.parameters())},
        {"params": [*network.words.parameters(), *network.last.parameters()], "weight_decay": 0.3},
        {"params": list(network.unused.parameters())},
    ]
    made = optimizer(groups, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1 / (1 + step))
    recorder = Recorder(folder, network, made, max_grad_norm=norm, every=3) if folder else None
    for step in batches:
        for images, (sample, timesteps, words), target in step:
            out = network(sample, timesteps, encoder_hidden_states=words).sample
            if recorder:
                recorder.batch(images, target, weights)
            errors = (out - target).square().flatten(1).mean(1)
            ((errors * weights * counts[images]).mean() / len(step)).backward()
        if norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), norm)
        made.step()
        schedule.step()
        made.zero_grad()
    if recorder:
        recorder.close()
    used = [*network.first.parameters(), *network.words.parameters(), *network.last.parameters()]
    return torch.cat([each.detach().flatten() for each in used])


# --- adapters of a tiny model ---------------------------------------------------------------------

STEPS = 6


def adapters_of(folder: Path, dtype=torch.float64):
    """(model, images, denoiser with new adapters, their parameters)."""
    from peft import LoraConfig

    if not (folder / "model").exists():
        tiny_pipeline(folder / "model")
        tiny_folder(folder / "images", IMAGES)
    data = load_dataset(folder / "images")
    denoiser = Denoiser.load(folder / "model", dtype=dtype)
    torch.manual_seed(0)
    denoiser.network.requires_grad_(False)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"])
    denoiser.network.add_adapter(config)
    parameters = [each for each in denoiser.network.parameters() if each.requires_grad]
    for each in parameters:
        each.data = each.data.to(dtype) + 0.05 * torch.randn(each.shape).to(dtype)
    return data, denoiser, parameters


def train_adapters(folder: Path, recorded=False, counts=None, dtype=torch.float64):
    """The denoiser at the end; its adapters are kept in `lora`, the recording in `run`."""
    data, denoiser, parameters = adapters_of(folder, dtype)
    network = denoiser.network
    counts = torch.ones(IMAGES, dtype=dtype) if counts is None else counts
    x0 = denoiser.encode_images([data.image(row) for row in range(IMAGES)])
    words = denoiser.encode_captions([sample.caption for sample in data.samples])
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    recorder = Recorder(folder / "run", network, optimizer, every=4) if recorded else None
    chance = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(IMAGES, (3,), generator=chance).tolist()
        t = int(torch.randint(1000, (), generator=chance))
        noise = torch.randn(x0[rows].shape, generator=chance).to(dtype)
        xt = denoiser.schedule.noised(x0[rows], noise, t)
        given = {"encoder_hidden_states": words[rows].tensors["encoder_hidden_states"]}
        out = network(xt, torch.full((3,), t), **given).sample
        if recorder:
            recorder.batch([data.samples[row].id for row in rows], noise)
        ((out - noise).square().flatten(1).mean(1) * counts[rows]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    if recorder:
        recorder.close()
        keep_adapters(denoiser, folder / "lora")
    return denoiser


def keep_adapters(denoiser, folder: Path):
    """As diffusers' training scripts do."""
    from peft.utils import get_peft_model_state_dict

    layers = get_peft_model_state_dict(denoiser.network)
    denoiser.pipe.save_lora_weights(folder, unet_lora_layers=layers)
