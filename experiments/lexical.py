"""The scenes: how much of an answer is the picture, how much the words of its caption?

Cross-attention's keys and values see the caption itself, so a high precision can be word matching.
The bundled model; its first 1,000 pictures (`--full`: all), a fifth of them with a caption in which
one word is false. For each of the 30 concepts: retrieval, isolation, precision among images whose
caption does not name what they show, and how many of the highest are named but do not show it.

    export OMP_NUM_THREADS=1
    python experiments/lexical.py tables [--parameters attn2] [--methods NAME ...]

The tables are of `attn2`, of `attn2-qo` (no keys and values, whose input is the words) and of
`all`, a command for each. Everything lies in `experiments/results/lexical`.
"""

from __future__ import annotations

import argparse

import torch
from common import RESULTS, about, kept_clip, parser

from headwater import Denoiser, load_dataset
from headwater.evaluation.ground_truth.concepts import read_truths
from headwater.evaluation.ground_truth.label_noise import plant_label_noise
from headwater.evaluation.reporting.results import markdown
from headwater.evaluation.retraining.clip import scene_captions
from headwater.evaluation.studies.method_indexes import build_indexes
from headwater.evaluation.studies.method_scores import QuestionOptions
from headwater.evaluation.studies.retrieval import Evaluation, evaluate
from headwater.methods.table import METHODS
from headwater.report.export import slug

FALSE = 0.2  # of all captions
ASKED = (
    "concept-trak-unguided",
    "concept-trak-a",
    "concept-d-trak",
    "caption-d-trak",
    "trak",
    "d-trak",
    "das",
    "journey-trak",
    "pixel-cosine",
    "clip-cosine",
    "random",
)


def main() -> None:
    command = parser(__doc__, "tables")
    command.add_argument("--parameters", default="attn2")
    command.add_argument("--methods", nargs="+", choices=METHODS, default=ASKED)
    given = command.parse_args()
    torch.set_num_threads(1)
    tables(given)


def tables(given: argparse.Namespace) -> None:
    """One table, of one set of parameters."""
    out = RESULTS / ("lexical-full" if given.full else "lexical")
    data = load_dataset("scenes")
    data = plant_label_noise(data if given.full else data.first(1_000), FALSE)
    indexes = build_indexes(
        Denoiser.load("scenes", given.device),
        data,
        out / "indexes",
        given.methods,
        parameters=given.parameters,
        clip=kept_clip(out / "models" / "clip", scene_captions, given.device),
    )
    truths = read_truths("scenes", data.samples)
    options = QuestionOptions(given.draws, guidance=3.0)
    folder = out / slug(given.parameters)
    rows, _ = evaluate(Evaluation("retrieval"), indexes, truths, options, folder, about(given))
    print(markdown(rows), folder / "table.md", sep="\n")


if __name__ == "__main__":
    main()
