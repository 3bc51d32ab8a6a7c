"""Emoji by four designers: does an answer find the object, the designer, or just the words?

Real drawings (`emoji-styles`, see docs/data.md). Reduced, so that two cores carry it: 1,500 of the
4,109 drawings, namely all of the 255 emoji that show one of the 40 objects of `concepts.json` and
some others; the scenes' autoencoder trained on, on these drawings, for 600 steps; a UNet of two
fifths of the bundled one's parameters with a text encoder and a vocabulary of its own, trained from
random weights for 4,000 steps of 32. `--full` takes all drawings, the bundled architecture and
40,000 steps, for a GPU.

    export OMP_NUM_THREADS=1 HEADWATER_DATA=FOLDER
    python experiments/emoji.py model       train; goes on where it stopped; draw some samples
    python experiments/emoji.py tables      attribute, and hold the answers against the truth
    python experiments/emoji.py designers   a sheet: which drawings taught it each designer's style?

The last two take `--parameters`, the second `--methods` too. Everything lies in
`experiments/results/emoji`; the model, tables, samples and the sheet are kept in the repository.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import PIL.Image
import PIL.ImageOps
import torch
from common import RESULTS, about, kept_clip, parser, real_data

from headwater import Concept, Denoiser, TrainingSet, load_dataset
from headwater.evaluation.ground_truth.concepts import read_truths
from headwater.evaluation.reporting.results import markdown
from headwater.evaluation.retraining.bundled import (
    StageOptions,
    stack_images,
    train_autoencoder,
)
from headwater.evaluation.retraining.clip import data_captions, make_tokenizer
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.models import save_pipeline
from headwater.evaluation.retraining.outputs import samples
from headwater.evaluation.retraining.retrain import Task, retrain, study_of
from headwater.evaluation.studies.method_indexes import build_indexes
from headwater.evaluation.studies.method_scores import QuestionOptions
from headwater.evaluation.studies.retrieval import Evaluation, evaluate
from headwater.methods.table import METHODS
from headwater.report.export import slug
from headwater.report.sheets.contact_sheet import ACCENT, columns_sheet
from headwater.scenes.pipeline import new_pipeline

MAX_TOKENS = 24
# More than one model, or hours of questions: left out unless they are named.
LEFT_OUT = ("unlearning", "mucs", "tracin", "gas", "concept-trak-d", "d-trak-square")
SHOWN = ("cat", "star", "book", "envelope", "bus", "apple")
STYLES = ("noto", "emojitwo", "blob", "firefox")


def main() -> None:
    command = parser(__doc__, "model", "tables", "designers")
    command.add_argument("--parameters", default="attn2")
    command.add_argument("--methods", nargs="+", choices=METHODS)
    given = command.parse_args()
    if given.methods and given.stage != "tables":
        command.error("--methods is for tables alone")
    torch.set_num_threads(1)
    out = RESULTS / ("emoji-full" if given.full else "emoji")
    data = drawings(given.full)
    model = trained(out, data, given)
    if given.stage == "tables":
        tables(out, data, model, given)
    elif given.stage == "designers":
        designers(out, data, model, given)
    else:
        sheet(model).save(out / "samples.png")
        print(out / "samples.png")


def drawings(full: bool) -> TrainingSet:
    """All drawings; or those of every emoji with an object of the truth, and others at random."""
    folder = real_data("emoji-styles")
    data = load_dataset(folder / "train.parquet")
    if full:
        return data
    wanted = {
        emoji(id)
        for entry in json.loads((folder / "concepts.json").read_text())
        if entry["kind"] == "object"
        for id in entry["positives"]
    }
    rows = [row for row, sample in enumerate(data.samples) if emoji(sample.id) in wanted]
    others = [row for row, sample in enumerate(data.samples) if emoji(sample.id) not in wanted]
    return data.take(sorted(rows + random.Random(0).sample(others, 1_500 - len(rows))))


def emoji(id: str) -> str:
    return id.split("-", 1)[1]


def truth_of(data: TrainingSet, out: Path) -> Path:
    """`concepts.json`, for the drawings that there are."""
    there = {sample.id for sample in data.samples}
    entries = json.loads((real_data("emoji-styles") / "concepts.json").read_text())
    kept = [
        {
            "concept": entry["concept"],
            **{k: [i for i in entry[k] if i in there] for k in ("positives", "ambiguous")},
        }
        for entry in entries
    ]
    path = out / "truth.json"
    path.write_text(json.dumps(kept))
    return path


# --- the model ------------------------------------------------------------------------------------


def trained(out: Path, data: TrainingSet, given: argparse.Namespace) -> Denoiser:
    """The model of these drawings and their captions, trained once."""
    kept, base = out / "models" / "full", out / "models" / "base"
    if (kept / "model_index.json").exists():
        return Denoiser.load(kept, given.device)
    if not (base / "model_index.json").exists():
        make_base(base, data, 600 if not given.full else 6_000, given.device)
    encoder = Denoiser.load(base, "cpu")
    config = ModelConfig(
        phases=(Phase(4_000, learning_rate=2e-3, weight="shapes-first"),),
        base=str(base),
        network={"block_out_channels": (16, 32, 64)},
        ema_decay=0.998,
    )
    if given.full:
        phase = Phase(40_000, batch=64, weight="shapes-first")
        config = ModelConfig((phase,), base=str(base), network={})
    study = study_of(out, config, data, encoder, device=given.device)
    retrain(study, [Task(kept.name, tuple(range(len(data))), kept=True)])
    return Denoiser.load(kept, given.device)


def make_base(out: Path, data: TrainingSet, steps: int, device: str) -> None:
    """Tokenizer, text encoder and UNet for these captions, and an autoencoder for the drawings."""
    captions = [sample.caption for sample in data.samples]
    torch.manual_seed(0)
    pipe = new_pipeline(make_tokenizer(captions, MAX_TOKENS))
    pipe.vae = Denoiser.load("scenes", "cpu").pipe.vae
    images = stack_images([data.image(row) for row in range(len(data))])
    work = out.parent.parent / "training" / "base"
    train_autoencoder(pipe, images, work, StageOptions(steps, device))
    save_pipeline(pipe, out)


def sheet(model: Denoiser) -> PIL.Image.Image:
    """What the model draws: an object a column, a designer a row."""
    captions = [f"a drawing of a {name}, {style} style" for style in STYLES for name in SHOWN]
    drawn = iter(model.decode(samples(model, captions, seeds=[0] * len(captions)).to(model.device)))
    return columns_sheet(
        SHOWN,
        [(f"{style} style", [[next(drawn)] for _ in SHOWN]) for style in STYLES],
        title="What the model draws",
        subtitle="of “a drawing of a <object>, <designer> style”, from the same noise",
    )


def designers(out: Path, data: TrainingSet, model: Denoiser, given: argparse.Namespace) -> None:
    """For each designer what Concept-TRAK ranks highest; and how much of it he drew."""
    (index,) = build_indexes(
        model, data, out / "indexes", ["concept-trak-unguided"], parameters=given.parameters
    ).values()
    prompts = [f"a drawing of a {SHOWN[0]}, {style} style" for style in STYLES]
    made = samples(model, prompts, seeds=[0] * len(prompts))
    drawn = model.decode(made.to(model.device))
    heads, columns = [], []
    for style, prompt in zip(STYLES, prompts, strict=True):
        top = index.attribute(Concept(prompt, style, draws=given.draws)).top(50)
        own = sum(entry.id.startswith(f"{style}-") for entry in top) / len(top)
        there = sum(sample.id.startswith(f"{style}-") for sample in data.samples) / len(data)
        print(f"{style}: drew {own:.0%} of the 50 highest, and {there:.0%} of all")
        heads.append(f"{style}: {own:.0%}, of all {there:.0%}")
        shown = [(index.image(entry.row), entry.id) for entry in top[:6]]
        columns.append([framed(image, id.startswith(f"{style}-")) for image, id in shown if image])
    columns_sheet(
        heads,
        [
            (f"The model's {SHOWN[0]}", [[framed(image, False)] for image in drawn]),
            ("Highest", columns),
        ],
        title="Which designer taught this style?",
        subtitle=f"Concept-TRAK, asked for the designer's name, {len(data):,} drawings. Above each "
        "column, how many of its 50 highest are by that designer, and of all drawings; his are "
        "framed.",
        tile=176,
    ).save(out / "designers.png")
    print(out / "designers.png")


def framed(image: PIL.Image.Image, own: bool) -> PIL.Image.Image:
    """In a frame that is seen if the designer made it; all are of one size."""
    return PIL.ImageOps.expand(image, max(2, image.width // 32), ACCENT if own else "white")


# --- the tables -----------------------------------------------------------------------------------


def tables(out: Path, data: TrainingSet, model: Denoiser, given: argparse.Namespace) -> None:
    """Retrieval, isolation and the lexical control of every method."""
    names = given.methods or [
        name
        for name, method in METHODS.items()
        if name not in LEFT_OUT and {"concept", "image"} & set(method.takes)
    ]
    clip = kept_clip(out / "models" / "clip", lambda: data_captions(data), given.device)
    recipe = {"parameters": given.parameters, "clip": clip}
    indexes = build_indexes(model, data, out / "indexes", names, **recipe)
    truths = read_truths(str(truth_of(data, out)), data.samples)
    options = QuestionOptions(given.draws, guidance=3.0)
    folder = out / "retrieval" / slug(given.parameters)
    stated = about(given, methods=names)
    rows, _ = evaluate(Evaluation("retrieval"), indexes, truths, options, folder, stated)
    print(markdown(rows), folder / "table.md", sep="\n")


if __name__ == "__main__":
    main()
