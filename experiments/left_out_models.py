"""The adapters of `left_out.py`: pictures, trainings without some, and the derivative of one.

What is measured of a training are its outputs: the loss on pictures that were held out, and what
the object's word gains there, by pairs of the object's colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from common import RESULTS
from peft import LoraConfig
from recorded_lora import (
    BETAS,
    DECAY,
    EPS,
    RATE,
    Adapters,
    Draws,
    Pictures,
    Run,
    State,
    last_of,
    squared_errors,
)
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from headwater import Contribution, Denoiser, Loss, Recorder, TrainingSet, from_images
from headwater.models.schedule import evenly_spaced
from headwater.recording.metagradient import metagradient
from headwater.recording.recording import Recording, read_recording
from headwater.recording.replay import Replay
from headwater.scenes.dataset import describe
from headwater.scenes.render import Scene, draw
from headwater.scenes.vocabulary import BACKGROUNDS, COLOURS, STYLES, UNSEEN_OBJECTS

THING = UNSEEN_OBJECTS[0]
ENDS, RANK = ("to_q", "to_k", "to_v", "to_out.0"), 4
IMAGES, HELD, STEPS, BATCH = 40, 40, 300, 4
SEEDS = (0, 1)  # the first is asked; of others the mean change is foretold
SIZES = {1: 40, 5: 20, 10: 20}  # pictures left out -> how many times
PAIRS = tuple(zip(COLOURS[::2], COLOURS[1::2], strict=True))
OUTPUTS = {"loss": Loss, "contribution": Contribution}
SIDE_BY_SIDE = 20  # trainings
TIMESTEPS = evenly_spaced(10)  # of what is measured
DRAWS = 64  # of a question
DAMPINGS = (0.001, 0.01, 0.1)
LASTS = (300, 150, 75, 10)  # steps of the recorded training
OUT = RESULTS / "left-out"


# --- pictures and what is left out ----------------------------------------------------------------


def scenes(seed: int, count: int) -> list[Scene]:
    """The object in each colour as often, else at random."""
    chance = np.random.default_rng(seed)
    found = []
    for number in range(count):
        style, background = str(chance.choice(STYLES)), str(chance.choice(BACKGROUNDS))
        x, y = chance.uniform(0.4, 0.6, 2)
        radius, tilt, tone = (float(chance.uniform(*r)) for r in ((0.28, 0.36), (-20, 20), (0, 1)))
        colour = COLOURS[number % len(COLOURS)]
        scene = Scene(THING, colour, style, background, float(x), float(y), radius, tilt, tone)
        found.append(scene)
    return found


LEARNED, HELD_OUT = scenes(0, IMAGES), scenes(1, HELD)
OF_PAIR = np.array([[scene.colour in pair for scene in HELD_OUT] for pair in PAIRS])  # [pairs, 40]


def captions(of: Iterable[Scene], without: str = "") -> list[str]:
    """All that a scene shows, or all but one attribute."""
    return [describe(**{**s.attributes, without: None} if without else s.attributes) for s in of]


def pictures(of: Sequence[Scene]) -> TrainingSet:
    """With their captions."""
    return from_images([draw(scene) for scene in of], captions(of))


def left_out() -> np.ndarray:
    """Which pictures each training does without, [trainings, 40]; the first does without none."""
    chance = np.random.default_rng(0)
    rows = [np.zeros(IMAGES, bool)]
    for size, times in SIZES.items():
        for number in range(times):
            some = [number] if size == 1 else chance.permutation(IMAGES)[:size]
            rows.append(np.isin(np.arange(IMAGES), some))
    return np.stack(rows)


# --- trainings ------------------------------------------------------------------------------------


def run_of(seed: int, steps: int = STEPS, dtype: torch.dtype = torch.float32) -> Run:
    """The training of a seed."""
    denoiser = Denoiser.load("scenes", "cpu", dtype)
    for parameter in denoiser.network.parameters():
        parameter.requires_grad_(False)
    shown = encoded(denoiser, LEARNED, captions(LEARNED))
    return Run(denoiser, Adapters(denoiser.network, ENDS, RANK), shown, Draws(seed, steps, BATCH))


def encoded(denoiser: Denoiser, of: Sequence[Scene], said: Sequence[str]) -> Pictures:
    x0 = denoiser.encode_images([draw(scene) for scene in of])
    words = denoiser.encode_captions(said)
    assert words is not None, "it reads words"
    return Pictures(x0, words)


def measured_of(seed: int) -> np.ndarray:
    """The outputs of all trainings of a seed, [trainings, outputs, pairs]; kept by the block."""
    counted, found = ~left_out(), []
    for start in range(0, len(counted), SIDE_BY_SIDE):
        path = OUT / "outputs" / f"seed-{seed}-{start:03d}.npy"
        if not path.exists():
            run = run_of(seed)
            weighed = torch.tensor(counted[start : start + SIDE_BY_SIDE]).float()
            name = f"seed {seed}, {start} on"
            state = last_of(tqdm(run.train(weighed), desc=name, total=STEPS + 1, delay=2))
            if start == 0:
                keep_adapters(run, state, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            with torch.no_grad():
                each = [outputs(run, row[None]) for row in state.weights]
            np.save(path, torch.stack(each).numpy())
        found.append(np.load(path))
    return np.concatenate(found)


def outputs(run: Run, weights: Tensor) -> Tensor:
    """Of one training, for each of `OUTPUTS` and each pair of colours: lower is more of it."""
    return torch.stack(list(parts(run, weights))).mean(0)


def parts(run: Run, weights: Tensor) -> Iterator[Tensor]:
    """The same of each timestep: they are summed, so that no graph is of all."""
    every = torch.arange(HELD)
    named, unnamed = (
        encoded(run.denoiser, HELD_OUT, captions(HELD_OUT, w)) for w in ("", "object")
    )
    of_pair = torch.tensor(OF_PAIR / OF_PAIR.sum(1, keepdims=True)).to(named.x0)
    for t in TIMESTEPS:
        noise = torch.randn(named.x0.shape, generator=torch.Generator().manual_seed(t))
        noised = t, noise.to(named.x0)
        loss, without = (
            squared_errors(run.denoiser, run.adapters, weights, (shown, every), noised)[0]
            for shown in (named, unnamed)
        )
        yield torch.stack([of_pair @ loss, of_pair @ (loss - without)])


def record(seed: int) -> Path:
    """The training of everything once more, as people train: by PEFT, in a loop of one's own."""
    folder = OUT / "runs" / f"seed-{seed}"
    if (folder / "run.json").exists():
        return folder
    run, data = run_of(seed), pictures(LEARNED)
    denoiser, ids = run.denoiser, [sample.id for sample in data.samples]
    network: Any = denoiser.network
    network.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(ENDS)))
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for name, (a, b) in run.adapters.pairs(run.begin().weights).items():
        for side, begun in (("A", a), ("B", b)):
            parameters[f"{name}.lora_{side}.default.weight"].data = begun[0].clone()
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=RATE, weight_decay=DECAY, betas=BETAS, eps=EPS
    )
    with Recorder(folder, network, optimizer) as recorder:
        for step in tqdm(range(STEPS), desc="record", delay=2):
            rows, t, noise = run.draws.at(step, run.pictures)
            x0 = run.pictures.x0[rows]
            schedule = denoiser.schedule
            xt, asked = (f(x0, noise, t) for f in (schedule.noised, schedule.asked))
            out = denoiser.predict(xt, t, run.pictures.words[rows.tolist()])
            recorder.batch([ids[row] for row in rows], asked)
            torch.nn.functional.mse_loss(out, asked).backward()
            optimizer.step()
            optimizer.zero_grad()
    return folder


