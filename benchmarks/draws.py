"""Which draws of a question bring its answer soonest to what many draws say?

Of an index of the scenes by `ekfac` (or `ekfac-presence`), asked for contributions on held-out
pictures that name a concept. A probe is one picture at one timestep with one noise, under the
prompt and without the concept: four passes. Half of the pictures are the reference, with every
timestep and two noises each; of the others each way of drawing takes as many probes, ten at a time,
so that every timestep comes up as often (or as often as it is important). Printed is Pearson's
correlation with the reference over all images, the mean over concepts, and how much of the ten
highest is the same.

    headwater demo --out headwater-demo
    export OMP_NUM_THREADS=1
    python benchmarks/draws.py headwater-demo/scenes-index [--concepts 12]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from knee import alike
from torch import Tensor

from headwater import Index
from headwater.evaluation.reporting.results import circumstances, markdown
from headwater.features import guidance, probes
from headwater.features.batch import Batch, encoded_batch
from headwater.features.extractor import Extractor
from headwater.features.objectives import Objective
from headwater.index.curvature.fit import former_of
from headwater.index.machines import gradient_extractor, load_denoiser
from headwater.methods.table import METHODS
from headwater.models.sampling import seeded_noise
from headwater.queries.words.prompts import contains, without
from headwater.scenes.dataset import pictures
from headwater.scenes.vocabulary import ATTRIBUTES

PICTURES, BLOCK = 40, 20  # of a concept; in a batch
PROBES = (10, 20, 40, 80, 160)
SIGNS = 1, -1

# Chance, how many probes, how much each timestep scatters -> picture, timestep and sign of each.
Way = Callable[[np.random.Generator, int, np.ndarray], list[tuple[int, int, int]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("--concepts", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    index = Index.open(given.index)
    rows, machine = torch.cat([*index.blocks()]), machine_of(index)
    named = [word for values in ATTRIBUTES.values() for word in values]
    concepts = [word for word in named if len(naming(word)) == PICTURES][::2][: given.concepts]
    scores = [scores_of(machine, rows, concept) for concept in concepts]
    table = [reliability(scores)]
    for name, way in WAYS.items():
        for count in PROBES:
            found = [drawn(way, own, count, others(scores, own)) for own in scores]
            one, two = map(torch.stack, zip(*found, strict=True))
            table.append({"way": name, "probes": count, **alike(one, two)})
    print(markdown(table), circumstances()["machine"], sep="\n")


# --- scores of single probes ----------------------------------------------------------------------


def naming(word: str) -> list[Any]:
    """The first held-out pictures whose caption names it."""
    named = [each for each in pictures("validation") if contains(each.caption, word)]
    return named[:PICTURES]


def machine_of(index: Index) -> Extractor:
    """What makes features of questions, at the usual damping."""
    recipe, damping = index.recipe, METHODS[index.recipe.method].damping
    former = former_of(index.path, index.manifest, recipe, damping)
    return gradient_extractor(load_denoiser(index), recipe, [former])


def scores_of(machine: Extractor, rows: Tensor, concept: str) -> Tensor:
    """Scores of all images by each probe alone, [picture, timestep, sign, n]."""
    shown, found = naming(concept), []
    for start in range(0, PICTURES, BLOCK):
        part = shown[start : start + BLOCK]
        captions = [[each.caption] for each in part]
        ids = [each.id for each in part]
        images = [each.draw() for each in part]
        batch = encoded_batch(machine.denoiser, images, captions, ids)
        named = list(machine.probes(both_ways(machine, batch, concept, captions)))
        both = zip(named[::2], named[1::2], strict=True)
        pairs = [plus.features + minus.features for plus, minus in both]
        products = torch.stack([pair @ rows.T for pair in pairs], 1)
        found.append(products.unflatten(1, (len(machine.timesteps), len(SIGNS))))
    return torch.cat(found)


def both_ways(
    machine: Extractor, batch: Batch, concept: str, captions: Sequence[Sequence[str]]
) -> Iterator[Objective]:
    """The contribution at each timestep, with noise and with its negative."""
    denoiser, x0 = machine.denoiser, batch.x0
    minus = denoiser.encode_captions([without(text, concept) for (text,) in captions])
    assert minus is not None, "the bundled model reads captions"
    for t in machine.timesteps:
        noise = torch.stack([seeded_noise(x0.shape[1:], f"{id}|{t}") for id in batch.ids])
        for sign in SIGNS:
            xt = denoiser.schedule.noised(x0, sign * noise, t).requires_grad_()
            out = denoiser.predict(xt, t, batch.condition)
            probe = probes.Probe(xt, t, out, sign * noise)
            yield Objective(out, guidance.dsm(denoiser, probe, x0))
            other = probes.at(denoiser, probe, minus)
            yield Objective(other.out, -guidance.dsm(denoiser, other, x0))


# --- ways to draw ---------------------------------------------------------------------------------


def whole_pictures(chance: np.random.Generator, count: int, weights: np.ndarray) -> Any:
    """A picture at every timestep, then the next."""
    steps = len(weights)
    return [(probe // steps, probe % steps, 0) for probe in range(count)]


def shared(a_draw: int) -> Way:
    """The timesteps of a draw are shared out among so many pictures: the library's way with 5."""

    def way(chance: np.random.Generator, count: int, weights: np.ndarray) -> Any:
        steps, found = len(weights), []
        for probe in range(count):
            draw, t = divmod(probe, steps)
            found.append((draw * a_draw + t % a_draw, t, 0))
        return found

    return way


