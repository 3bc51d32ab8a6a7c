"""Journey diagnostics: how far does an answer depend on the step it is asked of, and on the seed?

A journey is an attribution for each step of a picture's making (`Session.attribute_steps`). Here
step is compared with step and seed with seed (journey-trak.txt 3.1, B.1, B.2); intervals are over
prompts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from headwater.attribution.answer.bootstrap import correlations
from headwater.attribution.session import Session
from headwater.attribution.trajectory import likelihoods, overlaps
from headwater.errors import ParameterError, QueryError
from headwater.evaluation.ground_truth.classifiers import ReaderOf
from headwater.evaluation.metrics.intervals import Interval, interval
from headwater.evaluation.metrics.trajectory import seed_consistency, top_with_bottom
from headwater.evaluation.reporting.plots import Labels, plot_curves
from headwater.evaluation.reporting.results import write_results
from headwater.index.index import Index
from headwater.queries.image import Image

CORRELATION, TOPS, OPPOSED = "rank correlation", "top with top", "top with bottom"


@dataclass(frozen=True)
class TrajectoryOptions:
    """How every journey is asked: see `Image`; `seeds` pictures of each prompt."""

    draws: int | None = 32
    seed: int = 0
    seeds: int = 3
    guidance: float = 5.0
    method: str | None = None


@dataclass(frozen=True)
class Journeys:
    """The journeys of one prompt.

    Attributes:
        steps: timesteps, noisiest first.
        scores: of every image, from each seed at each step.
        halves: rank correlation of the scores from every other draw with those from the rest, of
            one picture; NaN where there was one draw.
        likely: for each feature that a judge looks for, its probability in what each step aimed
            at, the mean over seeds.
    """

    prompt: str
    steps: tuple[int, ...]
    scores: Float[np.ndarray, "s t n"]
    halves: Float[np.ndarray, "s t"]
    likely: Mapping[str, Float[np.ndarray, " t"]]


def choose_prompts(session: Session, file: Path | None, count: int, seed: int = 0) -> list[str]:
    """Prompts from a file, a line each; or `count` of the index's captions, drawn by the seed.

    A model that reads no prompts makes `count` pictures without.

    Raises:
        QueryError: the file cannot be read.
        ParameterError: fewer than two: there would be no intervals.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise QueryError(f"cannot read the prompts {str(file)!r}: {error}") from None
        prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        origin = f"--prompts {str(file)!r} holds {len(prompts)}"
    elif session.denoiser.conditional:
        captions = sorted({*session.captions} - {""})
        count_drawn = min(max(count, 0), len(captions))
        prompts = random.Random(f"journeys|{seed}").sample(captions, count_drawn)
        origin = f"--count {count}, of {len(captions)} captions"
    else:
        prompts, origin = [""] * count, f"--count {count}"
    if len(prompts) < 2:
        raise ParameterError(f"{origin}: intervals are over prompts, give at least 2")
    return prompts


def collect_journeys(
    session: Session,
    prompts: Sequence[str],
    options: TrajectoryOptions,
    reader_of: ReaderOf | None = None,
) -> list[Journeys]:
    """The journeys of every prompt, from every seed.

    Raises:
        MethodError: the index serves no method that takes journeys.
        QueryError: the judge fails.
    """
    if options.seeds < 1:
        raise ParameterError(f"--seeds {options.seeds} must be at least 1")
    bar = tqdm(total=len(prompts) * options.seeds, desc="journeys", unit="picture", delay=2)
    with bar:
        return [
            _of_prompt(session, prompt, options.seed + i * options.seeds, options, reader_of, bar)
            for i, prompt in enumerate(prompts)
        ]


def _of_prompt(
    session: Session,
    prompt: str,
    first: int,
    options: TrajectoryOptions,
    reader_of: ReaderOf | None,
    bar: tqdm,
) -> Journeys:
    reader = None if reader_of is None else reader_of(prompt)
    scores, halves, likely, steps = [], [], [], ()
    for seed in range(first, first + options.seeds):
        query = Image(prompt, draws=options.draws, seed=seed, guidance=options.guidance)
        answers = session.attribute_steps(query, method=options.method)
        steps = tuple(int(answer.provenance["query"]["step"]) for answer in answers)
        scores.append([answer.scores for answer in answers])
        halves.append([
            np.nan if answer.certainty is None else answer.certainty.halves for answer in answers
        ])  # fmt: skip
        if reader is not None:
            likely.append(likelihoods(session, answers, reader))
        bar.update()
    return Journeys(prompt, steps, np.array(scores), np.array(halves), _mean_likelihoods(likely))


def _mean_likelihoods(
    of_seeds: Sequence[Mapping[str, Sequence[float]]],
) -> dict[str, Float[np.ndarray, " t"]]:
    """The means over seeds, of the features that were looked for with every seed."""
    first = of_seeds[0] if of_seeds else {}
    features = [name for name in first if all(name in likely for likely in of_seeds)]
    return {name: np.mean([likely[name] for likely in of_seeds], axis=0) for name in features}


# --- comparisons ----------------------------------------------------------------------------------


def mean_by_distance(pairs: Float[np.ndarray, "t t"]) -> Float[np.ndarray, " t"]:
    """The mean over all pairs of steps that lie 0, 1, 2, ... steps apart, either way around."""
    both = (pairs + pairs.T) / 2
    return np.array([np.diagonal(both, apart).mean() for apart in range(len(both))])


