"""How good is the bundled model? The judge reads 600 samples of random prompts.

Prompts name all four attributes; combinations are drawn at random from all 2,880, held out ones
included. Prints the judge's own accuracy on held-out pictures, then how often each attribute of a
sample is what the prompt says; fails below the bounds. `--sheet FILE` also writes 40 samples.

    python benchmarks/quality.py [--samples 600] [--guidance 3] [--sheet FILE] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import sys

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headwater import Denoiser
from headwater.evaluation.retraining.bundled import draw_pictures, stack_images
from headwater.models.sampling import sample, seeded_noise
from headwater.scenes.classifier import load_classifier
from headwater.scenes.dataset import describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES, held_out_triples

BOUNDS = {"object": 0.92, "colour": 0.97, "style": 0.90, "background": 0.92}
BATCH = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    judge = load_classifier()
    held_out = pictures("validation")
    own = accuracy(judge.read(draw_pictures(held_out)), [said(p.scene) for p in held_out])
    rng = random.Random(given.seed)
    asked = [
        {name: rng.choice(values) for name, values in ATTRIBUTES.items()}
        for _ in range(given.samples)
    ]
    drawn = draw(Denoiser.load(given.model), asked, given.guidance, given.seed)
    read = judge.read(stack_images(drawn))
    unseen = [(a["object"], a["colour"], a["style"]) in held_out_triples() for a in asked]
    result = {
        "samples": given.samples,
        "guidance": given.guidance,
        "judge on held-out pictures": own,
        "samples, all": accuracy(read, asked),
        f"samples, {sum(unseen)} of unseen triples": accuracy(read, asked, unseen),
    }
    if given.sheet:
        grid(drawn[:40]).save(given.sheet)
    failed = [
        f"{name} {result['samples, all'][name]:.3f} < {bound}"
        for name, bound in BOUNDS.items()
        if result["samples, all"][name] < bound
    ] + [f"judge: {name} {rate:.3f} < 0.99" for name, rate in own.items() if rate < 0.99]
    if given.json:
        print(json.dumps({**result, "failed": failed}))
    else:
        for name, rates in result.items():
            if isinstance(rates, dict):
                cells = "  ".join(f"{a} {rate:.3f}" for a, rate in rates.items())
                print(f"{name:<32} {cells}")
        print("\n".join(f"FAILED {line}" for line in failed))
    return 1 if failed else 0


def grid(images: list[Image.Image], columns: int = 10) -> Image.Image:
    """The pictures at twice their size, a few pixels apart."""
    step = 2 * 64 + 6
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * step + 6, rows * step + 6), "white")
    for i, image in enumerate(images):
        place = (i % columns * step + 6, i // columns * step + 6)
        sheet.paste(image.resize((128, 128), Image.Resampling.NEAREST), place)
    return sheet


def said(scene) -> dict[str, str]:
    return scene.attributes


def accuracy(
    read: dict[str, list[str]], asked: list[dict[str, str]], only: list[bool] | None = None
) -> dict[str, float]:
    """How often the judge reads what was asked for, for each attribute."""
    rows = [i for i in range(len(asked)) if only is None or only[i]]
    return {name: float(np.mean([read[name][i] == asked[i][name] for i in rows])) for name in read}


def draw(
    denoiser: Denoiser, asked: list[dict[str, str]], guidance: float, seed: int
) -> list[Image.Image]:
    """One sample for each set of attributes, 50 DDIM steps."""
    images: list[Image.Image] = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        noise = torch.stack([
            seeded_noise(denoiser.latent_shape, seed, "quality", start + i)
            for i in range(len(part))
        ])  # fmt: skip
        condition = denoiser.encode_captions([describe(**a) for a in part])
        free = denoiser.encode_captions([""] * len(part))
        x0: Tensor = sample(denoiser, noise.to(denoiser.device), condition, free, guidance=guidance)
        images += denoiser.decode(x0)
    return images


if __name__ == "__main__":
    sys.exit(main())
