"""Every method on the scenes: does it find the concept, can it tell it from the rest of the prompt?

For each of the scenes' 30 concepts one random prompt that names all four attributes. Methods that
take a concept are asked for it (default contexts); the others are shown the picture that the model
draws of the prompt, so that their answer is the same whichever concept of it is meant. Truth is
what a training picture shows. Printed are precision@10 and isolation, mean and 95% bootstrap
interval over the concepts, CPU seconds for a query (the first of its kind) and for the features of
1,000 training images. Checkpoint methods average the bundled model with the same model trained on
for 200 steps. Methods whose results are in the folder already are not run again.

    export OMP_NUM_THREADS=1
    python benchmarks/methods.py [--rows 2000] [--draws 32] [--methods NAME ...] [--json]
        [--folder methods-benchmark]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from projections import Question, questions
from tqdm import tqdm

from headwater import Denoiser, Index, TrainingSet, build_index, load_dataset
from headwater.attribution.resources import Resources
from headwater.data.prefetch import reading
from headwater.evaluation.metrics.intervals import mean_interval
from headwater.evaluation.metrics.retrieval import isolation, precision_at
from headwater.evaluation.retraining.clip import train_clip
from headwater.index.rows import Source, shard_rows
from headwater.methods.row import Method
from headwater.methods.table import METHODS
from headwater.models.clip import Clip
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.runtime.batch_size import BatchSize
from headwater.scenes.dataset import pictures
from headwater.storage.files import write_text

TIMED = 64  # training images
ASKABLE = [name for name, method in METHODS.items() if {"concept", "image"} & set(method.takes)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="training pictures")
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--methods", nargs="+", choices=ASKABLE, default=ASKABLE)
    parser.add_argument("--folder", type=Path, default=Path("methods-benchmark"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.folder / f"rows-{given.rows}"
    data, denoiser = load_dataset("scenes").first(given.rows), Denoiser.load("scenes")
    rows = []
    for name in given.methods:
        path = folder / "results" / f"{name}-{given.draws}.json"
        if not path.exists():
            row = measure(METHODS[name], denoiser, data, folder, given.draws)
            write_text(path, json.dumps(row))
        rows.append(json.loads(path.read_text()))
    print(json.dumps({"rows": given.rows, "methods": rows}) if given.json else table(rows))
    return 0


def measure(
    method: Method, denoiser: Denoiser, data: TrainingSet, folder: Path, draws: int
) -> dict[str, Any]:
    """One row of the table."""
    index = index_for(method, denoiser, data, folder)
    shown, found, seconds = pictures("train")[: len(data)], [], []
    for question in tqdm(questions(), desc=method.name, leave=False):
        start = time.process_time()
        answer = index.attribute(asked(method, question, draws), method=method.name)
        if answer.provenance["reused_query_gradient"] is False:
            seconds.append(time.process_time() - start)
        found.append(scored(answer.scores, question, shown))
    precision, alone = zip(*found, strict=True)
    return {
        "method": method.name,
        "question": "concept" if "concept" in method.takes else "image",
        "precision@10": interval(precision),
        "isolation": interval(alone),
        "seconds per query": float(np.median(seconds)) if seconds else None,
        "seconds per 1000 images": per_thousand(index) if method.train is not None else None,
    }


def asked(method: Method, question: Question, draws: int) -> Concept | Image:
    concept = question.query
    if "concept" in method.takes:
        return Concept(concept.prompt, concept.concept, draws=draws)
    return Image(concept.prompt, draws=draws, guidance=3.0)


def scored(scores: np.ndarray, question: Question, shown: list) -> tuple[float, float]:
    def holds(word: str) -> np.ndarray:
        return np.array([picture.shows(word) for picture in shown])

    truth, others = holds(question.query.concept), [holds(other) for other in question.others]
    return precision_at(scores, truth), isolation(scores, truth, others)


def interval(values: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), mean_interval(list(values)), strict=True))


# --- what a method needs --------------------------------------------------------------------------


def index_for(method: Method, denoiser: Denoiser, data: TrainingSet, folder: Path) -> Index:
    """An index that serves the method; methods with one train side share it."""
    other = METHODS["concept-trak-unguided"] if method.train is None else method
    assert other.train is not None
    side = f"{other.train.path}-{other.train.delta}-{other.normalise}-{other.checkpoints}"
    options: dict[str, Any] = {}
    if other.train.path == "clip":
        options["clip"] = Clip(clip_folder(folder))
    if other.checkpoints > 1:
        options["checkpoints"] = [later_checkpoint(denoiser, data, folder)]
    return build_index(denoiser, data, folder / side, method=other.name, **options)


def clip_folder(folder: Path) -> Path:
    """A small CLIP trained on the scenes and their captions."""
    path = folder / "clip"
    if not (path / "config.json").exists():
        shown = pictures("train")
        train_clip([p.draw() for p in shown], [p.caption for p in shown], path)
    return path


def later_checkpoint(denoiser: Denoiser, data: TrainingSet, folder: Path) -> Path:
    """The bundled model after 200 more steps of ordinary training on these pictures."""
    path = folder / "checkpoint"
    if (path / "model_index.json").exists():
        return path
    later = Denoiser.load("scenes")
    x0 = later.encode_images([data.image(row) for row in range(len(data))])
    condition = later.encode_captions([sample.caption for sample in data.samples])
    assert condition is not None
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(later.network.parameters(), lr=1e-4)
    for _ in tqdm(range(200), desc="checkpoint", leave=False):
        batch = torch.randint(len(x0), (32,), generator=generator)
        t = int(torch.randint(1000, (), generator=generator))
        noise = torch.randn(x0[batch].shape, generator=generator)
        eps = later.predict(
            later.schedule.noised(x0[batch], noise, t), t, condition[batch.tolist()]
        )
        optimiser.zero_grad()
        (eps - noise).square().mean().backward()
        optimiser.step()
    later.pipe.save_pretrained(path)
    return path


def per_thousand(index: Index) -> float:
    """CPU seconds for the features of 1,000 training images, from a timed batch."""
    batch = BatchSize(32)
    with reading(index.training_set) as reader:
        source = Source(Resources(index).extractor(), index.training_set, reader)
        start = time.process_time()
        shard_rows(source, range(TIMED), batch, False, lambda count: None)
    return (time.process_time() - start) * 1000 / TIMED * (1 + index.manifest.checkpoints)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'method':<24}{'asked':<8}{'precision@10':<21}{'isolation':<23}{'s/query':>8}{'s/1000':>8}"
    ]
    for row in rows:
        cells = [
            "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row[name])
            for name in ("precision@10", "isolation")
        ]
        costs = [
            "-" if row[name] is None else f"{row[name]:.1f}"
            for name in ("seconds per query", "seconds per 1000 images")
        ]
        lines.append(
            f"{row['method']:<24}{row['question']:<8}{cells[0]:<21}{cells[1]:<23}"
            f"{costs[0]:>8}{costs[1]:>8}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