def compare_steps(journeys: Journeys, top: int = 10) -> dict[str, Float[np.ndarray, " t"]]:
    """How alike two steps of a journey are, by how far they lie apart; means over seeds."""
    measures = {
        CORRELATION: correlations,
        TOPS: lambda scores: overlaps(scores, top),
        OPPOSED: lambda scores: top_with_bottom(scores, top),
    }
    return {
        name: np.mean([mean_by_distance(measure(scores)) for scores in journeys.scores], axis=0)
        for name, measure in measures.items()
    }


def distance_rows(of_prompts: Sequence[Journeys], top: int = 10) -> list[dict[str, Any]]:
    """A row for each number of steps apart."""
    alike = [compare_steps(journeys, top) for journeys in of_prompts]
    steps = of_prompts[0].steps
    return [
        {
            "steps apart": apart,
            "timesteps apart": round((steps[0] - steps[-1]) / max(len(steps) - 1, 1) * apart),
            **{name: interval([one[name][apart].item() for one in alike]) for name in alike[0]},
        }
        for apart in range(len(steps))
    ]


def step_rows(of_prompts: Sequence[Journeys]) -> list[dict[str, Any]]:
    """A row for each step, noisiest first: how far seeds agree there, and what can be seen."""
    seeds = [
        seed_consistency(one.scores) if len(one.scores) > 1 else np.full(len(one.steps), np.nan)
        for one in of_prompts
    ]
    halves = [one.halves.mean(0) for one in of_prompts]
    features = list(dict.fromkeys(name for one in of_prompts for name in one.likely))
    return [
        {
            "timestep": t,
            "other seeds": _pool([values[i] for values in seeds]),
            "other draws": _pool([values[i] for values in halves]),
            **{
                name: _pool([o.likely[name][i] for o in of_prompts if name in o.likely])
                for name in features
            },
        }
        for i, t in enumerate(of_prompts[0].steps)
    ]


def _pool(values: Sequence[np.floating]) -> Interval | float | None:
    """Mean and interval; of a single prompt, which has none, the number."""
    numbers = [float(value) for value in values if not np.isnan(value)]
    return numbers[0] if len(numbers) == 1 else interval(numbers)


# --- the folder -----------------------------------------------------------------------------------


def write_journeys(
    out: Path, index: Index, of_prompts: Sequence[Journeys], about: Mapping[str, Any], top: int = 10
) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
    """Tables and plots: steps by distance in `out`, one by one in `steps/`.

    Returns both tables, and `results.json` of `out`.

    Raises:
        HeadwaterError: matplotlib is not there.
        StoreError: `out` cannot be written.
    """
    apart, one_by_one = distance_rows(of_prompts, top), step_rows(of_prompts)
    first = of_prompts[0]
    seeds, n = len(first.scores), first.scores.shape[-1]
    counted = f"{len(of_prompts)} prompts, {seeds} seed{'s' * (seeds > 1)} each"
    chance = min(top, n) / n
    facts = {
        "prompts": [one.prompt for one in of_prompts],
        "index": {"path": str(index.path), "recipe": dict(index.manifest.recipe)},
        "chance": chance,
    }
    written = write_results(
        out, f"Journeys: {counted}, {n} images", about, apart, notes(top, chance), **facts
    )
    title = f"Journeys, step by step: {counted}, {n} images"
    write_results(out / "steps", title, about, one_by_one, STEP_NOTES, **facts)
    _plot_distances(out / "distances.png", apart, chance, counted)
    _plot_steps(out / "steps", one_by_one, counted)
    return [apart, one_by_one], written


def _plot_distances(
    path: Path, table: Sequence[Mapping[str, Any]], chance: float, title: str
) -> None:
    lines = {name: _line(table, "steps apart", name) for name in (CORRELATION, TOPS, OPPOSED)}
    lines["chance"] = {row["steps apart"]: Interval(chance, chance, chance) for row in table}
    labels = Labels("steps apart", "correlation; share in common", title)
    plot_curves(path, lines, labels, baselines=("chance",))


def _plot_steps(folder: Path, table: Sequence[Mapping[str, Any]], title: str) -> None:
    for name, columns, y in (
        ("consistency", ["other seeds", "other draws"], "rank correlation"),
        ("likelihood", [*table[0]][3:], "likelihood"),
    ):
        lines = {column: _line(table, "timestep", column) for column in columns}
        lines = {column: line for column, line in lines.items() if line}
        if lines:
            labels = Labels("timestep: noise to the right", y, title)
            plot_curves(folder / f"{name}.png", lines, labels, baselines=())


def _line(table: Sequence[Mapping[str, Any]], x: str, column: str) -> dict[int, Interval]:
    return {row[x]: row[column] for row in table if isinstance(row[column], Interval)}


def notes(top: int, chance: float) -> list[str]:
    """What a reader of the distances must know."""
    return [
        f"{CORRELATION}: Spearman's, of all images' scores at two steps of one journey",
        f"{TOPS}: share of the {top} highest scores of one step among those of the other; "
        f"{OPPOSED}: among the {top} lowest; by chance {chance:.3f}",
        "intervals: 95%, over prompts, of means over seeds and pairs of steps",
    ]


STEP_NOTES = [
    "other seeds: Spearman's correlation of all images' scores, between journeys of one prompt "
    "that differ in their seed, and so in picture and draws",
    "other draws: the same for one picture, between the scores of half of the draws and the rest's",
    "all other columns: how likely a judge finds the feature in what the step aims at, which "
    "stands for pictures made from there on; the noisiest step comes first",
    "intervals: 95%, over prompts",
]
