"""Adapters that learned a thing from 20 pictures: are these found among 2,000?

A LoRA of attention and feed-forward layers (peft) is trained on top of the bundled model, on 20
scenes of an object that it never saw, as people train one on a character. The 20 are hidden among
1,980 pictures that the bundled model learned from, and methods are asked, of the adapters'
parameters alone, what taught it whole pictures of the object and the object as a concept.

    export OMP_NUM_THREADS=1
    python experiments/lora.py learn [--seed 0]     train adapters, draw what they make
    python experiments/lora.py tables [--seed 0] [--scale 1.0] [--noise 1]     index, ask, count

Adapters know their pictures by heart, and the loss of what one knows has no gradient. With
`--scale` below 1 gradients are taken of the adapters at a part of their strength, where they still
have that to learn; the pictures asked about are made by the whole adapters all the same. Each
`--seed` has 20 pictures and adapters of its own.

Everything lies in `experiments/results/lora`. What is kept there is of whole pictures and concepts,
by methods of `ASKED`, all of which are asked where nothing else is said. What the object's words
gain, on the 20 pictures themselves and on such as the model makes, has a table of its own:

    python experiments/lora.py tables --ask contribution made --methods ekfac ekfac-presence
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import PIL.Image
import torch
from common import RESULTS, about, kept_clip, parser
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from tqdm import tqdm

from headwater import Concept, Contribution, Denoiser, Image, TrainingSet, from_images, load_dataset
from headwater.data.training_set import joined
from headwater.evaluation.metrics.intervals import interval
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.evaluation.retraining.clip import scene_captions
from headwater.evaluation.retraining.outputs import samples
from headwater.evaluation.studies.method_indexes import build_indexes
from headwater.evaluation.studies.method_scores import score_questions
from headwater.evaluation.studies.retrieval import describe_method
from headwater.report.sheets.contact_sheet import columns_sheet
from headwater.scenes.dataset import describe
from headwater.scenes.render import Scene, draw
from headwater.scenes.vocabulary import BACKGROUNDS, COLOURS, STYLES, UNSEEN_OBJECTS

THING = UNSEEN_OBJECTS[0]
HIDDEN, AMONG = 20, 1_980
RANK, STEPS, BATCH, RATE = 8, 4_000, 8, 1e-3
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
SEED = 0
# What is asked about: none of these combinations is among the 20.
PROMPTS = tuple(
    describe(THING, colour, style, background)
    for colour, style, background in (
        ("red", "flat", "plain"), ("blue", "hatched", "striped"), ("green", "outlined", "wavy"),
        ("purple", "dotted", "checkered"),
    )
)  # fmt: skip
# Not asked: these need checkpoints of a training (tracin, gas), or move weights that the adapters
# stand beside (unlearning).
ASKED = (
    "concept-trak-unguided", "concept-trak-a", "concept-trak-b", "concept-trak-c-unguided", "trak",
    "journey-trak", "gradient-dot", "gradient-cosine", "relative-influence",
    "renormalised-influence", "d-trak", "concept-d-trak", "das", "pixel-cosine", "clip-cosine",
    "random",
)  # fmt: skip
INFLUENCE = ("ekfac", "ekfac-presence")
KINDS = ("image", "concept")
# What the words gain, on training images and on pictures that the model makes.
GAINS = {"contribution": "training", "made": "made"}


def main() -> None:
    command = parser(__doc__, "learn", "tables")
    methods = (*ASKED, *INFLUENCE)
    command.add_argument("--methods", nargs="+", choices=methods, default=ASKED)
    command.add_argument("--ask", nargs="+", choices=(*KINDS, *GAINS), default=KINDS)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--scale", type=float, default=1.0)
    command.add_argument("--noise", type=int, default=1, help="draws of it, at each timestep")
    given = command.parse_args()
    torch.set_num_threads(1)
    out, shown = RESULTS / "lora", taught_pictures(given.seed)
    out = out / f"seed-{given.seed}" if given.seed else out
    file = learned(out, shown, given)
    if given.stage == "learn":
        sheet(Denoiser.load("scenes", given.device, lora=file), shown).save(out / "learned.png")
        print(out / "learned.png")
    else:
        tables(out, file, shown, given)


# --- the adapters ---------------------------------------------------------------------------------


def taught_pictures(seed: int) -> TrainingSet:
    """20 scenes of the object, each in a colour, style and background of its own."""
    chance = np.random.default_rng(seed)
    chosen: dict[str, Scene] = {}
    while len(chosen) < HIDDEN:
        colour, style, background = (str(chance.choice(v)) for v in (COLOURS, STYLES, BACKGROUNDS))
        x, y = chance.uniform(0.4, 0.6, 2)
        scene = Scene(
            THING, colour, style, background, float(x), float(y),
            float(chance.uniform(0.28, 0.36)), float(chance.uniform(-20, 20)),
            float(chance.uniform()),
        )  # fmt: skip
        caption = describe(THING, colour, style, background)
        if caption not in PROMPTS:
            chosen[caption] = scene
    ids = [f"taught-{i:02d}" for i in range(HIDDEN)]
    return from_images([draw(scene) for scene in chosen.values()], list(chosen), ids=ids)


def learned(out: Path, shown: TrainingSet, given: Any) -> Path:
    """The file of the adapters, trained once: the loss of noise, as diffusers' scripts have it."""
    file = out / "lora" / "pytorch_lora_weights.safetensors"
    if file.exists():
        return file
    torch.manual_seed(given.seed)
    plain = Denoiser.load("scenes", given.device)
    x0 = plain.encode_images([shown.image(row) for row in range(len(shown))])
    captions = [sample.caption for sample in shown.samples]
    words = plain.encode_captions([*captions, ""])
    assert words is not None, "it reads words"
    wanted = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS)
    plain.network.requires_grad_(False)
    network: Any = plain.network
    network.add_adapter(wanted)
    model = Denoiser(plain.pipe, device=given.device)
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    chance = torch.Generator().manual_seed(given.seed)
    for _ in tqdm(range(STEPS), desc="adapters"):
        rows = torch.randint(len(shown), (BATCH,), generator=chance)
        said = rows.where(torch.rand(BATCH, generator=chance) > 0.1, len(shown))  # the empty one
        noise = torch.randn(BATCH, *x0.shape[1:], generator=chance).to(x0)
        t = int(torch.randint(len(model.schedule), (), generator=chance))
        xt = model.schedule.noised(x0[rows], noise, t)
        asked = model.schedule.asked(x0[rows], noise, t)
        loss = (model.predict(xt, t, words[said.tolist()]) - asked).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    StableDiffusionPipeline.save_lora_weights(file.parent, state)
    return file


