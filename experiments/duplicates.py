"""A picture that stands 30 times in a training set: is it its own top proponent?

The bundled model is trained on (300 steps) with 500 of its scenes and 30 copies of a picture of a
combination that it never saw. Methods are asked what taught it that very picture, and the picture
that it now makes of that caption: the copies should be first.

    export OMP_NUM_THREADS=1
    python experiments/duplicates.py tables

Everything lies in `experiments/results/duplicates`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, about, parser

from headwater import Denoiser, Image, from_images, load_dataset
from headwater.data.training_set import TrainingSet, joined
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.retrain import Task, retrain, study_of
from headwater.evaluation.studies.method_indexes import build_indexes
from headwater.evaluation.studies.method_scores import score_questions
from headwater.scenes.dataset import pictures

OUT = RESULTS / "duplicates"
COPIES, AMONG = 30, 500
CONFIG = ModelConfig(
    (Phase(300, learning_rate=3e-4),), network=None, text_encoder=None, ema_decay=0.98
)
ASKED = (
    "concept-trak-unguided", "trak", "d-trak", "das", "gradient-dot", "gradient-cosine",
    "renormalised-influence", "pixel-cosine", "random",
)  # fmt: skip


def main() -> None:
    command = parser(__doc__, "tables")
    command.add_argument("--methods", nargs="+", choices=ASKED, default=ASKED)
    given = command.parse_args()
    torch.set_num_threads(1)
    model, data, asked = planted(given.device)
    tables(model, data, asked, given)


def planted(device: str) -> tuple[Denoiser, TrainingSet, dict[str, tuple[str, Path | None]]]:
    """The model, its images (the copies last), and what is asked: a caption, a file or None."""
    copied = pictures("unseen")[0]
    picture, caption = copied.draw(), copied.caption
    copies = from_images(
        [picture] * COPIES, [caption] * COPIES, ids=[f"copy-{i:02d}" for i in range(COPIES)]
    )
    scenes = load_dataset("scenes").first(AMONG)
    data = joined(f"{COPIES} copies among {AMONG} scenes", [scenes, copies])
    study = study_of(OUT, CONFIG, data, Denoiser.load("scenes", "cpu"), device=device)
    retrain(study, [Task("full", tuple(range(len(data))), kept=True)])
    file = OUT / "planted.png"
    picture.save(file)
    model = Denoiser.load(OUT / "models" / "full", device)
    return model, data, {"itself": (caption, file), "made of its caption": (caption, None)}


def tables(
    model: Denoiser, data: Any, asked: dict[str, tuple[str, Path | None]], given: Any
) -> None:
    """Of each method and picture, where the copies come."""
    indexes = build_indexes(model, data, OUT / "indexes", given.methods)
    copies = np.arange(len(data)) >= AMONG
    rows = []
    for method, index in indexes.items():
        scores = score_questions(
            {method: index},
            lambda method: [
                Image(caption, file=file, draws=given.draws, guidance=5.0 if file else 3.0)
                for caption, file in asked.values()
            ],
            OUT / "scores",
        )[method.name]
        row: dict[str, Any] = {"method": method.name}
        for name, each in zip(asked, scores, strict=True):
            order = np.argsort(-each, kind="stable")
            row[f"{name}: among the first {COPIES}"] = float(copies[order[:COPIES]].mean())
            row[f"{name}: first copy"] = str(1 + int(np.argmax(copies[order])))
        rows.append(row)
    notes = [
        f"among the first {COPIES}: the share of the {COPIES} copies that are among the {COPIES} "
        f"highest of {len(data)}; by chance {COPIES / len(data):.2f}",
        "first copy: the place of the highest, 1 being the top proponent",
    ]
    title = f"A picture that stands {COPIES} times among {AMONG}"
    write_results(OUT, title, about(given), rows, notes)
    print(markdown(rows), OUT / "table.md", sep="\n")


if __name__ == "__main__":
    main()
