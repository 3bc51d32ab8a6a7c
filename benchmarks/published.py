"""The engine beside the published recipe: how much faster, and does it isolate as well?

The recipe of the published Concept-TRAK code, written as fast as it can be written: an inversion
of its own (t = 0 and 50 DDIM steps, guidance 7.5, both halves of the guidance in one batch), shared
by all timesteps; the guidance in a forward and backward pass of its own; per-sample gradients by
`vmap(grad)` of the loss over the attributed parameters; k coordinates of them, at random. Beside it
the engine, whose guidance, gradients and count-sketch take one forward pass, three times:

- `fifty steps`: at the same states, by the same fifty guided steps; what the arithmetic brings;
- `concept-trak`: ten guided steps that share their forward pass with guidance and gradient stand
  for the fifty; what an index of that method costs;
- `concept-trak-unguided`: the same without guidance, which is another method and ranks otherwise.

Same model, pictures, timesteps, parameters (attn2) and k. All are timed in turn, batch by batch,
CPU time (wall time on a GPU), and answer the same queries (30 concepts, seen prompts, default
contexts), each in its own features. Fails where the first is slower than the published recipe, the
second less than 2.5 times as fast, or the first's isolation worse by more than the paired 95%
interval allows.

    export OMP_NUM_THREADS=1
    python benchmarks/published.py [--rows 2000] [--dim 8192] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from features import seconds
from projections import projected, questions, retrieval, scores
from torch import Tensor
from torch.func import functional_call, grad, vmap
from tqdm import tqdm

from headwater import Concept, Denoiser, load_dataset
from headwater.evaluation.metrics.intervals import mean_interval
from headwater.features import guidance, probes
from headwater.features.batch import Batch
from headwater.features.extractor import Extractor, mean_over_probes
from headwater.features.objectives import Objective
from headwater.features.probes import Probe
from headwater.index.config import plan
from headwater.index.machines import gradient_extractor
from headwater.models.condition import Condition, joined
from headwater.models.patches import frozen
from headwater.queries.concept import ConceptDrawer
from headwater.queries.contexts import choose_contexts
from headwater.scenes.dataset import pictures

PUBLISHED, FIFTY, SHARED, UNGUIDED = (
    "published", "fifty steps", "concept-trak", "concept-trak-unguided",
)  # fmt: skip
FASTER = {FIFTY: 1.0, SHARED: 2.5}
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
    failed = failures(result)
    print(json.dumps(result | {"failed": failed}) if given.json else table(result, failed))
    return 1 if failed else 0


def compare(denoiser: Denoiser, rows: int, dim: int) -> dict:
    """Seconds and isolation of each."""
    ours, unguided = (
        gradient_extractor(denoiser, plan(denoiser, method=name, dim=dim))
        for name in (SHARED, UNGUIDED)
    )
    recipe = plan(denoiser, method=SHARED, projection="identity")
    whole = gradient_extractor(denoiser, recipe)
    kept = torch.randperm(whole.projection.dim, generator=torch.Generator().manual_seed(0))[:dim]
    data = load_dataset("scenes").first(rows)
    spent: dict[str, float] = dict.fromkeys((PUBLISHED, FIFTY, SHARED, UNGUIDED), 0.0)
    features: dict[str, list[Tensor]] = {name: [] for name in spent}

    def timed(name: str, compute: Callable[[], Tensor]) -> None:
        spent[name] += seconds(lambda: features[name].append(compute().cpu()))

    for part in tqdm(torch.arange(len(data)).split(BATCH), desc="batches", delay=2):
        own = [data.samples[int(row)] for row in part]
        x0 = denoiser.encode_images([data.image(int(row)) for row in part])
        c = denoiser.encode_captions([sample.caption for sample in own])
        assert c is not None  # the bundled model reads prompts
        ids = [sample.id for sample in own]
        timed(PUBLISHED, partial(published_rows, whole, x0, c, kept))
        timed(FIFTY, partial(fifty_rows, ours, x0, c))
        timed(SHARED, partial(our_rows, ours, x0, c, ids))
        timed(UNGUIDED, partial(our_rows, unguided, x0, c, ids))
    captions = [sample.caption for sample in data.samples]
    asked = tqdm(questions(), desc="queries", delay=2)
    exact = torch.stack([query_row(whole, question.query, captions) for question in asked]).cpu()
    sketched = projected(ours.projection, ours.layers, exact)
    answers = {
        name: isolated(torch.cat(rows), exact[:, kept] if name == PUBLISHED else sketched)
        for name, rows in features.items()
    }
    return {
        "rows": len(data),
        "dim": dim,
        "seconds per picture": {name: total / len(data) for name, total in spent.items()},
        "faster": {name: spent[PUBLISHED] / total for name, total in spent.items()},
        "isolation": {name: spread(found) for name, found in answers.items()},
        "published minus": {
            name: spread([a - b for a, b in zip(answers[PUBLISHED], found, strict=True)])
            for name, found in answers.items()
        },
    }


def spread(values: list[float]) -> dict[str, float]:
    """A mean with its 95% interval."""
    return dict(zip(("mean", "low", "high"), mean_interval(values), strict=True))


def failures(result: dict) -> list[str]:
    """What is not as it should be."""
    slow = [
        f"{name}: {result['faster'][name]:.2f} times as fast, not {least}"
        for name, least in FASTER.items()
        if result["faster"][name] < least
    ]
    lost = result["published minus"][FIFTY]
    return slow + [f"isolation worse by {lost['mean']:.3f}"] * (lost["low"] > 0)


def query_row(machine: Extractor, query: Concept, captions: Sequence[str]) -> Tensor:
    """The features of a concept, the mean over its draws."""
    contexts = choose_contexts(query, captions)
    draws = range(len(contexts.pairs))
    return machine.query_rows(ConceptDrawer(query, contexts).objectives(machine, draws)).mean(0)


def fifty_rows(machine: Extractor, x0: Tensor, condition: Condition) -> Tensor:
    """The engine's rows at the states of the published inversion."""

    def objectives() -> Iterator[Objective]:
        denoiser = machine.denoiser
        for t, xt in guided_inversion(denoiser, x0, condition, machine.timesteps):
            probe = probes.at(denoiser, Probe(xt, t, xt), condition)
            yield Objective(probe.out, guidance.dps(denoiser, probe, x0))

    return mean_over_probes(machine.probes(objectives()), machine.normalise).features


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


def table(result: dict, failed: list[str]) -> str:
    heads = ("s / picture", "times as fast", "isolation", "published minus it")
    widths = (12, 15, 25, 27)
    lines = ["".join([f"{'':<22}", *(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True))])]
    for name, each in result["seconds per picture"].items():
        isolation, lost = (
            "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**result[of][name])
            for of in ("isolation", "published minus")
        )
        faster = f"{result['faster'][name]:.2f}"
        lines.append(f"{name:<22}{each:>12.4f}{faster:>15}{isolation:>25}{lost:>27}")
    return "\n".join([*lines, *(f"FAILED {line}" for line in failed)])


if __name__ == "__main__":
    sys.exit(main())