def drawings(model: Denoiser) -> list[PIL.Image.Image]:
    """What the model makes of prompts with the object's name."""
    latents = samples(model, PROMPTS, seeds=[SEED] * len(PROMPTS))
    return model.decode(latents.to(model.device))


def sheet(model: Denoiser, shown: TrainingSet) -> Any:
    """Above, some of the 20; below, what the model makes."""
    few = [shown.image(row) for row in range(len(PROMPTS))]
    return columns_sheet(
        PROMPTS,
        [
            ("Of the 20 pictures", [[image] for image in few]),
            ("What the model makes of it", [[image] for image in drawings(model)]),
        ],
        title=f"A {THING}, learned by adapters",
        subtitle=f"LoRA of rank {RANK}, {STEPS} steps; nothing else of the model changes.",
    )


# --- the tables -----------------------------------------------------------------------------------


def questions(
    kind: str, files: Sequence[Path], draws: int
) -> Sequence[Concept | Contribution | Image]:
    """About whole pictures that the prompts make, the object in them, or what its words gain.

    Args:
        files: of pictures; none where the model that is asked makes them itself.
    """
    if kind == "concept":
        return [Concept(prompt, THING, draws=draws) for prompt in PROMPTS]
    if kind in GAINS:
        on = {"pictures": GAINS[kind], "draws": draws, "guidance": 3.0}
        return [Contribution(prompt, THING, **on) for prompt in PROMPTS]
    if not files:
        return [Image(prompt, draws=draws, guidance=3.0) for prompt in PROMPTS]
    return [Image(p, file=file, draws=draws) for p, file in zip(PROMPTS, files, strict=True)]


