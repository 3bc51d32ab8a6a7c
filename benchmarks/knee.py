"""How many timesteps, draws of noise and features does an index need for the scores it stands for?

    export OMP_NUM_THREADS=1
    python benchmarks/knee.py [--rows 192]

TRAK scores of held-out pictures of the scenes, `attn2` of the bundled model, no unit norms. They
stand for the mean over all timesteps and all noise; here that is 100 timesteps with noise of
another seed, unprojected. Each setting is compared with it: Pearson's correlation over the pictures
and the share of the ten highest in common, means over questions with 95% intervals over them. The
questions are the same rows for all, so that only the index differs. The first line is how alike two
references of half the timesteps each are.

The cost of a setting is forward and backward passes for each picture, timesteps times draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from peers import QUESTIONS, prepare, trak_scores
from peers_contenders import Work, sketcher, trak
from torch import Tensor

from headwater.evaluation.metrics.intervals import Interval, mean_interval
from headwater.evaluation.reporting.results import circumstances, markdown
from headwater.features.extractor import Extractor, ProbeRow
from headwater.index.machines import gradient_extractor

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
    given = parser.parse_args()
    torch.set_num_threads(1)
    work = prepare(given.rows, 1)
    reference = means(work, seed=1, timesteps=EVERY, draws=1)
    exact, questions = reference[EVERY, 1], reference[EVERY, 1][-QUESTIONS:]
    scores = asked(exact, questions)
    even, odd = (asked(reference[name, 1], questions) for name in ("even", "odd"))
    rows: list[dict[str, Any]] = [
        {"timesteps": "half by the other half", "draws": 1, "features": "all", **alike(even, odd)}
    ]
    own = means(work, seed=0, timesteps=EVERY, draws=1)
    own |= means(work, seed=0, timesteps=MOST, draws=max(DRAWS))
    for (timesteps, draws), found in own.items():
        if isinstance(timesteps, int):
            setting = {"timesteps": timesteps, "draws": draws, "features": "all"}
            like = alike(asked(found, questions), scores)
            rows.append({**setting, "passes": timesteps * draws, **like})
    for dim in FEATURES:
        sketches = sketcher(exact.shape[1], dim)(exact)
        like = alike(asked(sketches, sketches[-QUESTIONS:]), scores)
        rows.append({"timesteps": EVERY, "draws": 1, "features": f"{dim:,}", **like})
    print(markdown(rows), circumstances()["machine"], sep="\n")


def means(work: Work, seed: int, timesteps: int, draws: int) -> dict[tuple[Any, int], Tensor]:
    """Unprojected rows by (how many timesteps, how many draws), [n, d]; also of every second."""
    recipe = replace(trak(work.denoiser, timesteps, projection="identity"), seed=seed, draws=draws)
    machine = gradient_extractor(work.denoiser, recipe)
    assert isinstance(machine, Extractor)
    parts: dict[tuple[Any, int], list[Tensor]] = {}
    for start in range(0, len(work.xt), BLOCK):
        block = work.batch.part(list(range(start, min(start + BLOCK, len(work.xt)))))
        for name, mean in block_means(machine.train_probes(block), timesteps, draws):
            parts.setdefault(name, []).append(mean)
    return {name: torch.cat(part) for name, part in parts.items()}


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


def asked(rows: Tensor, questions: Tensor) -> Tensor:
    """TRAK scores of an index of these rows, [q, n]."""
    return trak_scores(torch.cat([rows[:-QUESTIONS], questions]).double())


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