def file_of(seed: int) -> Path:
    return OUT / "lora" / f"seed-{seed}.safetensors"


def keep_adapters(run: Run, state: State, seed: int) -> None:
    """Those of the training of everything, as people hold them."""
    tensors = {}
    for name, (a, b) in run.adapters.pairs(state.weights[:1]).items():
        tensors[f"unet.{name}.lora_A.weight"] = a[0].contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = b[0].contiguous()
    file_of(seed).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file_of(seed))


# --- the derivative of the recorded training ------------------------------------------------------


def recorded(seed: int) -> np.ndarray:
    """Of the outputs by each picture's weight, step by step, [steps, outputs, pairs, 40]; kept."""
    path = OUT / "recorded" / f"seed-{seed}.npy"
    if not path.exists():
        run = run_of(seed)
        states = list(run.train(torch.ones(1, IMAGES)))
        found = run.derivative(states[:-1], ends_of(run, states[-1]))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found.unflatten(1, (len(OUTPUTS), len(PAIRS))).numpy())
    return np.load(path)


def ends_of(run: Run, last: State) -> Tensor:
    """The outputs' gradients by the final weights, [outputs * pairs, p]."""
    leaf, total = last.weights.detach().requires_grad_(), 0
    for part in parts(run, leaf):
        each = [torch.autograd.grad(o, leaf, retain_graph=True)[0] for o in part.flatten()]
        total = total + torch.cat(each) / len(TIMESTEPS)
    assert isinstance(total, Tensor)
    return total


