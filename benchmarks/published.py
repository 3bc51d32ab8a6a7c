"""The engine beside the published recipe: how much faster, and does it isolate as well?

The recipe of the published Concept-TRAK code, written as fast as it can be written: an inversion
of its own (t = 0 and 50 DDIM steps, guidance 7.5, both halves of the guidance in one batch), shared
by all timesteps; the guidance in a forward and backward pass of its own; per-sample gradients by
`vmap(grad)` of the loss over the attributed parameters; k coordinates of them, at random. The
engine: ten unguided inversion steps that share their forward pass with guidance and gradient, and
a count-sketch. Same model, pictures, timesteps, parameters (attn2) and k. The two are timed in
turn, batch by batch, CPU time (wall time on a GPU). Both answer the same queries (30 concepts,
seen prompts, default contexts), each in its own features. Fails below 4x, or if isolation is worse
by more than the paired 95% interval allows.

    export OMP_NUM_THREADS=1
    python benchmarks/published.py [--rows 2000] [--dim 8192] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial

import torch
from features import seconds
from projections import projected, query_row, questions, retrieval, scores
from torch import Tensor
from torch.func import functional_call, grad, vmap
from tqdm import tqdm

from headwater import Denoiser, load_dataset
from headwater.evaluation.metrics.intervals import mean_interval
from headwater.features.batch import Batch
from headwater.features.extractor import Extractor
from headwater.index.config import plan
from headwater.index.machines import gradient_extractor
from headwater.models.condition import Condition, joined
from headwater.models.patches import frozen
from headwater.scenes.dataset import pictures

FASTER = 4.0
GUIDANCE, STEPS = 7.5, 50
BATCH = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="training pictures")
    parser.add_argument("--dim", type=int, default=8192)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    denoiser = Denoiser.load("scenes", given.device)
    result = compare(denoiser, given.rows, given.dim)
    print(json.dumps(result) if given.json else table(result))
    return 1 if result["failed"] else 0


def compare(denoiser: Denoiser, rows: int, dim: int) -> dict:
    """Seconds and isolation of both."""
    ours = gradient_extractor(denoiser, plan(denoiser, dim=dim))
    whole = gradient_extractor(denoiser, plan(denoiser, projection="identity"))
    kept = torch.randperm(whole.projection.dim, generator=torch.Generator().manual_seed(0))[:dim]
    data = load_dataset("scenes").first(rows)
    spent = {"published": 0.0, "headwater": 0.0}
    features: dict[str, list[Tensor]] = {name: [] for name in spent}

    def timed(name: str, compute: Callable[[], Tensor]) -> None:
        spent[name] += seconds(lambda: features[name].append(compute().cpu()))

    for part in tqdm(torch.arange(len(data)).split(BATCH), desc="batches", delay=2):
        own = [data.samples[int(row)] for row in part]
        x0 = denoiser.encode_images([data.image(int(row)) for row in part])
        c = denoiser.encode_captions([sample.caption for sample in own])
        assert c is not None  # the bundled model reads prompts
        timed("published", partial(published_rows, whole, x0, c, kept))
        timed("headwater", partial(our_rows, ours, x0, c, [sample.id for sample in own]))
    captions = [sample.caption for sample in data.samples]
    asked = tqdm(questions(), desc="queries", delay=2)
    exact = torch.stack([query_row(whole, question.query, captions) for question in asked]).cpu()
    psi = {
        "published": exact[:, kept],
        "headwater": projected(ours.projection, ours.layers, exact),
    }
    answers = {name: isolated(torch.cat(features[name]), psi[name]) for name in spent}
    lost = [a - b for a, b in zip(answers["published"], answers["headwater"], strict=True)]
    difference = dict(zip(("mean", "low", "high"), mean_interval(lost), strict=True))
    faster = spent["published"] / spent["headwater"]
    failed = [f"{faster:.2f} times faster, not {FASTER}"] if faster < FASTER else []
    if difference["low"] > 0:
        failed.append(f"isolation worse by {difference['mean']:.3f}")
    return {
        "rows": len(data),
        "dim": dim,
        "faster": faster,
        "seconds per picture": {name: total / len(data) for name, total in spent.items()},
        "isolation": {
            name: dict(zip(("mean", "low", "high"), mean_interval(found), strict=True))
            for name, found in answers.items()
        },
        "published minus headwater": difference,
        "failed": failed,
    }


def our_rows(machine: Extractor, x0: Tensor, condition: Condition, ids: list[str]) -> Tensor:
    return machine.train_rows(Batch(x0, condition, ids)).features


def isolated(train: Tensor, psi: Tensor) -> list[float]:
    """Isolation of each concept, in the features of one engine."""
    shown, found = pictures("train")[: len(train)], scores(torch.cat([train, psi]), len(train))
    return [
        retrieval(answer, question, shown)["isolation"]
        for answer, question in zip(found, questions(), strict=True)
    ]


# --- the published recipe -------------------------------------------------------------------------


def published_rows(machine: Extractor, x0: Tensor, condition: Condition, kept: Tensor) -> Tensor:
    """Mean over timesteps of unit gradients of the dps loss, at k coordinates."""
    denoiser, rows = machine.denoiser, []
    with frozen(denoiser.network):
        for t, xt in guided_inversion(denoiser, x0, condition, machine.timesteps):
            target = guidance_target(denoiser, xt, t, condition, x0)
            rows.append(per_sample_gradients(machine, xt, t, condition, target, kept))
    return torch.stack(rows).mean(0)


@torch.no_grad()
def guided_inversion(
    denoiser: Denoiser, x0: Tensor, condition: Condition, timesteps
) -> list[tuple[int, Tensor]]:
    """Xt at the timesteps, which are among the fifty of the inversion."""
    steps = [(i + 1) * len(denoiser.schedule) // STEPS - 1 for i in range(STEPS)]
    empty = denoiser.encode_captions([""] * len(x0))
    assert empty is not None and set(timesteps) <= set(steps)
    both, xt, kept, t = joined([condition, empty]), x0, [], 0
    for following in steps:
        eps, free = denoiser.predict(torch.cat([xt, xt]), t, both).chunk(2)
        eps = free + GUIDANCE * (eps - free)
        clean = xt if t == 0 else denoiser.schedule.clean(eps, xt, t)
        xt, t = denoiser.schedule.noised(clean, eps, following), following
        if t in timesteps:
            kept.append((t, xt))
    return kept


def guidance_target(denoiser, xt: Tensor, t: int, condition: Condition, x0: Tensor) -> Tensor:
    """Eps + sqrt(1 - alpha_bar) grad ||x0 - x0hat(xt)||^2."""
    xt = xt.detach().requires_grad_()
    eps = denoiser.predict(xt, t, condition)
    error = (x0 - denoiser.schedule.clean(eps, xt, t)).square().sum()
    (towards,) = torch.autograd.grad(error, xt)
    return eps.detach() + denoiser.schedule.rates(t)[1] * towards


def per_sample_gradients(
    machine: Extractor, xt: Tensor, t: int, condition: Condition, target: Tensor, kept: Tensor
) -> Tensor:
    """Unit gradients, at the kept coordinates."""
    network = machine.denoiser.network
    weights = {
        f"{name}.{part}": weight.detach()
        for name, layer in machine.layers.items()
        for part, weight in layer.named_parameters(recurse=False)
    }

    def loss(weights, xt, words, target):
        given = {"encoder_hidden_states": words[None]}
        out = functional_call(network, weights, (xt[None], t), given).sample[0]
        return (out - target).square().sum()

    words = condition.tensors["encoder_hidden_states"]
    found = vmap(grad(loss), in_dims=(None, 0, 0, 0))(weights, xt, words, target)
    whole = torch.cat([g.flatten(1) for g in found.values()], 1)
    unit = whole / whole.norm(dim=1, keepdim=True)
    return unit[:, kept]


def table(result: dict) -> str:
    lines = [f"{'':<12}{'s / picture':>12}{'isolation':>26}"]
    for name, each in result["seconds per picture"].items():
        isolation = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**result["isolation"][name])
        lines.append(f"{name:<12}{each:>12.4f}{isolation:>26}")
    difference = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**result["published minus headwater"])
    lines.append(f"{result['faster']:.2f} times faster; published minus headwater: {difference}")
    return "\n".join([*lines, *(f"FAILED {line}" for line in result["failed"])])


if __name__ == "__main__":
    sys.exit(main())
