"""Rows for TRAK beside torch's own, traker, dattri and bergson: the same work, and what it costs?

Of each picture one row: the gradient of the denoising loss by the attn2 parameters of the bundled
model, its mean over the timesteps of an index, projected to k features. All contenders are given
the same latents, captions and noise, in float32; each makes one forward and one backward pass for
each picture and timestep, and projects by its own means. Outside of the clock: encoding, the noise
(headwater's extractor draws its own inside), and set-up, which is printed. Each in the best setting
that we found for one CPU thread:

- headwater: its extractor, as `build_index` calls it, without the writing; count-sketch;
- torch: `vmap(grad)` of the mean loss over timesteps; headwater's count-sketch of the formed row;
- traker: `TRAKer.featurize`, the mean loss as the model's output. Parameters that are not
  attributed are made buffers, since `grad_wrt` drops their gradients only after they were computed;
  a dense normal matrix kept whole, since blocks of 100 features are drawn anew in each call;
- traker-usual: as its documentation has it, with `grad_wrt` and the projector that it chooses;
- dattri: `AttributionTask.get_grad_loss_func`, by layers, and its dense projector kept whole (its
  `TRAKAttributor` wants a probability of each sample, which there is none of, and shows no rows);
- dattri-mask: the same with its random mask: no arithmetic, and it keeps least;
- bergson: its `StreamingGradientCollector`: hooks, and a projection from both sides to p x p of
  each layer, with the largest p whose features are k at most (28 x 12 x 12 = 4032 for 4096). Its
  own loops read token ids, so that the passes are written here.

First, unprojected gradients of two pictures are compared with autograd's in float64, picture by
picture; fails where one is off by more than 0.1%, relatively ("off by"). Then all are timed in
turn, block by block, CPU time. Last, held-out pictures are asked for: inner products of rows, and
TRAK scores by one formula for all; printed is Pearson's correlation with those of the exact rows,
the mean over questions, which is below 1 by the noise of projections alone. A dense matrix of the
172,608 parameters takes 2.8 GB at k = 4096, and there are two: `--only` takes some contenders.

    pip install --no-deps traker dattri
    pip install --no-deps bergson simple-parsing docstring-parser ml-dtypes petname
    pip install datasets peft accelerate natsort
    export OMP_NUM_THREADS=1
    python benchmarks/peers.py [--rows 64] [--timesteps 10] [--dim 4096] [--only NAMES ...] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from typing import Any

import numpy as np
import torch
from peers_contenders import (
    CONTENDERS,
    PARAMETERS,
    Work,
    mean_loss,
    own_network,
    trak,
    weights_of,
)
from torch import Tensor

from headwater import Denoiser, load_dataset
from headwater.features.batch import encoded_batch
from headwater.models.sampling import seeded_noise
from headwater.scenes.dataset import pictures

QUESTIONS, DAMPING, CLOSE = 16, 0.1, 1e-3
BLOCK = 32  # pictures, at most, of a timed block
# Of a torch that is slower than it could be, and of bergson's first layer, which is as it should be
QUIET = ("There is a performance drop", "Full backward hook is firing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64, help="training pictures")
    parser.add_argument("--timesteps", type=int, default=10)
    parser.add_argument("--dim", type=int, default=4096, help="k, the number of features")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    work = prepare(given.rows, given.timesteps)
    result = compare(work, given.dim, given.only)
    print(json.dumps(result, indent=1) if given.json else table(result))
    return 0 if all(each.get("off by", 0) <= CLOSE for each in result.values()) else 1


def prepare(rows: int, timesteps: int) -> Work:
    """The first pictures of the scenes, and after them the held-out ones that are asked for."""
    denoiser, data = Denoiser.load("scenes", "cpu"), load_dataset("scenes").first(rows)
    held = pictures("validation")[:QUESTIONS]
    images = [data.image(row) for row in range(rows)] + [picture.draw() for picture in held]
    captions = [sample.caption for sample in data.samples] + [picture.caption for picture in held]
    ids = [sample.id for sample in data.samples] + [f"held out {i}" for i in range(QUESTIONS)]
    batch = encoded_batch(denoiser, images, [[caption] for caption in captions], ids)
    assert batch.condition is not None, "the bundled model reads captions"
    recipe, schedule, x0 = trak(denoiser, timesteps, dim=1), denoiser.schedule, batch.x0
    keys = [[f"{recipe.seed}|{id}|{t}|0" for id in ids] for t in recipe.timesteps]
    noise = [torch.stack([seeded_noise(x0.shape[1:], key) for key in own]) for own in keys]
    drawn = list(zip(noise, recipe.timesteps, strict=True))
    return Work(
        denoiser,
        denoiser.layers(PARAMETERS),
        batch,
        torch.tensor(recipe.timesteps),
        torch.stack([schedule.noised(x0, e, t) for e, t in drawn], 1),
        torch.stack([schedule.asked(x0, e, t) for e, t in drawn], 1),
        batch.condition.tensors["encoder_hidden_states"],
    )


def compare(work: Work, dim: int, names: list[str]) -> dict[str, dict[str, Any]]:
    """Of each contender what it costs and how right it is, or why it does not take part."""
    found: dict[str, dict[str, Any]] = {}
    every, exact, machines = list(range(len(work.xt))), exact_rows(work), {}
    for name in names:
        make, install = CONTENDERS[name]
        try:
            whole = make(work, 0)(every[:2])
        except ImportError as problem:
            found[name] = {"missing": f"not installed ({problem}): {install}"}
            continue
        start = time.process_time()
        machines[name] = make(work, dim)
        found[name] = {"set-up": time.process_time() - start, "seconds": 0.0}
        differences = (whole.double() - exact[:2]).norm(dim=1) / exact[:2].norm(dim=1)
        found[name]["off by"] = float(differences.max())
    rows: dict[str, list[Tensor]] = {name: [] for name in machines}
    for block in torch.tensor(every).chunk(math.ceil(len(every) / BLOCK)):
        for name, machine in machines.items():
            start = time.process_time()
            rows[name].append(machine(block.tolist()))
            found[name]["seconds"] += (time.process_time() - start) / len(every)
    for name, parts in rows.items():
        own = torch.cat(parts).double()
        found[name] |= {
            "features": own.shape[1],
            "dot": alike(dot_scores(own), dot_scores(exact)),
            "TRAK": alike(trak_scores(own), trak_scores(exact)),
        }
    return found


def exact_rows(work: Work) -> Tensor:
    """Unprojected rows in float64, [n, d]: no batch, no hooks, no vmap."""
    network, rows = own_network(work).double(), []
    weights = {name: w.double().requires_grad_() for name, w in weights_of(work).items()}
    for row in range(len(work.xt)):
        sample = [part[0].double() for part in work.part([row])]
        loss = mean_loss(network, weights, work.timesteps, *sample)
        gradients = torch.autograd.grad(loss, list(weights.values()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def alike(scores: Tensor, exact: Tensor) -> float:
    """Pearson's correlation over the pictures, the mean over questions."""
    pairs = zip(scores, exact, strict=True)
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in pairs]))