def check(steps: int = 12, change: float = 1e-7) -> None:
    """The derivative of a short training beside finite differences, in float64."""
    run = run_of(0, steps, torch.float64)
    states = list(run.train(torch.ones(1, IMAGES, dtype=torch.float64)))
    found = run.derivative(states[:-1], ends_of(run, states[-1])).sum(0)  # [k, 40]
    rows = [int(run.draws.at(step, run.pictures)[0][0]) for step in (0, 5, 11)]
    weighed = torch.ones(2 * len(rows), IMAGES, dtype=torch.float64)
    for number, row in enumerate(rows):
        weighed[2 * number, row] += change
        weighed[2 * number + 1, row] -= change
    last = last_of(run.train(weighed))
    with torch.no_grad():
        each = torch.stack([outputs(run, row[None]).flatten() for row in last.weights])
    truth = ((each[::2] - each[1::2]) / (2 * change)).T
    error = (found[:, rows] - truth).norm() / truth.norm()
    print(f"relative error {error:.1e} of {truth.numel()} derivatives after {steps} steps")
    assert error < 1e-4, "the derivative is not that of the training"


def check_library(seed: int = SEEDS[0]) -> None:
    """The library's derivative of its own recording beside `recorded`, and what it costs."""
    recording = read_recording(record(seed))
    replay = Replay(recording, Denoiser.load("scenes", "cpu", lora=file_of(seed)).network)
    run, order = run_of(seed), order_in(recording)
    state = recording.state(STEPS)
    assert state is not None, "the end is kept"
    weights = state[0].weights
    ends = ends_of(run, State(weights[None, order], weights[None], weights[None]))
    found = metagradient(replay, torch.zeros_like(ends).index_copy(1, order, ends))
    by_image = torch.stack([found.by_image[sample.id] for sample in pictures(LEARNED).samples], 1)
    true = recorded(seed).sum(0).reshape(len(ends), -1)
    least = min(np.corrcoef(a, b)[0, 1] for a, b in zip(true, by_image, strict=True))
    print(f"the library's: least correlation {least:.7f} of {len(ends)} outputs, gradients made")
    print(f"again to {found.gradient_error:.1e}, growth at most {max(found.growth):.2f}")
    one = seconds(lambda: metagradient(replay, ends[:1]))
    step, counts = recording.step(0), weights.new_ones(BATCH)
    forward = seconds(lambda: [replay.loss(step, weights, counts) for _ in range(50)]) / 50 / BATCH
    print(f"an output takes {one / (forward * STEPS * BATCH):.1f} forward passes (of {forward:.4f}")
    print("CPU seconds) for each time that an image was shown")


def order_in(recording: Recording) -> Tensor:
    """Where the numbers of `Adapters` stand in a recording, in their order."""
    places, start = {}, 0
    for name, size in zip(recording.names, recording.sizes, strict=True):
        places[name], start = torch.arange(start, start + size), start + size
    adapters = run_of(SEEDS[0]).adapters
    names = [f"{n}.lora_{side}.default.weight" for n in adapters.layers for side in "AB"]
    return torch.cat([places[name] for name in names])


def seconds(call: Callable[[], object]) -> float:
    """Of CPU, without a graph."""
    start = process_time()
    with torch.no_grad():
        call()
    return process_time() - start
