"""CIFAR-2: LDS of every method on photographs, as in table 1 of the DAS paper.

Automobiles and horses (`cifar2`, see docs/data.md), an unconditional model of pixels. Reduced, so
that two cores carry it: 500 pictures at 16x16 instead of 5,000 at 32x32; a UNet of 0.65 million
parameters instead of 35.7, trained for 1,500 steps of 32 (190 epochs of a half) without mirroring;
16 random halves instead of 64, 8 of them trained with a second seed too; 60 validation pictures and
60 generated ones, 10 timesteps; for Journey-TRAK five steps of the making of the latter. `--full`
is near the paper's setting (with our trainer's optimizer and warm-up, and as many steps for a half
as for everything), for a GPU over several runs.

    export OMP_NUM_THREADS=1 HEADWATER_DATA=FOLDER
    python experiments/cifar2.py models     train and measure; goes on where it stopped
    python experiments/cifar2.py tables     attribute the model of everything, write the tables

`--halves` and `--again` take fewer than there are to be. Everything lies in
`experiments/results/cifar2`; what was measured of each model is kept in the repository.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar2_sizes import FULL, REDUCED, Size
from common import RESULTS, about, add_workers, executor_of, parser, real_data

from headwater import Denoiser, TrainingSet, load_dataset
from headwater.attribution.scores import inverts_kernel
from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.metrics.lds import choose, lds, lds_interval, predicted_outputs
from headwater.evaluation.reporting.plots import plot_bars
from headwater.evaluation.reporting.results import write_results
from headwater.evaluation.retraining.models import encode_data
from headwater.evaluation.retraining.networks import new_pipeline
from headwater.evaluation.retraining.outputs import NoiseSpec, denoising_losses
from headwater.evaluation.retraining.retrain import Measure, Measured, retrain, study_of
from headwater.evaluation.studies.lds import write_pictures
from headwater.evaluation.studies.method_indexes import (
    build_indexes,
    follows_making,
    uses_checkpoints,
    uses_clip,
)
from headwater.evaluation.studies.method_scores import sweep_dampings
from headwater.evaluation.studies.subset_plan import (
    SubsetOutputs,
    SubsetPlan,
    collect,
    lds_rows,
)
from headwater.index.index import Index
from headwater.methods.row import Method
from headwater.methods.table import METHODS
from headwater.models.sampling import draw
from headwater.queries.image import Image

# LDS in percent with ten timesteps, of validation pictures and of generated ones (das.txt table 1).
PUBLISHED = {
    "pixel-cosine": (7.87, 5.44),
    "gradient-dot": (5.14, 2.80),
    "relative-influence": (11.20, 5.86),
    "renormalised-influence": (10.89, 5.69),
    "trak": (11.42, 5.78),
    "d-trak": (26.79, 18.82),
    "das": (33.90, 20.88),
    "journey-trak": (None, 7.73),
}
STEPS = (199, 399, 599, 799, 999)  # of a picture's making
DAMPING = 0.1  # of the tables that show one
DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def main() -> None:
    command = parser(__doc__, "models", "tables")
    add_workers(command)
    command.add_argument("--halves", type=int)
    command.add_argument("--again", type=int)
    given = command.parse_args()
    torch.set_num_threads(1)
    size = FULL if given.full else REDUCED
    size = replace(
        size,
        halves=size.halves if given.halves is None else given.halves,
        again=size.again if given.again is None else given.again,
    )
    plan = SubsetPlan(size.images, size.halves, min(size.again, size.halves))
    measured = trained(size, plan, given)
    if given.stage == "tables":
        tables(size, plan, measured, given)


def folder(size: Size) -> Path:
    return RESULTS / size.name


def data_of(size: Size) -> tuple[TrainingSet, TrainingSet]:
    """(training pictures, validation pictures)."""
    place = real_data("cifar2")
    train, validation = (
        load_dataset(place / f"{name}.parquet") for name in ("train", "validation")
    )
    return train.first(size.images), validation.first(size.asked)


def trained(size: Size, plan: SubsetPlan, given: argparse.Namespace) -> list[Measured]:
    """Losses of the validation pictures and the generated ones, by every model of the plan.

    The model of everything comes first: the generated pictures are its own, so of itself nothing
    is measured.
    """
    out, (train, validation) = folder(size), data_of(size)
    encoder = Denoiser(new_pipeline(size.config, 0), "", "cpu")
    first = study_of(out / "everything", size.config, train, encoder, device=given.device)
    retrain(first, [plan.full])
    full = Denoiser.load(first.model(plan.full), given.device)
    made = [draw(full, "", seed) for seed in range(size.asked)]
    outputs = Outputs(
        {
            "validation": (encode_data(encoder, validation).x0, 10),
            "generation": (torch.cat([picture.x0.cpu() for picture in made]), 10),
            **{step_name(t): (torch.cat([p.x0hats[t].cpu() for p in made]), (t,)) for t in STEPS},
        }
    )
    facts = {
        "validation": validation.fingerprint,
        "generated": [full.fingerprint(), size.asked],
        "steps": STEPS,
        "timesteps": 10,
        "draws": 3,
    }
    study = study_of(out, size.config, train, encoder, Measure(outputs, facts), given.device)
    return [{}, *retrain(study, plan.tasks()[1:], executor_of(given))]


@dataclass(frozen=True)
class Outputs:
    """What is measured: denoising losses of groups of pictures, each at its timesteps.

    Those of a step are of what the making of a generated picture aimed at there, noised anew: the
    output that Journey-TRAK's scores of the step are to predict (journey-trak.txt section 4).
    """

    groups: Mapping[str, tuple[torch.Tensor, int | tuple[int, ...]]]

    def __call__(self, denoiser: Denoiser) -> Measured:
        return {
            name: denoising_losses(denoiser, x0, [""] * len(x0), NoiseSpec(timesteps)).tolist()
            for name, (x0, timesteps) in self.groups.items()
        }


def step_name(t: int) -> str:
    return f"step {t}"


def tables(
    size: Size, plan: SubsetPlan, measured: list[Measured], given: argparse.Namespace
) -> None:
    """LDS of each method, for validation pictures and for generated ones."""
    out, (train, validation) = folder(size), data_of(size)
    model = Denoiser.load(out / "everything" / "models" / plan.full.name, given.device)
    takers = [name for name, method in METHODS.items() if takes(method)]
    indexes = build_indexes(model, train, out / "indexes", takers, parameters=size.parameters)
    files = [file for _, file in write_pictures(out / "held-out", validation)]
    asked = {
        "validation": [Image("", file, draws=given.draws) for file in files],
        "generation": [Image("", seed=seed, draws=given.draws) for seed in range(size.asked)],
    }
    for side, (group, questions) in enumerate(asked.items()):
        there = {m: i for m, i in indexes.items() if group == "generation" or not follows_making(m)}
        by_damping = answers_of(there, questions, out, DAMPINGS)
        found = collect(plan, measured, partial(losses, name=group))
        facts = {m.name: {"published": published(m.name, side)} for m in there}
        rows = lds_rows(plan, found, by_damping[DAMPING], "trak", facts)
        if plan.subsets >= 8:  # four to choose by, four to report
            add_chosen(rows, found, plan, by_damping)
        title = f"LDS on CIFAR-2, {group}: {size.halves} halves of {size.images} pictures"
        write_results(out / group, title, about(given, damping=DAMPING), rows, NOTES)
        plot_bars(out / group / "lds.png", rows, "LDS", title=title)
        print((out / group / "table.md").read_text())
    steps(size, plan, measured, indexes, given)


def steps(
    size: Size,
    plan: SubsetPlan,
    measured: list[Measured],
    indexes: Mapping[Method, Index],
    given: argparse.Namespace,
) -> None:
    """LDS of each step: by that step's own scores, and by those of the picture as a whole."""
    out = folder(size)
    chosen = {m: i for m, i in indexes.items() if m.name in ("journey-trak", "trak", "random")}
    whole = [Image("", seed=seed, draws=given.draws) for seed in range(size.asked)]
    of_picture = answers_of(chosen, whole, out, [DAMPING])[DAMPING]
    following = {m: i for m, i in chosen.items() if follows_making(m)}
    rows = []
    for t in STEPS:
        at_step = [replace(query, step=t) for query in whole]
        own = answers_of(following, at_step, out, [DAMPING])[DAMPING]
        answers = {
            **{f"{name}, the step": each for name, each in own.items()},
            **{f"{name}, the picture": each for name, each in of_picture.items()},
        }
        found = collect(plan, measured, partial(losses, name=step_name(t)))
        rows += [{"step": t, **row} for row in lds_rows(plan, found, answers)]
    title = f"LDS of single steps on CIFAR-2: {size.halves} halves of {size.images} pictures"
    write_results(out / "steps", title, about(given, damping=DAMPING), rows, NOTES[-1:])
    print((out / "steps" / "table.md").read_text())