def dot_scores(rows: Tensor) -> Tensor:
    """Inner products of the last rows, the questions, with those before them, [q, n]."""
    return rows[-QUESTIONS:] @ rows[:-QUESTIONS].T


def trak_scores(rows: Tensor) -> Tensor:
    """psi^T (Phi^T Phi + lambda)^-1 phi by the n x n form; lambda in mean squared norms of rows."""
    gram = rows[:-QUESTIONS] @ rows[:-QUESTIONS].T
    damped = gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    return torch.linalg.solve(damped, dot_scores(rows).T).T


def table(result: dict[str, dict[str, Any]]) -> str:
    """A line for each contender; `ratio` is of headwater's time."""
    heads = ("features", "set-up s", "s/picture", "ratio", "off by", "dot", "TRAK")
    lines = [f"{'':<13}" + "".join(f"{head:>11}" for head in heads)]
    unit = result.get("headwater", {}).get("seconds", math.nan)
    for name, each in result.items():
        if "missing" in each:
            lines.append(f"{name:<13}{each['missing']}")
            continue
        cells = (
            f"{each['features']}", f"{each['set-up']:.2f}", f"{each['seconds']:.4f}",
            f"{each['seconds'] / unit:.2f}", f"{each['off by']:.1e}",
            f"{each['dot']:.3f}", f"{each['TRAK']:.3f}",
        )  # fmt: skip
        failed = "" if each["off by"] <= CLOSE else " FAILED"  # nan too
        lines.append(f"{name:<13}" + "".join(f"{cell:>11}" for cell in cells) + failed)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
