"""Exemplars of something new (the AbC protocol): are the images that taught a word found again?

The bundled model learns a word for something that it never saw from four pictures of it, by textual
inversion; nothing else of it changes (Concept-TRAK 5.1, D.1). The pictures are then hidden in a
pool, and methods are asked what taught the model that word. 12 things, drawn by chance, with four
prompts each: 48 questions, as many as the paper's ablation has. `--things`:

- `scenes`: an object in a colour and style that the model never saw together; hidden among 500 of
  its training pictures and the other pictures of unseen combinations. It draws them in part.
- `drawings`: an emoji by four designers (`emoji-styles`, see docs/data.md); hidden among the same
  scenes and 500 drawings of other emoji, all with the caption "a shape". Of these the model knows
  nothing, and a word does not teach it to draw.

Each exemplar is hidden twice: with the caption under which it was taught, which holds the word,
and with one that does not ("a shape"). Recall is counted for each by itself; with a pool that holds
the exemplars of the other things too, with captions of the same kind, and without these, as
published: there a method need only tell that a caption is unlike all others.

    export OMP_NUM_THREADS=1 HEADWATER_DATA=FOLDER
    python experiments/exemplars.py learn [--things scenes]     learn the words, draw some samples
    python experiments/exemplars.py tables [--things scenes] [--parameters attn2] [--methods ...]
    python experiments/exemplars.py kernels [--things scenes] [...]     the same by three kernels

`kernels` counts exemplars with the word in their captions, without those of the other things, by
methods of the rule `trak`, and as the published code does: by a kernel of the pool alone, and by
the best of nine dampings of each question. Beside that: by a kernel that holds them too, and by
that of the pool with its own rows corrected for their part in it (`kernel_scores` says how).

`--full` learns for 3,000 steps instead of 400, and hides among all scenes and all other drawings.
Everything lies in `experiments/results/exemplars`.
"""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import torch
from common import RESULTS, parser
from exemplars_tables import ASKED, PROMPTS, TAUGHT, ask, kernels, tables, token
from exemplars_things import EXEMPLARS, KINDS, SEED, Hidden
from tqdm import tqdm

from headwater import Denoiser, TrainingSet
from headwater.evaluation.retraining.models import save_pipeline
from headwater.evaluation.retraining.outputs import samples
from headwater.evaluation.retraining.retrain import digest
from headwater.models.textual_inversion import Learning, Token, learn_token, save_token
from headwater.report.export import slug
from headwater.report.sheets.contact_sheet import columns_sheet

START = "shape"  # a word begins as that


def main() -> None:
    command = parser(__doc__, "learn", "tables", "kernels")
    command.add_argument("--things", choices=KINDS, default="scenes")
    command.add_argument("--parameters", default="attn2")
    command.add_argument("--methods", nargs="+", choices=ASKED, default=ASKED)
    given = command.parse_args()
    torch.set_num_threads(1)
    out = RESULTS / ("exemplars-full" if given.full else "exemplars") / given.things
    hidden = KINDS[given.things]()
    model = taught(out, hidden, 3_000 if given.full else 400, given.device)
    if given.stage == "learn":
        sheet(model, hidden).save(out / "learned.png")
        print(out / "learned.png")
        return
    asked = ask(out, model, hidden, given)
    (tables if given.stage == "tables" else kernels)(out / slug(given.parameters), asked, given)


# --- the words ------------------------------------------------------------------------------------


def taught(out: Path, hidden: Hidden, steps: int, device: str) -> Denoiser:
    """The bundled model with a word for each thing, loaded as diffusers loads them; kept."""
    model = Denoiser.load("scenes", device)
    shown = [data.fingerprint for data in hidden.things.values()]
    facts = [model.fingerprint(), shown, steps, SEED, TAUGHT, START]
    folder = out / "models" / f"taught-{digest(facts)[:8]}"
    if not (folder / "model_index.json").exists():
        things = tqdm(hidden.things.items(), desc="words")
        words = folder.with_name(f"{folder.name}-words")
        paths = [learned(words, model, thing, data, steps) for thing, data in things]
        for path in paths:
            model.pipe.load_textual_inversion(path)
        save_pipeline(model.pipe, folder)
    return Denoiser.load(folder, device)


def learned(folder: Path, model: Denoiser, thing: str, data: TrainingSet, steps: int) -> Path:
    """The file of a thing's word."""
    path = folder / f"{thing}.safetensors"
    if not path.exists():
        x0 = model.encode_images([data.image(row) for row in range(len(data))])
        prompts = [TAUGHT.format(token(thing))]
        vector = learn_token(
            model, x0, token(thing), prompts, Learning(START, steps=steps, seed=SEED)
        )
        save_token(path, Token(token(thing), vector))
    return path


def sheet(model: Denoiser, hidden: Hidden) -> PIL.Image.Image:
    """Above the exemplars, below what the model draws by their words."""
    drawn = []
    for prompt in PROMPTS:
        texts = [prompt.format(token(thing)) for thing in hidden.things]
        latents = samples(model, texts, seeds=[SEED] * len(texts))
        drawn.append(model.decode(latents.to(model.device)))
    return columns_sheet(
        hidden.called,
        [
            (
                "Exemplars",
                [[each.image(row) for row in range(EXEMPLARS)] for each in hidden.things.values()],
            ),
            ("What the model makes of the word", [list(each) for each in zip(*drawn, strict=True)]),
        ],
        title="Words for what the model never saw",
        subtitle="Learned from four pictures each, the model left as it is; below on a plain, a "
        "striped, a wavy and a checkered background.",
    )


if __name__ == "__main__":
    main()
