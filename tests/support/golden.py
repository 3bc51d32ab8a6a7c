"""Scores of one method of each kind on the bundled scenes: what a change must not move unawares.

`python tests/support/golden.py FILE` writes them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import cache
from pathlib import Path

from headwater import Concept, Denoiser, Image, build_index, load_dataset

IMAGES = 40
PROMPT = "a red star in hatched style on a striped background"
PICTURE = Image(PROMPT, guidance=3.0, steps=10, draws=3)
# Method that the index is built for -> (method, question) of what is asked of it.
ASKED = {
    "concept-trak-unguided": (
        ("concept-trak-unguided", Concept(PROMPT, "star", context="bare", draws=3)),
        ("concept-trak-unguided", Image(PROMPT, guidance=3.0, steps=10)),
    ),
    "trak": (
        ("trak", PICTURE),
        ("journey-trak", Image(PROMPT, step=499, guidance=3.0, steps=10, draws=3)),
        ("gradient-cosine", PICTURE),
        ("relative-influence", PICTURE),
        ("unlearning", PICTURE),
    ),
    "d-trak": (
        ("d-trak", PICTURE),
        ("concept-d-trak", Concept(PROMPT, "star", draws=3)),
        ("caption-d-trak", Concept(PROMPT, "star")),
    ),
    "das": (("das", PICTURE),),
    "pixel-cosine": (("pixel-cosine", Image(PROMPT, guidance=3.0, steps=10)),),
}


@cache
def bundled() -> Denoiser:
    """The model of all of them."""
    return Denoiser.load("scenes", "cpu")


def golden_scores(built_for: str, folder: Path) -> dict[str, list[float]]:
    """("method, kind of question" -> the scores of all images, by one index, made in a folder)."""
    denoiser, data = bundled(), load_dataset("scenes").first(IMAGES)
    recipe = {} if built_for.startswith("pixel") else {"timesteps": 4, "dim": 256}
    index = build_index(denoiser, data, folder, method=built_for, batch_size=8, **recipe)
    scores = {}
    for method, question in ASKED[built_for]:
        attribution = index.attribute(question, method=method)
        scores[f"{method}, {question.kind}"] = [float(f"{s:.8g}") for s in attribution.scores]
    return scores


def write(file: Path) -> None:
    """All of them, as JSON."""
    scores: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for built_for in ASKED:
            scores |= golden_scores(built_for, Path(folder, built_for))
    file.write_text(json.dumps(scores) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
