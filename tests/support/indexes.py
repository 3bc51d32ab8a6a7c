"""Indexes of the small pictures, and a truth of them, for evaluations."""

import json
from pathlib import Path

import pytest

from headwater import Index
from headwater.evaluation.ground_truth.concepts import Truth, read_truths
from headwater.scenes.dataset import pictures
from support.command_line import headwater
from support.tiny import tiny_folder, tiny_pipeline

SMALL = ["--timesteps", 1, "--dim", 16, "--parameters", "attn2-kv", "--no-self-check"]
METHODS_HERE = ("concept-trak", "pixel-cosine", "random")
WORDS = ("blue", "fish", "moon", "striped")


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_model, tiny_images) -> dict[str, Path]:
    """What stands for {concept}, {pixel}, ... in commands."""
    tmp = tmp_path_factory.mktemp("evaluate")
    shown = {p.id: p for p in pictures()[:20]}
    entries = [
        {"concept": word, "positives": [f"{id}.png" for id, p in shown.items() if p.shows(word)]}
        for word in WORDS
    ]
    (tmp / "truth.json").write_text(json.dumps(entries))
    (tmp / "one.json").write_text(json.dumps(entries[:1]))
    (tmp / "file").write_text("a file")
    few, other = tiny_folder(tmp / "images", 5), tiny_pipeline(tmp / "model", seed=1)
    made = {
        "concept": (tiny_model, tiny_images, "concept-trak", SMALL),
        "pixel": (tiny_model, tiny_images, "pixel-cosine", []),
        "few": (tiny_model, few, "pixel-cosine", []),
        "other": (other, tiny_images, "pixel-cosine", []),
    }
    for name, (model, images, method, options) in made.items():
        result = headwater("index", model, images, tmp / name, "--method", method, *options)
        assert result.code == 0, result.err
    return {name: tmp / name for name in made} | {"tmp": tmp, "truth": tmp / "truth.json"}


def truths_of(places) -> list[Truth]:
    return read_truths(str(places["truth"]), Index.open(places["pixel"]).samples)
