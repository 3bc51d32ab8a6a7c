"""Does a local concept find what this one picture shows, where a concept finds all of its kind?

For each of some held-out pictures of the scenes a token is learned from the picture and asked for
in place of its object's name, over an index of the first training pictures. Beside it stands the
ordinary concept query for the same word. Prints precision@10 of the object, of its style, of its
colour, and of object and style, and object and colour, together; and how often the judge reads the
picture's own traits in samples of "a <token>": whether the token itself holds them.

    python benchmarks/local.py [--index FOLDER] [--rows 600] [--pictures 8] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from headwater import Concept, Denoiser, Index, build_index, load_dataset
from headwater.evaluation.metrics.intervals import mean_interval
from headwater.evaluation.metrics.retrieval import precision_at
from headwater.evaluation.retraining.bundled import stack_images
from headwater.models.sampling import sample, seeded_noise
from headwater.models.textual_inversion import STEPS, Token, encode
from headwater.queries.local.local_concept import Local, whole_picture
from headwater.scenes.classifier import load_classifier
from headwater.scenes.dataset import Picture, describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

TRAITS = ("object", "style", "colour", "object+style", "object+colour")
SAMPLES, GUIDANCE, DDIM_STEPS = 8, 3.0, 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", help="built there if it is missing; else in a temporary folder")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--steps", type=int, default=STEPS, help="of textual inversion")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    denoiser = Denoiser.load("scenes")
    with tempfile.TemporaryDirectory() as folder:
        images = load_dataset("scenes").first(given.rows)
        out = given.index or Path(folder) / "index"
        index = build_index(denoiser, images, out, method="concept-trak-unguided")
        shown = pictures("train")[: given.rows]
        rows, held = [], []
        for picture in asked_about(given.pictures):
            asked = questions(picture, Path(folder), given.draws, given.steps)
            rows += [
                {"query": name, "picture": picture.id, **found(index, query, picture, shown)}
                for name, query in asked.items()
            ]
            held.append(traits_held(denoiser, asked["local"].at(index).token(denoiser), picture))
    result = {
        "settings": vars(given),
        "precision@10": {name: means([r for r in rows if r["query"] == name]) for name in asked},
        "chance": chance(asked_about(given.pictures), shown),
        "token": {name: float(np.mean([h[name] for h in held])) for name in ATTRIBUTES},
        "rows": rows,
    }
    print(json.dumps(result) if given.json else table(result))
    return 0


def asked_about(count: int) -> list[Picture]:
    """From the end: the first were looked at when the learning rate was chosen."""
    return pictures("validation")[-count:]


def questions(picture: Picture, folder: Path, draws: int, steps: int) -> dict:
    """The same object, asked for in general and as this picture shows it."""
    scene = picture.scene
    file = folder / f"{picture.id}.png"
    picture.draw().save(file)
    short, full = describe(scene.object), describe(**scene.attributes)

    def concept(prompt: str, context: str) -> Concept:
        return Concept(prompt, scene.object, context=context, draws=draws)

    return {
        "concept": concept(short, "auto"),
        "local": Local(concept(short, "auto"), file, steps=steps),
        "local, one prompt": Local(concept(short, "prompt"), file, steps=steps),
        "local, full prompt": Local(concept(full, "auto"), file, steps=steps),
        "whole picture": whole_picture("", file, steps=steps, draws=draws),
    }


def truths(picture: Picture, shown: list[Picture]) -> dict[str, np.ndarray]:
    """Which training pictures show each trait of this picture."""
    has = {
        name: np.array([p.shows(picture.scene.attributes[name]) for p in shown])
        for name in ("object", "style", "colour")
    }
    return {trait: np.all([has[name] for name in trait.split("+")], 0) for trait in TRAITS}


def found(index: Index, query, picture: Picture, shown: list[Picture]) -> dict[str, float]:
    scores = index.attribute(query).scores
    return {trait: precision_at(scores, truth) for trait, truth in truths(picture, shown).items()}


def chance(asked: list[Picture], shown: list[Picture]) -> dict[str, float]:
    rates = [{t: truth.mean() for t, truth in truths(p, shown).items()} for p in asked]
    return {trait: float(np.mean([rate[trait] for rate in rates])) for trait in TRAITS}


def means(rows: list[dict]) -> dict[str, tuple[float, float, float]]:
    """Mean and 95% interval over pictures."""
    return {trait: mean_interval([row[trait] for row in rows]) for trait in TRAITS}


@torch.no_grad()
def traits_held(denoiser: Denoiser, token: Token, picture: Picture) -> dict[str, float]:
    """How often samples of the token alone show each of the picture's own attributes."""
    noise = [seeded_noise(denoiser.latent_shape, "benchmark", i) for i in range(SAMPLES)]
    conditions = [encode(denoiser, token, [text] * SAMPLES) for text in (f"a {token.name}", "")]
    x0 = sample(denoiser, torch.stack(noise), *conditions, steps=DDIM_STEPS, guidance=GUIDANCE)
    read = load_classifier().read(stack_images(denoiser.decode(x0)))
    return {
        name: float(np.mean([value == picture.scene.attributes[name] for value in read[name]]))
        for name in ATTRIBUTES
    }


def table(result: dict) -> str:
    lines = [f"{'precision@10':<22}" + "".join(f"{trait:<22}" for trait in TRAITS)]
    for name, measured in result["precision@10"].items():
        cells = [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in measured.values()]
        lines.append(f"{name:<22}" + "".join(f"{cell:<22}" for cell in cells))
    cells = [f"{result['chance'][trait]:.2f}" for trait in TRAITS]
    lines.append(f"{'chance':<22}" + "".join(f"{cell:<22}" for cell in cells))
    held = ", ".join(f"{name} {rate:.2f}" for name, rate in result["token"].items())
    return "\n".join([*lines, f"samples of the token show the picture's own: {held}"])


if __name__ == "__main__":
    sys.exit(main())
