"""What does each random projection cost, and how much of the exact gradients does it keep?

The truth is the identity projection: unprojected rows of the scenes' training pictures, and of one
query for each of the 30 concepts (attn2 parameters of the bundled model, 32 draws): the concept
over its default contexts, or, of a method that takes none, the picture drawn of the prompt. They
are kept in the cache folder, 700 MB. Projections are linear, so the mean rows are projected.

- cost: CPU time to project one probe of 32 pictures (forming the gradient included, where it is
  formed) over that of one forward pass of the UNet at the same batch, timed in turn;
- inner products: correlation of projected with exact ones, over all pairs of training rows;
- scores: correlation (Pearson) of the projected answer's scores with the exact ones;
- top-10 overlap: share of the exact top 10 that the projected answer holds too;
- isolation and precision@10, as `benchmarks/isolation.py` measures them with seen prompts.

The last four are means over the concepts, some with 95% bootstrap intervals over them. The dense
projections stop at k = 8192, where they already take most of the run.

    export OMP_NUM_THREADS=1
    python benchmarks/projections.py [--method concept-trak-unguided] [--rows 2000] [--seed 0]
        [--projections count-sketch ...] [--dims 8192 ...] [--cache DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from headwater import Concept, Denoiser, Image, Index, Session, build_index, load_dataset
from headwater.attribution import kernel
from headwater.attribution.scorers.gradient import setting_of
from headwater.evaluation.ground_truth.concepts import scene_prompts
from headwater.evaluation.metrics.intervals import mean_interval
from headwater.evaluation.metrics.retrieval import isolation, precision_at, top_rows
from headwater.features import guidance, probes
from headwater.features.batch import Batch
from headwater.features.extractor import Extractor
from headwater.features.spec import ProbeSpec
from headwater.gradients.layers import Call, per_sample, size
from headwater.gradients.projection import PROJECTIONS, Projection, make_projection
from headwater.gradients.vjp import Tape, unit_rms
from headwater.index.machines import gradient_extractor, load_denoiser
from headwater.methods.table import METHODS
from headwater.models.patches import frozen
from headwater.scenes.dataset import Picture, pictures
from headwater.storage.files import read_tensors, write_tensors

DIMS = (512, 2048, 8192, 32768)
DRAWN = [name for name in PROJECTIONS if name != "identity"]
DENSE = ("gaussian", "rademacher")
DENSE_LARGEST = 8192
BATCH = DRAWS = 32
REPEATS, DENSE_REPEATS = 15, 3  # of a timing
TIMESTEP = 499  # of the timed probe; what a projection costs does not depend on it


@dataclass(frozen=True)
class Question:
    """A concept to ask for, and the other three words of the prompt that names it."""

    query: Concept
    others: tuple[str, ...]


@dataclass(frozen=True)
class Exact:
    """What the unprojected rows give: inner products of training rows, and answers."""

    gram: Tensor
    scores: np.ndarray


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=METHODS, default="concept-trak-unguided")
    parser.add_argument("--projections", nargs="+", choices=DRAWN, default=DRAWN)
    parser.add_argument("--dims", nargs="+", type=int, default=DIMS)
    parser.add_argument("--rows", type=int, default=2000, help="training pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the projections")
    folder = Path(tempfile.gettempdir(), "headwater-projections")
    parser.add_argument("--cache", type=Path, default=folder, help="for the unprojected rows")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    data = load_dataset("scenes").first(given.rows)
    folder = given.cache / f"{given.method}-{len(data)}"
    recipe: dict[str, Any] = {"method": given.method, "projection": "identity"}
    index = build_index(Denoiser.load("scenes"), data, folder, **recipe)
    tried = [(name, dim) for name in given.projections for dim in given.dims]
    compared = compare(Session(index), questions(), given.seed, tried)
    result = {"method": given.method, "rows": len(index), "seed": given.seed, **compared}
    print(json.dumps(result) if given.json else table(result))
    return 0


def questions() -> list[Question]:
    """The queries of `benchmarks/isolation.py` with seen prompts, default contexts and seed 0."""
    return [
        Question(Concept(prompt, concept=word, draws=DRAWS), tuple(others))
        for word, prompt, others in scene_prompts()
    ]


def compare(
    session: Session, asked: list[Question], seed: int, tried: list[tuple[str, int]]
) -> dict:
    """Cost and fidelity of each projection at its k, the exact rows first."""
    index = session.index
    machine = gradient_extractor(session.denoiser, index.recipe)
    layers = machine.layers
    calls, forward = timed_probe(index, layers)
    forming = cost(lambda: form_all(layers, calls), forward, REPEATS)
    rows = torch.cat([*index.blocks(), query_rows(session, machine, asked)])
    exact = Exact(gram(rows[: len(index)]), scores(rows, len(index)))
    found = []
    every = [("identity", index.recipe.dim), *tried]
    for name, dim in tqdm(every, desc="projections", delay=2, leave=False):
        measured = {}
        if name not in DENSE or dim <= DENSE_LARGEST:
            made = make_projection(name, layers, dim, seed)
            repeats = DENSE_REPEATS if name in DENSE else REPEATS
            spent = cost(lambda m=made: project(m, calls.items(), BATCH), forward, repeats)
            measured = {"cost": spent, **fidelity(projected(made, layers, rows), exact, asked)}
        found.append({"projection": name, "k": dim, **measured})
    return {"parameters": index.recipe.dim, "forming alone": forming, "projections": found}


# --- the unprojected rows, and projections of them ------------------------------------------------


def query_rows(session: Session, machine: Extractor, asked: list[Question]) -> Tensor:
    """One unprojected row for each question, the mean over its draws.

    They lie in the index's folder, which belongs to one model and recipe.
    """
    path = session.index.path / "queries" / "scenes.safetensors"
    kept = read_tensors(path)
    if kept is None:
        bar = tqdm(asked, desc="queries", delay=2, leave=False)
        rows = [query_row(session, machine, question.query) for question in bar]
        kept = {"rows": torch.stack(rows)}
        write_tensors(path, kept, {})
    return kept["rows"]


def query_row(session: Session, machine: Extractor, concept: Concept) -> Tensor:
    """The features of a concept, or of a picture of its prompt, the mean over its draws."""
    method = METHODS[session.index.recipe.method]
    picture = Image(concept.prompt, draws=DRAWS, guidance=3.0)
    query = concept if "concept" in method.takes else picture
    drawer = query.drawer(setting_of(session, method, query))
    return machine.query_rows(drawer.objectives(machine, range(drawer.limit or DRAWS))).mean(0)


def projected(made: Projection, layers: Mapping[str, nn.Module], rows: Tensor) -> Tensor:
    """Each row projected, layer by layer."""
    parts = rows.split([size(layer) for layer in layers.values()], dim=1)
    calls = ((name, as_calls(layers[name], part)) for name, part in zip(layers, parts, strict=True))
    return project(made, calls, len(rows))


def as_calls(layer: Any, rows: Tensor) -> list[Call]:
    """Calls of a linear layer whose gradients are these rows: the weight, then the bias.

    One token for each output brings its row of the weight; one more, with x = 0, mends the bias.
    """
    o, i = layer.weight.shape
    x, gy = rows[:, : o * i].reshape(-1, o, i), torch.eye(o).expand(len(rows), o, o)
    if layer.bias is not None:
        x = torch.cat([x, torch.zeros(len(rows), 1, i)], 1)
        gy = torch.cat([gy, rows[:, None, o * i :] - 1], 1)
    return [(x, gy)]


def project(made: Projection, calls: Iterable[tuple[str, list[Call]]], count: int) -> Tensor:
    out = torch.zeros(count, made.dim)
    for layer, own in calls:
        made.add[layer](out, own)
    return out


# --- fidelity -------------------------------------------------------------------------------------


def gram(train: Tensor) -> Tensor:
    """Inner products of all pairs of different rows, one after the other."""
    above = torch.triu_indices(len(train), len(train), 1)
    return (train @ train.T)[above[0], above[1]].double()


def scores(rows: Tensor, n: int) -> np.ndarray:
    """The answers of an index of the first n rows to the queries after them."""
    train, psi = rows[:n], rows[n:]
    made = kernel.kernel_of(lambda: [train], n, train.shape[1])
    return made.trak(psi, [METHODS["trak"].damping])[0].double().numpy()


def fidelity(rows: Tensor, exact: Exact, asked: list[Question]) -> dict:
    """How near these features, and their answers, come to the exact ones."""
    n = exact.scores.shape[1]
    shown = pictures("train")[:n]
    answers = scores(rows, n)
    measured = [
        {"scores": np.corrcoef(answer, truth)[0, 1], "top-10 overlap": overlap(answer, truth)}
        | retrieval(answer, question, shown)
        for answer, truth, question in zip(answers, exact.scores, asked, strict=True)
    ]
    spreads = {name: mean_interval([each[name] for each in measured]) for name in measured[0]}
    names = ("mean", "low", "high")
    means = {name: dict(zip(names, spread, strict=True)) for name, spread in spreads.items()}
    together = torch.stack([gram(rows[:n]), exact.gram])
    return {"inner products": torch.corrcoef(together)[0, 1].item(), **means}


def overlap(answer: np.ndarray, truth: np.ndarray) -> float:
    return len({*top_rows(answer, 10).tolist()} & {*top_rows(truth, 10).tolist()}) / 10


def retrieval(answer: np.ndarray, question: Question, shown: list[Picture]) -> dict[str, float]:
    def holds(word: str) -> np.ndarray:
        return np.array([picture.shows(word) for picture in shown])

    truth, others = holds(question.query.concept), [holds(other) for other in question.others]
    return {
        "isolation": isolation(answer, truth, others),
        "precision@10": precision_at(answer, truth),
    }


# --- cost -----------------------------------------------------------------------------------------


def timed_probe(
    index: Index, layers: Mapping[str, nn.Module]
) -> tuple[dict[str, list[Call]], Callable[[], object]]:
    """The calls of every layer in one probe of real pictures, and the forward pass to compare."""
    denoiser, data = load_denoiser(index), load_dataset("scenes").first(BATCH)
    x0 = denoiser.encode_images([data.image(row) for row in range(BATCH)])
    condition = denoiser.encode_captions([sample.caption for sample in data.samples])
    with frozen(denoiser.network), Tape(layers) as tape:
        probe = next(probes.inversion(denoiser, Batch(x0, condition), ProbeSpec([TIMESTEP])))
        delta, _ = unit_rms(guidance.dps(denoiser, probe, x0))
        calls = dict(tape.calls(probe.out, delta))

    @torch.no_grad()
    def forward() -> object:
        return denoiser.predict(x0, TIMESTEP, condition)

    return calls, forward


def form_all(layers: Mapping[str, nn.Module], calls: dict[str, list[Call]]) -> None:
    for name, own in calls.items():
        per_sample(layers[name], own)


def cost(work: Callable[[], object], forward: Callable[[], object], repeats: int) -> float:
    """Median CPU time of `work` in forward passes, the two timed in turn."""
    spent = [(cpu_seconds(work), cpu_seconds(forward)) for _ in range(repeats)]
    mine, passes = zip(*spent, strict=True)
    return statistics.median(mine) / statistics.median(passes)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


# --- the table ------------------------------------------------------------------------------------


def table(result: dict) -> str:
    heads = (
        "projection", "k", "cost", "inner pr.", "scores", "top-10 overlap", "isolation", "prec@10",
    )  # fmt: skip
    lines = [
        f"{result['method']}, {result['rows']} training rows of {result['parameters']} parameters, "
        f"projection seed {result['seed']}; forming the gradient alone costs "
        f"{result['forming alone']:.2f}",
        written(heads),
    ]
    lines += [
        written((line["projection"], line["k"], *cells(line))) for line in result["projections"]
    ]
    return "\n".join(lines)


def cells(line: dict) -> list[str]:
    if "cost" not in line:
        return ["-"] * 6
    overlap, isolation = (
        "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**line[name])
        for name in ("top-10 overlap", "isolation")
    )
    precision = f"{line['precision@10']['mean']:.3f}"
    inner, correlation = f"{line['inner products']:.4f}", f"{line['scores']['mean']:.3f}"
    return [f"{line['cost']:.2f}", inner, correlation, overlap, isolation, precision]


def written(row: tuple) -> str:
    widths = ("<13", ">6", ">7", ">10", ">7", ">22", ">22", ">8")
    return "".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))


if __name__ == "__main__":
    sys.exit(main())
