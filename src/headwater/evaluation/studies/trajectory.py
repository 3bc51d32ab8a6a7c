"""Journey diagnostics: how far does an answer depend on the step it is asked of, and on the seed?

A journey is an attribution for each step of a picture's making (`headwater.journey`). Here step is
compared with step and seed with seed (journey-trak.txt 3.1, B.1, B.2); intervals are over prompts.
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

from headwater.attribution.bootstrap import correlations
from headwater.attribution.trajectory import journey, likelihoods, overlaps
from headwater.errors import ParameterError, QueryError
from headwater.evaluation.ground_truth.classifiers import JudgeOf
from headwater.evaluation.metrics.intervals import Interval, interval
from headwater.evaluation.metrics.trajectory import seed_consistency, top_with_bottom
from headwater.evaluation.reporting.plots import curves
from headwater.evaluation.reporting.results import write_results
from headwater.index.index import Index
from headwater.queries.image import Image

CORRELATION, TOPS, OPPOSED = "rank correlation", "top with top", "top with bottom"


@dataclass(frozen=True)
class Asking:
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


def prompts_of(index: Index, file: Path | None, count: int, seed: int = 0) -> list[str]:
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
        found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        named = f"--prompts {str(file)!r} holds {len(found)}"
    elif index.denoiser.conditional:
        captions = sorted({sample.caption for sample in index.samples} - {""})
        found = random.Random(f"journeys|{seed}").sample(
            captions, min(max(count, 0), len(captions))
        )
        named = f"--count {count}, of {len(captions)} captions"
    else:
        found, named = [""] * count, f"--count {count}"
    if len(found) < 2:
        raise ParameterError(f"{named}: intervals are over prompts, give at least 2")
    return found


def journeys(
    index: Index, prompts: Sequence[str], asking: Asking, judge_of: JudgeOf | None = None
) -> list[Journeys]:
    """The journeys of every prompt, from every seed.

    Raises:
        MethodError: the index serves no method that takes journeys.
        QueryError: the judge fails.
    """
    if asking.seeds < 1:
        raise ParameterError(f"--seeds {asking.seeds} must be at least 1")
    bar = tqdm(total=len(prompts) * asking.seeds, desc="journeys", unit="picture", delay=2)
    with bar:
        return [
            _of_prompt(index, prompt, asking.seed + i * asking.seeds, asking, judge_of, bar)
            for i, prompt in enumerate(prompts)
        ]


def _of_prompt(
    index: Index, prompt: str, first: int, asking: Asking, judge_of: JudgeOf | None, bar: tqdm
) -> Journeys:
    judge = None if judge_of is None else judge_of(prompt)
    scores, halves, likely, steps = [], [], [], ()
    for seed in range(first, first + asking.seeds):
        query = Image(prompt, draws=asking.draws, seed=seed, guidance=asking.guidance)
        answers = journey(index, query, method=asking.method)
        steps = tuple(int(answer.provenance["query"]["step"]) for answer in answers)
        scores.append([answer.scores for answer in answers])
        sure = [answer.certainty for answer in answers]
        halves.append([np.nan if each is None else each.halves for each in sure])
        if judge is not None:
            likely.append(likelihoods(index, answers, judge))
        bar.update()
    features = (
        [name for name in likely[0] if all(name in each for each in likely)] if likely else []
    )
    return Journeys(
        prompt,
        steps,
        np.array(scores),
        np.array(halves),
        {name: np.mean([each[name] for each in likely], axis=0) for name in features},
    )


# --- comparisons ----------------------------------------------------------------------------------


def by_distance(compared: Float[np.ndarray, "t t"]) -> Float[np.ndarray, " t"]:
    """The mean over all pairs of steps that lie 0, 1, 2, ... steps apart, either way around."""
    both = (compared + compared.T) / 2
    return np.array([np.diagonal(both, apart).mean() for apart in range(len(both))])


def distances(found: Journeys, top: int = 10) -> dict[str, Float[np.ndarray, " t"]]:
    """How alike two steps of a journey are, by how far they lie apart; means over seeds."""
    measures = {
        CORRELATION: correlations,
        TOPS: lambda scores: overlaps(scores, top),
        OPPOSED: lambda scores: top_with_bottom(scores, top),
    }
    return {
        name: np.mean([by_distance(measure(scores)) for scores in found.scores], axis=0)
        for name, measure in measures.items()
    }


def distance_rows(found: Sequence[Journeys], top: int = 10) -> list[dict[str, Any]]:
    """A row for each number of steps apart."""
    each = [distances(one, top) for one in found]
    steps = found[0].steps
    return [
        {
            "steps apart": apart,
            "timesteps apart": round((steps[0] - steps[-1]) / max(len(steps) - 1, 1) * apart),
            **{name: interval([one[name][apart].item() for one in each]) for name in each[0]},
        }
        for apart in range(len(steps))
    ]


def step_rows(found: Sequence[Journeys]) -> list[dict[str, Any]]:
    """A row for each step, noisiest first: how far seeds agree there, and what can be seen."""
    seeds = [
        seed_consistency(one.scores) if len(one.scores) > 1 else np.full(len(one.steps), np.nan)
        for one in found
    ]
    halves = [one.halves.mean(0) for one in found]
    features = list(dict.fromkeys(name for one in found for name in one.likely))
    return [
        {
            "timestep": t,
            "other seeds": _over([each[i] for each in seeds]),
            "other draws": _over([each[i] for each in halves]),
            **{
                name: _over([one.likely[name][i] for one in found if name in one.likely])
                for name in features
            },
        }
        for i, t in enumerate(found[0].steps)
    ]


def _over(values: Sequence[np.floating]) -> Interval | float | None:
    """Mean and interval; of a single prompt, which has none, the number."""
    there = [float(value) for value in values if not np.isnan(value)]
    return there[0] if len(there) == 1 else interval(there)


# --- the folder -----------------------------------------------------------------------------------


def write(
    out: Path, index: Index, found: Sequence[Journeys], about: Mapping[str, Any], top: int = 10
) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
    """Tables and plots: steps by distance in `out`, one by one in `steps/`.

    Returns both tables, and `results.json` of `out`.

    Raises:
        HeadwaterError: matplotlib is not there.
        StoreError: `out` cannot be written.
    """
    apart, one_by_one = distance_rows(found, top), step_rows(found)
    count, seeds, n = len(found), len(found[0].scores), found[0].scores.shape[-1]
    counted = f"{count} prompts, {seeds} seed{'s' * (seeds > 1)} each"
    chance = min(top, n) / n
    facts = {
        "prompts": [one.prompt for one in found],
        "index": {"path": str(index.path), "recipe": dict(index.manifest.recipe)},
        "chance": chance,
    }
    written = write_results(
        out, f"Journeys: {counted}, {n} images", about, apart, notes(top, chance), **facts
    )
    title = f"Journeys, step by step: {counted}, {n} images"
    write_results(out / "steps", title, about, one_by_one, STEP_NOTES, **facts)
    lines = {name: _line(apart, "steps apart", name) for name in (CORRELATION, TOPS, OPPOSED)}
    lines["chance"] = {row["steps apart"]: Interval(chance, chance, chance) for row in apart}
    curves(
        out / "distances.png",
        lines,
        x="steps apart",
        y="correlation; share in common",
        title=counted,
        baselines=("chance",),
    )
    for name, columns, y in (
        ("consistency", ["other seeds", "other draws"], "rank correlation"),
        ("likelihood", [*one_by_one[0]][3:], "likelihood"),
    ):
        drawn = {column: _line(one_by_one, "timestep", column) for column in columns}
        drawn = {column: line for column, line in drawn.items() if line}
        if drawn:
            path, x = out / "steps" / f"{name}.png", "timestep: noise to the right"
            curves(path, drawn, x=x, y=y, title=counted, baselines=())
    return [apart, one_by_one], written


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
