"""The tables of `left_out.py`: what was foretold of adapters, and what came."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product

import numpy as np
from common import about
from left_out_models import (
    BATCH,
    DAMPINGS,
    DRAWS,
    HELD_OUT,
    IMAGES,
    LASTS,
    LEARNED,
    OF_PAIR,
    OUT,
    OUTPUTS,
    PAIRS,
    RANK,
    SEEDS,
    SIZES,
    STEPS,
    THING,
    file_of,
    left_out,
    pictures,
    record,
    recorded,
)

from headwater import Contribution, Denoiser, Session, build_index
from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.metrics.lds import lds_interval
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.queries.outputs.output import Output


def asked(given: argparse.Namespace) -> dict[str, np.ndarray]:
    """By method, what each picture is to the outputs, [outputs, pairs, 40]: more is more of it."""
    run = record(SEEDS[0])
    model = Denoiser.load("scenes", given.device, lora=file_of(SEEDS[0]), run=run)
    data, found = pictures(LEARNED), {}
    for method, dampings in (("ekfac", DAMPINGS), ("gradient-dot", ()), ("metagradient", ())):
        built_for = "ekfac" if method == "ekfac" else "gradient-dot"
        index = build_index(
            model, data, OUT / "indexes" / built_for,
            method=built_for, parameters="lora", projection="identity", draws=4,
        )  # fmt: skip
        session = Session(index)
        answers = [
            session.attribute(question_of(output, of), method=method, damping=dampings or None)
            for output, of in product(OUTPUTS.values(), OF_PAIR)
        ]
        found |= {
            f"{method}, damping {each:g}": stacked([answer.sweep[each] for answer in answers])
            for each in dampings
        } or {method: stacked([answer.scores for answer in answers])}
    return found


def stacked(scores: Sequence[np.ndarray]) -> np.ndarray:
    """[outputs, pairs, 40]."""
    return np.stack(scores).reshape(len(OUTPUTS), len(PAIRS), -1)


def question_of(output: type[Output], of: np.ndarray) -> Output:
    """An output on those of the pictures held out."""
    shown = pictures([scene for scene, its in zip(HELD_OUT, of, strict=True) if its])
    anchor = "shape" if output is Contribution else ""
    return output(shown.samples[0].caption, THING, anchor, pictures=shown, draws=DRAWS)


def tables(measured: np.ndarray, given: argparse.Namespace) -> None:
    """The correlation of what was foretold with what came."""
    by_step = -recorded(SEEDS[0])  # without a picture, minus that
    answers = {
        "the caption names its colours": np.stack([named_colours()] * len(OUTPUTS)),
        **{f"recorded, last {last} steps": by_step[-last:].sum(0) for last in LASTS},
        **asked(given),
    }
    missing, rows = left_out(), []
    changes = measured[:, 1:] - measured[:, :1]  # [seeds, trainings - 1, outputs, pairs]
    sizes = missing[1:].sum(1)
    for (number, output), size in product(enumerate(OUTPUTS), SIZES):
        chosen = sizes == size
        same, others = changes[0, chosen, number], changes[1:, chosen, number].mean(0)
        foretold = {
            "trained again, another seed": (changes[1, chosen, number], same),
            **{
                name: [missing[1:][chosen] @ answer[number].T.astype(float)] * 2
                for name, answer in answers.items()
            },
        }
        for name, (of_same, of_others) in foretold.items():
            rows.append({
                "output": output, "left out": size, "foretold by": name,
                "same seed": Interval(*lds_interval(same, of_same)),
                "same seed, r": pearson(same, of_same),
                "other seeds": Interval(*lds_interval(others, of_others)),
                "other seeds, r": pearson(others, of_others),
            })  # fmt: skip
    notes = [
        f"{IMAGES} pictures of a {THING}, {STEPS} steps of {BATCH}, rank {RANK}; left out: "
        + ", ".join(f"{size} of them {times} times" for size, times in SIZES.items()),
        "same (other) seeds: Spearman's correlation, over what was left out, of the change of an "
        "output with what was foretold, mean over four pairs of colours with its 95% interval; r: "
        f"Pearson's. Other seeds: the mean change of {len(SEEDS) - 1}",
        "trained again, another seed: what the change itself foretells of another seed's; of other "
        "seeds the first seed's",
        f"recorded: the derivative of what was measured, of the training of seed {SEEDS[0]}, by "
        "each picture's weight, "
        f"through its last steps; of {STEPS}, the whole",
        "metagradient: the same of all steps, as the library records the training and is asked for "
        f"an output, by {DRAWS} draws of noise of its own",
        "the norm of each step's part, of all, by the quarter: " + growth(by_step),
    ]
    title = f"What a LoRA of {IMAGES} pictures lacks without some of them"
    write_results(OUT, title, about(given), rows, notes)
    print(markdown(rows), *notes, OUT / "table.md", sep="\n")


def named_colours() -> np.ndarray:
    """Whether a picture learned from has one of the pair's colours, [pairs, 40]."""
    return np.array([[scene.colour in pair for scene in LEARNED] for pair in PAIRS], float)


def pearson(true: np.ndarray, foretold: np.ndarray) -> float:
    """Mean over the pairs."""
    found = [np.corrcoef(a, b)[0, 1] for a, b in zip(true.T, foretold.T, strict=True)]
    return float(np.mean(found))


def growth(by_step: np.ndarray) -> str:
    norms = np.linalg.norm(by_step.reshape(len(by_step), -1), axis=1)
    return ", ".join(f"{part.mean():.3g}" for part in np.split(norms, 4))
