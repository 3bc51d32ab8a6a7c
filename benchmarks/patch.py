"""Does a patch over one of two objects find that object, and not the other?

The bundled model, text encoder and all, is trained on for a while, on the scenes and on three times
as many pictures with two objects side by side (other objects, colours and styles, one background).
Further such pictures are asked about twice by each method, with the mask over the left object and
over the right one; the index is of the scenes, one object each. Printed is the share of the ten
highest that show the kind, the colour and the style of the object inside the mask, those of the
other object in the same answer, and the difference of their means, with 95% bootstrap intervals
over the masks. "local" is Concept-TRAK with a token learned inside the mask.

    export OMP_NUM_THREADS=1
    python benchmarks/patch.py [--rows 1000] [--pairs 10] [--draws 16] [--steps 3000]
        [--methods trak concept-trak-unguided local] [--folder patch-benchmark] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from tqdm import tqdm

from headwater import Denoiser, Index, TrainingSet, build_index, load_dataset
from headwater.evaluation.metrics.intervals import mean_interval
from headwater.evaluation.metrics.retrieval import precision_at
from headwater.evaluation.retraining.config import CONTINUE, ModelConfig, Phase
from headwater.evaluation.retraining.models import (
    EncodedData,
    encode_data,
    train,
)
from headwater.methods.table import METHODS
from headwater.queries.image import Image
from headwater.queries.local.local_concept import whole_picture
from headwater.scenes.dataset import Picture, describe, pictures
from headwater.scenes.render import SIZE, Scene, draw
from headwater.scenes.vocabulary import BACKGROUNDS, COLOURS, OBJECTS, STYLES

LOCAL = "local"
TRAITS = ("object", "colour", "style")
PAIRS = 3  # trained on, for each picture of one object
RADIUS, LEFT, RIGHT = 0.23, 0.26, 0.74


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="training pictures")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=(LOCAL, *(name for name, m in METHODS.items() if "patch" in m.takes and m.train)),
        default=["trak", "concept-trak-unguided", LOCAL],
    )
    parser.add_argument("--steps", type=int, default=3000, help="of further training")
    parser.add_argument("--folder", type=Path, default=Path("patch-benchmark"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("scenes").first(given.rows)
    denoiser = Denoiser.load(model_of_pairs(given.folder, data, given.steps))
    # The first ten were looked at when it was decided what Concept-TRAK asks of a part.
    asked = [two_objects(f"asked {10 + number}") for number in range(given.pairs)]
    rows = []
    for name in given.methods:
        method = "concept-trak-unguided" if name == LOCAL else name
        index = build_index(denoiser, data, given.folder / method, method=method)
        rows.append(measure(name, index, asked, given))
    print(json.dumps({"settings": vars(given), "methods": rows}, default=str)
          if given.json else table(rows))  # fmt: skip
    return 0


def model_of_pairs(folder: Path, data: TrainingSet, steps: int) -> Path:
    """The bundled model after further training, on its scenes and on pairs."""
    name = f"model-{len(data)}-{steps}"
    out, work = folder / name, folder / "training" / name
    if not (out / "model_index.json").exists():
        denoiser = Denoiser.load("scenes", "cpu")
        pairs = [two_objects(f"trained {number}") for number in range(PAIRS * len(data))]
        single = encode_data(denoiser, data)
        x0 = torch.cat(
            [denoiser.encode_images([joined(*pair)]) for pair in tqdm(pairs, "encoding")]
        )
        captions = [[sample.caption] for sample in data.samples] + [[said(*p)] for p in pairs]
        both = EncodedData(torch.cat([single.x0, x0]), captions)
        phase = Phase(steps, learning_rate=1e-3, weight="shapes-first")
        config = ModelConfig((phase,), network=None, text_encoder=CONTINUE)
        train(denoiser.pipe, both, config, work)
        denoiser.pipe.save_pretrained(out)
        shutil.rmtree(work)
    return out


def two_objects(seed: str) -> tuple[Scene, Scene]:
    """Two scenes with nothing in common but the background."""
    rng = random.Random(seed)
    sides = [rng.sample(values, 2) for values in (OBJECTS, COLOURS, STYLES)]
    background, tone = rng.choice(BACKGROUNDS), rng.random()

    def scene(side: int, x: float) -> Scene:
        object, colour, style = (values[side] for values in sides)
        return Scene(object, colour, style, background, x=x, radius=RADIUS, tone=tone)

    return scene(0, LEFT), scene(1, RIGHT)


def joined(left: Scene, right: Scene) -> PIL.Image.Image:
    """The left half of one picture and the right half of the other; their backgrounds agree."""
    picture = draw(left)
    half = (SIZE // 2, 0, SIZE, SIZE)
    picture.paste(draw(right).crop(half), half)
    return picture


def said(left: Scene, right: Scene) -> str:
    """A caption that says both, in the words of the training captions."""
    one = describe(left.object, left.colour, left.style)
    return f"{one} and {describe(right.object, right.colour, right.style, right.background)}"


def measure(
    name: str, index: Index, asked: list[tuple[Scene, Scene]], given: argparse.Namespace
) -> dict[str, Any]:
    shown = pictures("train")[: given.rows]
    found = []
    for number, pair in enumerate(tqdm(asked, desc=name, leave=False)):
        file = given.folder / f"pair-{number}.png"
        joined(*pair).save(file)
        for side, (inside, other) in enumerate((pair, pair[::-1])):
            mask = given.folder / f"mask-{side}.png"
            half = PIL.Image.new("L", (SIZE, SIZE), 0)
            half.paste(255, (side * SIZE // 2, 0, (side + 1) * SIZE // 2, SIZE))
            half.save(mask)
            query = Image(said(*pair), file, mask, draws=given.draws)
            if name == LOCAL:
                query = whole_picture("", file, mask=mask, draws=given.draws)
            scores = index.attribute(query, method=None if name == LOCAL else name).scores
            found.append([[hits(scores, shown, of, trait) for trait in TRAITS]
                          for of in (inside, other)])  # fmt: skip
    values = np.array(found)  # [masks, inside or other, traits]
    inside, other = values.mean(2).T
    return {
        "method": name,
        **{trait: values[:, :, i].mean(0).tolist() for i, trait in enumerate(TRAITS)},
        "inside": mean_interval(inside.tolist()),
        "other": mean_interval(other.tolist()),
        "difference": mean_interval((inside - other).tolist()),
    }


def hits(scores: np.ndarray, shown: list[Picture], of: Scene, trait: str) -> float:
    """Precision@10 of one trait of an object."""
    return precision_at(scores, np.array([p.shows(of.attributes[trait]) for p in shown]))


def table(rows: list[dict[str, Any]]) -> str:
    columns = ("inside", "other", "difference")
    lines = [
        f"{'precision@10':<22}"
        + "".join(f"{trait:<12}" for trait in TRAITS)
        + "".join(f"{name:<22}" for name in columns),
        f"{'':<22}" + "".join(f"{'in/other':<12}" for _ in TRAITS) + "of the three traits, mean",
    ]
    for row in rows:
        each = ["{:.2f}/{:.2f}".format(*row[trait]) for trait in TRAITS]
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*row[name]) for name in columns]
        lines.append(
            f"{row['method']:<22}"
            + "".join(f"{cell:<12}" for cell in each)
            + "".join(f"{cell:<22}" for cell in cells)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
