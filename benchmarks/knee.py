"""How many timesteps, draws of noise and features does an index need for the scores it stands for?

    export OMP_NUM_THREADS=1
    python benchmarks/knee.py [--metric ekfac] [--rows 192]

Scores of held-out pictures' losses on the scenes, `attn2` of the bundled model, no unit norms: by
TRAK's kernel, or in the metric of an EK-FAC curvature, fitted to these images as an index fits it,
at the default's damping. They stand for the mean over all timesteps and all noise; here that is 100
timesteps with noise of another seed, unprojected. Each setting is compared with it: Pearson's
correlation over the pictures and the share of the ten highest in common, means over questions with
95% intervals over them. The questions are the same rows for all, so that only the index differs.
The first line is how alike two references of half the timesteps each are.

The cost of a setting is forward and backward passes for each picture, timesteps times draws.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from peers import QUESTIONS, prepare, trak_scores
from peers_contenders import Work, sketcher, trak
from torch import Tensor

from headwater import build_index, load_dataset
from headwater.evaluation.metrics.intervals import Interval, mean_interval
from headwater.evaluation.reporting.results import circumstances, markdown
from headwater.features.extractor import Extractor, ProbeRow
from headwater.index.curvature.fit import former_of
from headwater.index.machines import AS_THEY_ARE, Former, gradient_extractor
from headwater.methods.table import METHODS

EVERY = 100  # timesteps of the reference
TIMESTEPS = (1, 2, 5, 10, 20, 50, 100)
DRAWS, MOST = (1, 2, 4), 20  # of noise at each of so many timesteps at most
FEATURES = (1024, 4096, 8192, 16_384, 32_768, 65_536)
BLOCK = 16
TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=192, help="training pictures")
    parser.add_argument("--metric", choices=("trak", "ekfac"), default="trak")
    given = parser.parse_args()
    torch.set_num_threads(1)
    work = prepare(given.rows, 1)
    asked = by_kernel if given.metric == "trak" else by_product
    with tempfile.TemporaryDirectory() as folder:
        formers = AS_THEY_ARE if given.metric == "trak" else fitted(work, given.rows, folder)
        reference = means(work, formers, seed=1, timesteps=EVERY, draws=1)
        own = means(work, formers, seed=0, timesteps=EVERY, draws=1)
        own |= means(work, formers, seed=0, timesteps=MOST, draws=max(DRAWS))
    exact, questions = reference[EVERY, 1], reference[EVERY, 1][-QUESTIONS:]
    scores = asked(exact, questions)
    even, odd = (asked(reference[name, 1], questions) for name in ("even", "odd"))
    rows: list[dict[str, Any]] = [
        {"timesteps": "half by the other half", "draws": 1, "features": "all", **alike(even, odd)}
    ]
    for (timesteps, draws), found in own.items():
        if isinstance(timesteps, int):
            setting = {"timesteps": timesteps, "draws": draws, "features": "all"}
            like = alike(asked(found, questions), scores)
            rows.append({**setting, "passes": timesteps * draws, **like})
    for dim in FEATURES:
        sketch = sketcher(exact.shape[2], dim)
        sketches = torch.stack([sketch(part) for part in exact.unbind(1)], 1)
        like = alike(asked(sketches, sketches[-QUESTIONS:]), scores)
        rows.append({"timesteps": EVERY, "draws": 1, "features": f"{dim:,}", **like})
    print(markdown(rows), circumstances()["machine"], sep="\n")


def fitted(work: Work, rows: int, folder: str) -> list[Former]:
    """What makes rows of images, and what makes those of questions."""
    images, name = load_dataset("scenes").first(rows), "ekfac"
    index = build_index(work.denoiser, images, folder, method=name, self_check=False)
    fit = partial(former_of, index.path, index.manifest, index.recipe)
    return [fit(), fit(damping=METHODS[name].damping)]


def means(
    work: Work, formers: Sequence[Former], seed: int, timesteps: int, draws: int
) -> dict[tuple[Any, int], Tensor]:
    """Unprojected rows by (how many timesteps, how many draws), [n, former, d].

    Also of every second timestep of the reference.
    """
    recipe = replace(trak(work.denoiser, timesteps, projection="identity"), seed=seed, draws=draws)
    machine = gradient_extractor(work.denoiser, recipe, formers)
    assert isinstance(machine, Extractor)
    parts: dict[tuple[Any, int], list[Tensor]] = {}
    for start in range(0, len(work.xt), BLOCK):
        block = work.batch.part(list(range(start, min(start + BLOCK, len(work.xt)))))
        for name, mean in block_means(machine.train_probes(block), timesteps, draws):
            parts.setdefault(name, []).append(mean)
    n = len(work.xt)
    return {name: torch.cat(part).view(n, len(formers), -1) for name, part in parts.items()}


def block_means(
    probes: Iterator[ProbeRow], timesteps: int, draws: int
) -> Iterator[tuple[tuple[Any, int], Tensor]]:
    """The same of a few pictures, from all their probes: at each timestep its draws."""
    chosen = [(t, d) for t in TIMESTEPS if timesteps % t == 0 for d in DRAWS if d <= draws]
    wanted: dict[tuple[Any, int], set[tuple[int, int]]] = {
        (t, d): {
            (at, draw)
            for at in range(timesteps // t - 1, timesteps, timesteps // t)
            for draw in range(d)
        }
        for t, d in chosen
    }
    if timesteps == EVERY:
        wanted |= {
            (name, 1): {(at, 0) for at in range(first, timesteps, 2)}
            for name, first in (("even", 0), ("odd", 1))
        }
    sums: dict[tuple[Any, int], Tensor] = {}
    for number, probe in enumerate(probes):
        place = divmod(number, draws)
        for name, places in wanted.items():
            if place in places:
                sums[name] = sums[name] + probe.features if name in sums else probe.features.clone()
    yield from ((name, total / len(wanted[name])) for name, total in sums.items())


def by_kernel(rows: Tensor, questions: Tensor) -> Tensor:
    """TRAK scores of an index of these rows, [q, n]."""
    return trak_scores(torch.cat([rows[:-QUESTIONS, 0], questions[:, -1]]).double())


def by_product(rows: Tensor, questions: Tensor) -> Tensor:
    """Scores in the metric that rows and questions are in, [q, n]."""
    return questions[:, -1].double() @ rows[:-QUESTIONS, 0].double().T


def alike(found: Tensor, scores: Tensor) -> dict[str, Interval]:
    """How like two sets of scores are, over questions."""
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(found, scores, strict=True)]
    correlations = [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs]
    tops = [({*np.argsort(-a)[:TOP]}, {*np.argsort(-b)[:TOP]}) for a, b in pairs]
    common = [len(one & other) / TOP for one, other in tops]
    return {
        "Pearson": Interval(*mean_interval(correlations)),
        f"top {TOP} in common": Interval(*mean_interval(common)),
    }


if __name__ == "__main__":
    main()