def mirrored(chance: np.random.Generator, count: int, weights: np.ndarray) -> Any:
    """As `shared(10)`, but each second probe is the one before it with its noise negated."""
    steps = len(weights)
    return [(probe // 2, probe // 2 % steps, probe % 2) for probe in range(count)]


def by_importance(chance: np.random.Generator, count: int, weights: np.ndarray) -> Any:
    """A picture for each probe, timesteps as often as they scatter (Neyman's allocation)."""
    shares = np.maximum(1, np.floor(count * weights / weights.sum())).astype(int)
    while (left := count - shares.sum()) != 0:
        short = count * weights / weights.sum() - shares
        shares[short.argmax() if left > 0 else np.where(shares > 1, short, np.inf).argmin()] += (
            1 if left > 0 else -1
        )
    steps = chance.permutation(np.repeat(np.arange(len(weights)), shares))
    return [(probe, int(t), 0) for probe, t in enumerate(steps)]


WAYS: dict[str, Way] = {
    "one picture at all ten timesteps": whole_pictures,
    "five pictures, two timesteps each": shared(5),
    "ten pictures, one timestep each": shared(10),
    "... each with its noise and the negative": mirrored,
    "ten pictures, timesteps by importance": by_importance,
}


def drawn(way: Way, scores: Tensor, count: int, weights: np.ndarray) -> tuple[Tensor, Tensor]:
    """What a way's probes say, and what the reference does, [n] each.

    The first half of the pictures are drawn from, over and over, at timesteps and noises that they
    have not had; where a timestep is drawn more often its probes count less.
    """
    half = len(scores) // 2
    chosen = way(np.random.default_rng(0), count, weights)
    steps = scores.shape[1]
    sums, taken = torch.zeros(steps, scores.shape[-1]), np.zeros(steps)
    had: set[tuple[int, int, int]] = set()
    for picture, t, sign in chosen:
        place = next(
            (at, t, s)
            for s in (sign, 1 - sign)
            for at in [(picture + more) % half for more in range(half)]
            if (at, t, s) not in had
        )
        had.add(place)
        sums[t] += scores[place]
        taken[t] += 1
    own = sums / torch.tensor(taken)[:, None].clamp_min(1).float()
    return own.mean(0), scores[half:].mean((0, 1, 2))


def others(scores: Sequence[Tensor], own: Tensor) -> np.ndarray:
    """How much probes at each timestep scatter over pictures, by all concepts but one's own."""
    spread = [each.std(0)[:, 0].square().mean(-1).sqrt() for each in scores if each is not own]
    return torch.stack(spread).mean(0).numpy()


def reliability(scores: Sequence[Tensor]) -> dict[str, Any]:
    """How alike two references are, of half of the pictures each."""
    half = PICTURES // 2
    pairs = [(each[:half].mean((0, 1, 2)), each[half:].mean((0, 1, 2))) for each in scores]
    one, two = map(torch.stack, zip(*pairs, strict=True))
    return {"way": "all of one half by the other", "probes": half * 20, **alike(one, two)}


if __name__ == "__main__":
    main()