def losses(measured: Measured, name: str) -> np.ndarray:
    return np.array(measured[name])


NOTES = (
    "published: the DAS paper's table 1, ten timesteps, 32x32, a model of 35.7 million parameters, "
    "all 5,000 pictures, 64 halves, damping chosen on the same numbers, as in the column *best*",
    f"LDS: damping {DAMPING}; in the last two columns that of {len(DAMPINGS)} which half of the "
    "halves chose, and the LDS on the other half",
    "noise ceiling: the LDS of a perfect prediction, from halves trained with two seeds",
)


def takes(method: Method) -> bool:
    """Questions about a picture, to one model, without a CLIP or prompts, in minutes."""
    guided = method.train is not None and method.train.guided
    elsewhere = uses_clip(method) or uses_checkpoints(method) or guided
    return "image" in method.takes and not (elsewhere or method.slow or method.alias_of)


def answers_of(
    indexes: Mapping[Method, Index],
    questions: list[Image],
    out: Path,
    dampings: Sequence[float],
) -> dict[float, dict[str, np.ndarray]]:
    found = sweep_dampings(indexes, lambda method: questions, out / "scores", dampings)
    return {ratio: found[ratio] for ratio in dampings}


def published(name: str, side: int) -> float | None:
    value = PUBLISHED.get(name, (None, None))[side]
    return None if value is None else value / 100


def add_chosen(
    rows: list[dict[str, Any]],
    found: SubsetOutputs,
    plan: SubsetPlan,
    by_damping: Mapping[float, Mapping[str, np.ndarray]],
) -> None:
    """For each method the damping that half of the halves choose, and its LDS on the others.

    And the best LDS of any damping on all of them, which is what was published.
    """
    for row in rows:
        name = row["method"]
        if name not in by_damping[DAMPING] or not inverts_kernel(METHODS[name].rule):
            continue
        predicted = {
            r: predicted_outputs(each[name], plan.chosen) for r, each in by_damping.items()
        }
        ratio, rest = choose(found.outputs, predicted)
        row["best of any damping"] = max(
            lds(found.outputs, each).mean() for each in predicted.values()
        )
        row["damping chosen"] = ratio
        row["LDS of the rest"] = Interval(
            *lds_interval(found.outputs[rest], predicted[ratio][rest])
        )


if __name__ == "__main__":
    main()