def made(model: Denoiser, folder: Path) -> list[Path]:
    """Files of what the model makes of the prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.png" for number in range(len(PROMPTS))]
    if not all(file.exists() for file in files):
        for file, picture in zip(files, drawings(model), strict=True):
            picture.save(file)
    return files


def tables(out: Path, adapters: Path, shown: TrainingSet, given: Any) -> None:
    """Of each method and kind of question, how many of the 20 are among its first 20."""
    whole = given.scale == 1
    model = Denoiser.load("scenes", given.device, lora=adapters)
    files = [] if whole else made(model, out / "pictures")
    if not whole:
        model = Denoiser.load("scenes", given.device, lora=adapters, lora_scale=given.scale)
        out = out / f"scale-{given.scale:g}"
    if tuple(given.ask) != KINDS:
        out = out / "-".join(given.ask)
    among = load_dataset("scenes").first(AMONG)
    data = joined(f"{HIDDEN} pictures that adapters learned from, among {AMONG:,}", [among, shown])
    recipe: dict[str, Any] = {"parameters": "lora"}
    if given.noise > 1:
        recipe["draws"] = given.noise
    if "clip-cosine" in given.methods:
        recipe["clip"] = kept_clip(RESULTS / "models" / "clip", scene_captions, given.device)
    indexes = build_indexes(model, data, out / "indexes", given.methods, **recipe)
    taught = np.arange(len(data)) >= AMONG
    rows = []
    for method, index in indexes.items():
        found = {}
        for kind in given.ask:
            if ("contribution" if kind in GAINS else kind) in method.takes:
                scores = score_questions(
                    {method: index},
                    lambda method, kind=kind: questions(kind, files, given.draws),
                    out / "scores" / kind,
                )[method.name]
                found[kind] = [taught[np.argsort(-each)[:HIDDEN]].mean() for each in scores]
        rows.append({
            "method": method.name,
            **describe_method(method, index),
            **{f"found, {kind}": interval(each) for kind, each in found.items()},
        })  # fmt: skip
    dots = [index for method, index in indexes.items() if method.name == "gradient-dot"]
    for index in dots:  # what is found by no question
        norms = torch.cat([block.float().norm(dim=1) for block in index.blocks()]).numpy()
        found = float(taught[np.argsort(-norms)[:HIDDEN]].mean())
        rows.append({"method": "its rows' norms, no question", "found, image": found})
    notes = [
        f"found: the share of the {HIDDEN} pictures that are among the {HIDDEN} highest of "
        f"{len(data):,}; mean over {len(PROMPTS)} prompts of other combinations; "
        f"by chance {HIDDEN / len(data):.2f}",
        f"concept: {THING!r}, over training captions that name it, with and without the word; "
        "image: the whole picture that the model makes of the prompt; contribution: what the word "
        f"gains on those of the {HIDDEN}, each scored by the others; made: on such as the model "
        "makes",
        f"captions of the {HIDDEN} name the {THING}, and no others do: that finds all of them",
        "rows and questions are of the adapters' parameters alone (`--parameters lora`), at "
        f"{given.scale:g} of their strength; {given.noise} draws of noise of each training picture "
        "at each of 10 timesteps",
        "intervals: 95%, over prompts",
    ]
    title = f"A LoRA of {HIDDEN} pictures, hidden among {len(data):,}"
    write_results(out, title, about(given), rows, notes)
    print(markdown(rows), out / "table.md", sep="\n")


if __name__ == "__main__":
    main()
