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

`--full` learns for 3,000 steps instead of 400, and hides among all scenes and all other drawings.
Everything lies in `experiments/results/exemplars`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from common import RESULTS, about, kept_clip, parser
from exemplars_things import EXEMPLARS, KINDS, SEED, UNSAID, Hidden, captioned
from tqdm import tqdm

from headwater import Denoiser, TrainingSet, load_dataset
from headwater.data.training_set import joined
from headwater.evaluation.metrics.intervals import interval
from headwater.evaluation.reporting.plots import plot_bars
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.evaluation.retraining.clip import scene_captions
from headwater.evaluation.retraining.models import save_pipeline
from headwater.evaluation.retraining.outputs import samples
from headwater.evaluation.retraining.retrain import digest
from headwater.evaluation.studies.abc import Query, exemplar_question, hidden_recall
from headwater.evaluation.studies.method_indexes import build_indexes
from headwater.evaluation.studies.method_scores import QuestionOptions, score_questions
from headwater.evaluation.studies.retrieval import describe_method
from headwater.models.textual_inversion import Learning, Token, learn_token, save_token
from headwater.report.contact_sheet import columns_sheet
from headwater.report.export import slug

HIDDEN_AMONG = 500
TAUGHT, START = "a {} shape", "shape"  # a word begins as that
PROMPTS = tuple(
    f"a {{}} shape on a {each} background" for each in ("plain", "striped", "wavy", "checkered")
)
ASKED = (
    "trak",
    "concept-trak-a",
    "concept-trak-b",
    "concept-trak-c",
    "concept-trak",
    "concept-d-trak",
    "d-trak",
    "das",
    "journey-trak",
    "pixel-cosine",
    "clip-cosine",
    "random",
)
# Concept-TRAK, table 1: Stable Diffusion 1.4, 100,000 images, 48 questions.
PUBLISHED = {
    "trak": 0.04,
    "concept-trak-a": 0.261,
    "concept-trak-b": 0.335,
    "concept-trak-c": 0.564,
    "concept-trak": 0.955,
}


def main() -> None:
    command = parser(__doc__, "learn", "tables")
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
    else:
        tables(out, model, hidden, given)


def token(thing: str) -> str:
    return f"<{thing}>"


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


# --- the tables -----------------------------------------------------------------------------------


def pool(hidden: Hidden, full: bool) -> TrainingSet:
    """Scenes, pictures of other things, the exemplars with the word, and without it."""
    scenes, others = load_dataset("scenes"), hidden.others
    if not full:
        scenes = scenes.first(HIDDEN_AMONG)
        chosen = random.Random(SEED).sample(range(len(others)), min(HIDDEN_AMONG, len(others)))
        others = others.take(sorted(chosen))
    said_of = [
        captioned(each, [TAUGHT.format(token(thing))] * len(each), f"said-{thing}-")
        for thing, each in hidden.things.items()
    ]
    unsaid = [
        captioned(each, [UNSAID] * len(each), f"unsaid-{thing}-")
        for thing, each in hidden.things.items()
    ]
    return joined("scenes, others and exemplars", [scenes, others, *said_of, *unsaid])


def tables(out: Path, model: Denoiser, hidden: Hidden, given: argparse.Namespace) -> None:
    """Recall of the exemplars by each method, of both captions, in both pools."""
    data = pool(hidden, given.full)
    recipe: dict[str, Any] = {"parameters": given.parameters}
    if set(given.methods) & {"clip-dot", "clip-cosine"}:
        recipe["clip"] = kept_clip(out.parent / "models" / "clip", scene_captions, given.device)
    indexes = build_indexes(model, data, out / "indexes", given.methods, **recipe)
    queries = [
        Query("", prompt.format(word), word, TAUGHT.format(word), "shape", given.things, thing)
        for thing, word in ((thing, token(thing)) for thing in hidden.things)
        for prompt in PROMPTS
    ]
    options = QuestionOptions(given.draws, guidance=3.0)
    found = score_questions(
        indexes,
        lambda method: [exemplar_question(method, query, options) for query in queries],
        out / "scores",
    )
    ids = [sample.id for sample in data.samples]
    rows, values = [], {}
    for method, index in indexes.items():
        own = values[method.name] = {
            f"{caption}{where}": by_thing(queries, found[method.name], ids, caption, decoys)
            for caption in ("said", "unsaid")
            for where, decoys in (("", True), (", alone", False))
        }
        rows.append({
            "method": method.name,
            **describe_method(method, index),
            "asked": exemplar_question(method, queries[0], options).kind,
            "published": PUBLISHED.get(method.name),
            **{name: interval(each) for name, each in own.items()},
        })  # fmt: skip
    folder = out / slug(given.parameters)
    size, decoys = sum(map(strange, ids)), EXEMPLARS * (len(hidden.things) - 1)
    title = f"Exemplars ({given.things}): {len(hidden.things)} things, {len(queries)} questions"
    notes = [
        f"recall@10: how many of a thing's {EXEMPLARS} exemplars are among the ten highest of "
        f"these and {size + decoys:,} others; mean over {len(PROMPTS)} prompts",
        f"said: with a caption that holds the word; unsaid: with {UNSAID!r}; {decoys} of the "
        "others are exemplars of the other things, with captions of the same kind",
        f"alone: among {size:,}, without these, as published: nothing else has such a caption"
        + (", but the other drawings one like the unsaid" if given.things == "drawings" else ""),
        "one index holds the exemplars under both captions; the other one's are left out of a "
        "ranking, not of the kernel",
        "published: Concept-TRAK's table 1, of other things hidden among 100,000 photographs",
        "intervals: 95%, over things",
    ]
    things = list(hidden.called)
    write_results(folder, title, about(given), rows, notes, values=values, things=things)
    for caption in ("said", "unsaid"):
        shown = [{**row, f"recall@10, {caption}": row[caption]} for row in rows]
        plot_bars(
            folder / f"{caption}.png", shown, f"recall@10, {caption}", title=title, group="asked"
        )
    print(markdown(rows), folder / "table.md", sep="\n")


def strange(id: str) -> bool:
    """Whether an image is no exemplar."""
    return not id.startswith(("said-", "unsaid-"))


def by_thing(
    queries: Sequence[Query], found: np.ndarray, ids: Sequence[str], caption: str, decoys: bool
) -> list[float]:
    """Capped recall@10 of each thing's exemplars with this caption: the mean over its prompts.

    Args:
        decoys: whether they are hidden among those of the other things, too.
    """
    recalls: dict[str, list[float]] = {}
    for query, scores in zip(queries, found, strict=True):
        own = np.array([id.startswith(f"{caption}-{query.concept}-") for id in ids])
        others = [strange(id) or (decoys and id.startswith(f"{caption}-")) for id in ids]
        recall = hidden_recall(scores[~own & others], scores[own])
        recalls.setdefault(query.concept, []).append(recall)
    return [float(np.mean(each)) for each in recalls.values()]


if __name__ == "__main__":
    main()
