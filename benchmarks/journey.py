"""Do early steps of a picture's making come from other training images than late ones?

Some random full prompts of the scenes, one picture each, and journey-trak's scores of every step.
Printed for each step: how often its top ten show what the prompt names, attribute by attribute; how
far they are from each other in layout (where the object stands, its size, the background's tone),
as a share of chance, so that below 1 the step looks for one layout; and how much the judge sees of
each attribute in what the step aimed at. Then the rank correlation of two steps' scores by how many
steps they are apart. Means over the prompts.

    export OMP_NUM_THREADS=1
    python benchmarks/journey.py [--rows 1000] [--prompts 20] [--draws 16] [--parameters attn2]
        [--folder journey-benchmark] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from headwater import Denoiser, Session, build_index, load_dataset
from headwater.attribution.answer.bootstrap import correlations
from headwater.attribution.trajectory import aims
from headwater.evaluation.metrics.intervals import mean_interval
from headwater.evaluation.metrics.retrieval import top_rows
from headwater.evaluation.retraining.bundled import stack_images
from headwater.queries.image import Image
from headwater.scenes.classifier import load_classifier
from headwater.scenes.dataset import Picture, describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

GUIDANCE = 3.0
K = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="training pictures")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--parameters", default="attn2")
    parser.add_argument("--folder", type=Path, default=Path("journey-benchmark"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("scenes").first(given.rows)
    session = Session(
        build_index(
            Denoiser.load("scenes"),
            data,
            given.folder / "noising-dsm-none",
            method="journey-trak",
            parameters=given.parameters,
        )
    )
    shown = pictures("train")[: given.rows]
    asked = random.Random(0).sample(shown, given.prompts)
    found = [measure(session, picture, shown, given.draws) for picture in tqdm(asked, leave=False)]
    result = summary(found)
    print(json.dumps(result) if given.json else table(result))
    return 0


def measure(session: Session, source: Picture, shown: list[Picture], draws: int) -> dict[str, Any]:
    """One journey: what each step's top ten show, and how its scores go with the others'."""
    words = source.scene.attributes
    seed = shown.index(source)
    query = Image(describe(**words), seed=seed, guidance=GUIDANCE, draws=draws)
    steps = session.attribute_steps(query)
    scores = np.stack([step.scores for step in steps])
    tops = [top_rows(row, K) for row in scores]
    truth = {name: np.array([p.shows(word) for p in shown]) for name, word in words.items()}
    aimed = aims(session, steps)
    with torch.no_grad():
        seen = load_classifier()(stack_images([image for _, image in aimed]))
    place = {name: ATTRIBUTES[name].index(word) for name, word in words.items()}
    return {
        "steps": [step for step, _ in aimed],
        "shows": {name: [truth[name][top].mean() for top in tops] for name in words},
        "chance": {name: truth[name].mean() for name in words},
        "judge": {name: F.softmax(seen[name], 1)[:, place[name]].tolist() for name in words},
        "spread": {
            name: [spread(values[top]) / spread(values) for top in tops]
            for name, values in layout(shown).items()
        },
        "correlation": correlations(scores).tolist(),
    }


def layout(shown: list[Picture]) -> dict[str, np.ndarray]:
    """Where each object stands, how large it is, and the background's hue on a circle."""
    scenes = [p.scene for p in shown]
    hue = 2 * np.pi * np.array([scene.tone for scene in scenes])
    return {
        "place": np.array([[scene.x, scene.y] for scene in scenes]),
        "size": np.array([[scene.radius] for scene in scenes]),
        "tone": np.stack([np.cos(hue), np.sin(hue)], 1),
    }


def spread(points: np.ndarray) -> float:
    """Mean distance of two different points."""
    n = len(points)
    return float(np.linalg.norm(points[:, None] - points, axis=2).sum() / (n * (n - 1)))


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the journeys; correlations by how many steps lie between, with intervals."""

    def mean(key: str) -> dict[str, list[float]]:
        return {
            name: np.mean([each[key][name] for each in found], 0).tolist() for name in found[0][key]
        }

    count = len(found[0]["steps"])
    apart = [
        mean_interval([float(np.diagonal(each["correlation"], gap).mean()) for each in found])
        for gap in range(1, count)
    ]
    return {
        "steps": found[0]["steps"],
        **{key: mean(key) for key in ("shows", "chance", "judge", "spread")},
        "correlation by distance": apart,
    }


def table(result: dict[str, Any]) -> str:
    groups = ("shows", "spread", "judge")
    names = [(group, name) for group in groups for name in result[group]]
    lines = [
        f"{'step':>6}  {'the top ten show':<36}{'their spread in':<27}the judge sees",
        " " * 8 + "".join(f"{name[:7]:<9}" for _, name in names),
    ]
    for row, step in enumerate(result["steps"]):
        cells = [f"{result[group][name][row]:<9.2f}" for group, name in names]
        lines.append(f"{step:>6}  {''.join(cells)}")
    chance = [f"{result['chance'][name]:<9.2f}" for name in result["chance"]]
    lines.append(f"{'chance':>6}  {''.join(chance)}" + f"{1:<9.2f}" * len(result["spread"]))
    lines += ["", "steps apart, correlation of scores"]
    for gap, (mean, low, high) in enumerate(result["correlation by distance"], 1):
        lines.append(f"{gap:>6}  {mean:.3f} [{low:.3f}, {high:.3f}]")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
