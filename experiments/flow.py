"""A flow transformer of the scenes: are concepts' pictures found as by the bundled UNet?

A transformer of Stable Diffusion 3's kind (3.5 million parameters, straight paths, words and
picture attending to each other) is trained on the bundled model's 2,000 pictures, around the
bundled autoencoder and text encoder, which stay as they are. It and the bundled UNet (2.7 million)
are asked for the 30 concepts by Concept-TRAK, over gradients of several sets of parameters.

    export OMP_NUM_THREADS=1
    python experiments/flow.py learn                       train it (for a GPU)
    python experiments/flow.py ask --model flow|unet --parameters words|attention|image|all
    python experiments/flow.py tables                      of all that was asked, one table

Everything lies in `experiments/results/flow`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from common import RESULTS, about, parser

from headwater import Denoiser, load_dataset
from headwater.evaluation.ground_truth.concepts import read_truths
from headwater.evaluation.metrics.intervals import interval
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.outputs import samples
from headwater.evaluation.retraining.retrain import Task, retrain, study_of
from headwater.evaluation.retraining.scene_outputs import CONCEPTS, concept_rates
from headwater.evaluation.studies.method_indexes import build_indexes
from headwater.evaluation.studies.method_scores import QuestionOptions
from headwater.evaluation.studies.retrieval import Evaluation, evaluate
from headwater.gradients.layers import size
from headwater.report.sheets.contact_sheet import columns_sheet
from headwater.scenes.dataset import Picture, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

OUT = RESULTS / "flow"
CONFIG = ModelConfig(
    (Phase(12_000, batch=64),),
    family="sd3",
    network={"num_layers": 6},
    text_encoder=None,
    ema_decay=0.999,
)
# Set -> what `--parameters` is for each model. Words: keys and values of what is read.
SETS: dict[str, dict[str, str]] = {
    "words": {"flow": "words", "unet": "words"},
    "attention": {"flow": "attention", "unet": "attention"},
    "image": {"flow": r"\.attn\.to_", "unet": r"\.attn1\."},
    "all": {"flow": "all", "unet": "all"},
}
METHODS = ("concept-trak-unguided",)
DRAWN = 240  # prompts that the judge looks at pictures of
SHOWN = 8


def main() -> None:
    command = parser(__doc__, "learn", "ask", "tables")
    command.add_argument("--model", choices=("flow", "unet"), default="flow")
    command.add_argument("--parameters", choices=SETS, default="words")
    given = command.parse_args()
    torch.set_num_threads(1)
    if given.stage == "learn":
        learned(given)
    elif given.stage == "ask":
        asked(given)
    else:
        tables(given)


def learned(given: Any) -> None:
    """Train the transformer once, and let the judge look at what both models draw."""
    torch.set_float32_matmul_precision("high")
    data, encoder = load_dataset("scenes"), Denoiser.load("scenes", "cpu")
    study = study_of(OUT, CONFIG, data, encoder, device=given.device)
    retrain(study, [Task("full", tuple(range(len(data))), kept=True)])
    prompted = pictures("train")[-DRAWN:]
    drawn = {name: drawings(place, prompted, given.device) for name, place in places().items()}
    rates = {name: concept_rates(pixels, prompted).tolist() for name, pixels in drawn.items()}
    (OUT / "rates.json").write_text(json.dumps(rates) + "\n")
    prompts = [picture.caption for picture in prompted[:SHOWN]]
    sheet(prompts, drawn).save(OUT / "learned.png")


def places() -> dict[str, str | Path]:
    """Where each model lies."""
    return {"flow": OUT / "models" / "full", "unet": "scenes"}


def drawings(place: str | Path, prompted: list[Picture], device: str) -> torch.Tensor:
    """What a model makes of the prompts: [n, 3, h, w] from 0 to 1."""
    model = Denoiser.load(place, device)
    latents = samples(model, [picture.caption for picture in prompted])
    with torch.no_grad():
        parts = [model.pixels(part.to(model.device)).cpu() for part in latents.split(50)]
    return torch.cat(parts)


def sheet(prompts: list[str], drawn: Mapping[str, torch.Tensor]) -> Any:
    """A row for each model, a column for each prompt."""
    bands = [(name, [[as_image(each)] for each in drawn[name][: len(prompts)]]) for name in drawn]
    return columns_sheet(prompts, bands, title="What the models make of training captions")


def as_image(pixels: torch.Tensor) -> PIL.Image.Image:
    """A picture of numbers from 0 to 1."""
    return PIL.Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())


def asked(given: Any) -> None:
    """Index one set of parameters of one model, and ask for every concept."""
    name = SETS[given.parameters][given.model]
    data = load_dataset("scenes")
    model = Denoiser.load(places()[given.model], given.device)
    folder = OUT / f"{given.model}-{given.parameters}"
    indexes = build_indexes(model, data, OUT / "indexes" / folder.name, METHODS, parameters=name)
    numbers = sum(map(size, model.layers(name).values()))
    _, written = evaluate(
        Evaluation("retrieval"),
        indexes,
        read_truths("scenes", data.samples),
        QuestionOptions(given.draws, guidance=3.0),
        folder,
        about(given, numbers=numbers),
    )
    # what `tables` reads: results.json holds places of this machine
    kept = {"numbers": numbers, "values": written["values"]}
    (folder / "values.json").write_text(json.dumps(kept) + "\n")
    print((folder / "table.md").read_text())


def tables(given: Any) -> None:
    """One table of all that was asked."""
    rows = []
    for model in places():
        for chosen in SETS:
            file = OUT / f"{model}-{chosen}" / "values.json"
            if file.exists():
                rows += rows_of(model, chosen, json.loads(file.read_text()))
    rates = json.loads((OUT / "rates.json").read_text())
    notes = [
        "precision@10: share of the ten highest that show the concept; isolation: that, less the "
        "share that shows each other concept of the prompt",
        *(f"{name}: draws what it is asked for at {means(rates[name])}" for name in places()),
        "intervals: 95%, over 30 concepts",
    ]
    title = "Concepts of the scenes: a flow transformer and the bundled UNet"
    write_results(OUT, title, about(given), rows, notes)
    print(markdown(rows))


def rows_of(model: str, chosen: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of one set of one model, a row for each method."""
    names = ("precision@10", "isolation", "average precision", "unnamed precision@10")
    return [
        {
            "model": model,
            "set": chosen,
            "parameters": SETS[chosen][model],
            "numbers": f"{result['numbers']:,}",
            "method": method,
            **{each: interval(values[each]) for each in names},
        }
        for method, values in result["values"].items()
        if method in METHODS
    ]


def means(rates: list[float]) -> str:
    """Mean rate over the concepts of each attribute."""
    of = dict(zip(CONCEPTS, rates, strict=True))
    return ", ".join(
        f"{name} {np.mean([of[value] for value in values]):.2f}"
        for name, values in ATTRIBUTES.items()
    )


if __name__ == "__main__":
    main()
