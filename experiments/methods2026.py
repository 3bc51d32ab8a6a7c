"""The methods of 2026 (MUCS, NDA, GUDA) where the truth is known.

`pictures`: NDA, MUCS, and unlearning beside them, are asked about a picture that stands 30 times
among 530 training images, about the picture that the model makes of its caption, and about three
pictures of captions that it never saw; how many of the first are copies, or show the same object
and colour, and at what cost.

`groups`: GUDA on a small model of pixels and groups of images of one colour, beside the same model
trained again without each group (leave one group out), with several seeds.

    export OMP_NUM_THREADS=1
    python experiments/methods2026.py pictures
    python experiments/methods2026.py groups

Everything lies in `experiments/results/methods2026`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import PIL.Image
import torch
from common import RESULTS, about, parser
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from duplicates import AMONG, COPIES, planted

from headwater import Denoiser, Image, Session, build_index, from_images
from headwater.attribution.answer.bootstrap import correlations
from headwater.attribution.scorers.unlearned import guda
from headwater.attribution.scorers.unlearned.unlearning import repeat_picture
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.queries.pictures.grouped import GroupedImage
from headwater.scenes.dataset import pictures

OUT = RESULTS / "methods2026"
ASKED = ("nda", "unlearning", "mucs", "random")
UNSEEN = 2  # pictures of captions that no training image has
TRAITS = ("object", "colour")

COLOURS = {"red": (230, 40, 40), "orange": (230, 150, 40), "green": (60, 200, 60),
           "blue": (40, 60, 220)}  # fmt: skip
SEEDS, EACH, STEPS = 2, 8, 200
# Of `groups`, besides the default: the published bound on a step's divergence taken away.
SETTINGS = {
    "lambda 0.03, cap 1": guda.Options(batch=EACH, timesteps=2, neighbours=4),
    "lambda 1, no cap": guda.Options(
        batch=EACH, timesteps=2, neighbours=4, learning_rate=1e-3, weight=1.0, cap=float("inf")
    ),
}


def main() -> None:
    """Run the stage that the command line names."""
    given = parser(__doc__, "pictures", "groups").parse_args()
    torch.set_num_threads(1)
    {"pictures": of_pictures, "groups": of_groups}[given.stage](given)


def finish(given: Any, title: str, rows: list[dict[str, Any]]) -> None:
    """Write and print a table."""
    write_results(OUT / f"of-{given.stage}", title, about(given), rows)
    print(markdown(rows), OUT / f"of-{given.stage}" / "table.md", sep="\n")


# --- pictures -------------------------------------------------------------------------------------


def of_pictures(given: Any) -> None:
    """Of each method, what its highest images are, and what it cost."""
    model, data, asked = planted(given.device)
    session = Session(build_index(model, data, OUT / "indexes" / "pictures", method="pixel-cosine"))
    guidance = {name: 5.0 if file else 3.0 for name, (_, file) in asked.items()}
    known = {
        name: Image(caption, file, draws=given.draws, guidance=guidance[name])
        for name, (caption, file) in asked.items()
    }
    unseen = pictures("unseen")[1 : 1 + UNSEEN]
    strange = [Image(picture.caption, draws=given.draws) for picture in unseen]
    for query in (*known.values(), *strange):
        session.picture(query)  # made once, and not counted
    rows = []
    for method in ASKED:
        start, counted = time.process_time(), passes_of(model)
        tops = [
            session.attribute(query, method=method).order() for query in (*known.values(), *strange)
        ]
        row: dict[str, Any] = {"method": method}
        for name, order in zip(known, tops, strict=False):
            row[f"copies, {name}"] = float((order[:COPIES] >= AMONG).mean())
        for trait in TRAITS:
            row[f"same {trait}, of 10"] = float(np.mean([
                share(order, trait, getattr(picture.scene, trait))
                for picture, order in zip(unseen, tops[len(known) :], strict=True)
            ]))  # fmt: skip
        row["passes a question"] = f"{counted.stop() / len(tops):,.0f}"
        row["CPU s a question"] = f"{(time.process_time() - start) / len(tops):.0f}"
        rows.append(row)
        finish(
            given, f"A picture that stands {COPIES} times among {AMONG}, and {UNSEEN} unseen", rows
        )


def share(order: np.ndarray, trait: str, value: str) -> float:
    """Of the ten highest scenes, how many have the trait; copies are left out."""
    truth = pictures("train")[:AMONG]
    best = [row for row in order if row < AMONG][:10]
    return float(np.mean([getattr(truth[row].scene, trait) == value for row in best]))


class passes_of:
    """Counts the samples that go forward through a model's network, until it is stopped."""

    def __init__(self, model: Denoiser) -> None:
        self.count = 0
        self._hook = model.network.register_forward_pre_hook(self._add)

    def _add(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self.count += len(inputs[0])

    def stop(self) -> int:
        """How many there were."""
        self._hook.remove()
        return self.count


# --- groups ---------------------------------------------------------------------------------------


def of_groups(given: Any) -> None:
    """GUDA's scores of groups beside what leaving each out does."""
    names = list(COLOURS)
    images = [patch(name, i) for name in names for i in range(EACH)]
    ids = [f"{name}-{i}" for name in names for i in range(EACH)]
    groups = {name: [f"{name}-{i}" for i in range(EACH)] for name in names}
    asked = [patch(name, EACH) for name in names]
    truth, predicted = [], {setting: [] for setting in SETTINGS}
    for seed in range(SEEDS):
        full = trained(images, seed)
        queries = [
            repeat_picture(full, full.encode_images([each]), "", seed, given.draws)
            for each in asked
        ]
        every = np.arange(len(images))
        left = [
            trained([images[row] for row in every if row // EACH != out], seed)
            for out in range(len(names))
        ]
        options = guda.Options()
        truth.append(np.array([
            [
                (guda.negative_elbo(model, query, options)
                 - guda.negative_elbo(full, query, options)).mean().item()
                for model in left
            ]
            for query in queries
        ]))  # fmt: skip
        data = from_images(images, [""] * len(images), ids=ids)
        index = build_index(full, data, OUT / "indexes" / f"groups-{seed}", method="pixel-dot")
        session = Session(index)
        grouping = GroupedImage(groups=groups).grouping(index.samples)
        for setting, chosen in SETTINGS.items():
            predicted[setting].append(np.array([
                guda.group_scores(session, query, grouping, chosen).mean(0).numpy()
                for query in queries
            ]))  # fmt: skip
    rows = [compared(name, np.stack(each), np.stack(truth)) for name, each in predicted.items()]
    rows.append(compared("retraining, other seeds", np.roll(truth, 1, 0), np.stack(truth)))
    finish(given, f"Groups: {len(names)} colours, {SEEDS} seeds", rows)


def compared(name: str, predicted: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Scores (seed, query, group) beside the truth of the same seeds."""
    pairs = [
        (p, t) for ps, ts in zip(predicted, truth, strict=True) for p, t in zip(ps, ts, strict=True)
    ]
    return {
        "": name,
        "same first group": float(np.mean([p.argmax() == t.argmax() for p, t in pairs])),
        "rank correlation": float(
            np.mean([correlations(np.stack([p, t]))[0, 1] for p, t in pairs])
        ),
    }


def patch(name: str, number: int) -> PIL.Image.Image:
    """A picture of 8 x 8 pixels of about this colour."""
    random = np.random.default_rng([list(COLOURS).index(name), number])
    pixels = np.array(COLOURS[name]) + random.normal(0, 12, (8, 8, 3)) + random.normal(0, 25, 3)
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def trained(images: list[PIL.Image.Image], seed: int) -> Denoiser:
    """A small model of these pictures."""
    torch.manual_seed(seed)
    network = UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16),
        layers_per_block=1, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"), norm_num_groups=4, add_attention=False,
    )  # fmt: skip
    model = Denoiser(DDPMPipeline(network, DDPMScheduler()))
    x0, schedule = model.encode_images(images), model.schedule
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    random = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(images), (24,), generator=random)
        t = torch.randint(len(schedule), (24,), generator=random)
        noise = torch.randn(24, 3, 8, 8, generator=random)
        a, s = (rate[t].float()[:, None, None, None] for rate in (schedule.a, schedule.s))
        loss = (network(a * x0[rows] + s * noise, t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


if __name__ == "__main__":
    main()
