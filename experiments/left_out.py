"""A LoRA of 40 pictures: is it known beforehand what it lacks without one, five or ten of them?

Adapters are trained on top of the bundled model on 40 scenes of an object that it never saw (300
steps of four pictures, AdamW at 1e-3, the loss of noise), and again without some of the pictures:
with the same seed (the same weights to begin with, batches and noise, in which the pictures left
out do not count), and with another. What is measured is the loss on 40 other pictures of the
object, by pairs of its colours, and what the object's word gains there. What is asked is the model
of all 40: by EK-FAC and a plain dot product at its end, as `headwater index` builds them, and by
the derivative of the recorded training, of all its steps or of the last.

    export OMP_NUM_THREADS=1
    python experiments/left_out.py check      the derivative beside finite differences, in float64
    python experiments/left_out.py models     train and measure; about an hour of a core
    python experiments/left_out.py tables     ask and compare

Everything lies in `experiments/results/left-out`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, about, parser
from recorded_lora import Adapters, Draws, Pictures, Run, State, last_of, squared_errors
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from headwater import (
    Contribution,
    Denoiser,
    Loss,
    Session,
    TrainingSet,
    build_index,
    from_images,
)
from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.metrics.lds import lds_interval
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.models.schedule import evenly_spaced
from headwater.queries.outputs.output import Output
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


def main() -> None:
    given = parser(__doc__, "check", "models", "tables").parse_args()
    torch.set_num_threads(1)
    if given.stage == "check":
        check()
        return
    measured = np.stack([measured_of(seed) for seed in SEEDS])  # [seeds, trainings, outputs, pairs]
    if given.stage == "tables":
        tables(measured, given)


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


# --- the tables -----------------------------------------------------------------------------------


def asked(given: argparse.Namespace) -> dict[str, np.ndarray]:
    """By method, what each picture is to the outputs, [outputs, pairs, 40]: more is more of it."""
    model = Denoiser.load("scenes", given.device, lora=file_of(SEEDS[0]))
    data, found = pictures(LEARNED), {}
    for method, dampings in (("ekfac", DAMPINGS), ("gradient-dot", ())):
        index = build_index(
            model, data, OUT / "indexes" / method,
            method=method, parameters="lora", projection="identity", draws=4,
        )  # fmt: skip
        session = Session(index)
        answers = [
            session.attribute(question_of(output, of), method=method, damping=dampings or None)
            for output, of in product(OUTPUTS.values(), OF_PAIR)
        ]
        found |= {
            f"{method}, damping {each:g}": stacked([answer.sweep[each] for answer in answers])
            for each in dampings
        } or {method: stacked([answer.scores for answer in answers])}
    return found


def stacked(scores: Sequence[np.ndarray]) -> np.ndarray:
    """[outputs, pairs, 40]."""
    return np.stack(scores).reshape(len(OUTPUTS), len(PAIRS), -1)


def question_of(output: type[Output], of: np.ndarray) -> Output:
    """An output on those of the pictures held out."""
    shown = pictures([scene for scene, its in zip(HELD_OUT, of, strict=True) if its])
    anchor = "shape" if output is Contribution else ""
    return output(shown.samples[0].caption, THING, anchor, pictures=shown, draws=DRAWS)


def tables(measured: np.ndarray, given: argparse.Namespace) -> None:
    """The correlation of what was foretold with what came."""
    by_step = -recorded(SEEDS[0])  # without a picture, minus that
    answers = {
        "the caption names its colours": np.stack([named_colours()] * len(OUTPUTS)),
        **{f"recorded, last {last} steps": by_step[-last:].sum(0) for last in LASTS},
        **asked(given),
    }
    missing, rows = left_out(), []
    changes = measured[:, 1:] - measured[:, :1]  # [seeds, trainings - 1, outputs, pairs]
    sizes = missing[1:].sum(1)
    for (number, output), size in product(enumerate(OUTPUTS), SIZES):
        chosen = sizes == size
        same, others = changes[0, chosen, number], changes[1:, chosen, number].mean(0)
        foretold = {
            "trained again, another seed": (changes[1, chosen, number], same),
            **{
                name: [missing[1:][chosen] @ answer[number].T.astype(float)] * 2
                for name, answer in answers.items()
            },
        }
        for name, (of_same, of_others) in foretold.items():
            rows.append({
                "output": output, "left out": size, "foretold by": name,
                "same seed": Interval(*lds_interval(same, of_same)),
                "same seed, r": pearson(same, of_same),
                "other seeds": Interval(*lds_interval(others, of_others)),
                "other seeds, r": pearson(others, of_others),
            })  # fmt: skip
    notes = [
        f"{IMAGES} pictures of a {THING}, {STEPS} steps of {BATCH}, rank {RANK}; left out: "
        + ", ".join(f"{size} of them {times} times" for size, times in SIZES.items()),
        "same (other) seeds: Spearman's correlation, over what was left out, of the change of an "
        "output with what was foretold, mean over four pairs of colours with its 95% interval; r: "
        f"Pearson's. Other seeds: the mean change of {len(SEEDS) - 1}",
        "trained again, another seed: what the change itself foretells of another seed's; of other "
        "seeds the first seed's",
        f"recorded: the derivative of the training of seed {SEEDS[0]} by each picture's weight, "
        f"through its last steps; of {STEPS}, the whole",
        "the norm of each step's part, of all, by the quarter: " + growth(by_step),
    ]
    title = f"What a LoRA of {IMAGES} pictures lacks without some of them"
    write_results(OUT, title, about(given), rows, notes)
    print(markdown(rows), *notes, OUT / "table.md", sep="\n")


def named_colours() -> np.ndarray:
    """Whether a picture learned from has one of the pair's colours, [pairs, 40]."""
    return np.array([[scene.colour in pair for scene in LEARNED] for pair in PAIRS], float)


def pearson(true: np.ndarray, foretold: np.ndarray) -> float:
    """Mean over the pairs."""
    found = [np.corrcoef(a, b)[0, 1] for a, b in zip(true.T, foretold.T, strict=True)]
    return float(np.mean(found))


def growth(by_step: np.ndarray) -> str:
    norms = np.linalg.norm(by_step.reshape(len(by_step), -1), axis=1)
    return ", ".join(f"{part.mean():.3g}" for part in np.split(norms, 4))


if __name__ == "__main__":
    main()
