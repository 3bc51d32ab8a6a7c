"""What is asked of the pool in `exemplars.py`, and what is counted of the answers."""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import about, kept_clip
from exemplars_things import EXEMPLARS, SEED, UNSAID, Hidden, captioned

from headwater import Concept, Denoiser, Image, Index, Session, TrainingSet, load_dataset
from headwater.data.training_set import joined
from headwater.evaluation.metrics.intervals import interval
from headwater.evaluation.reporting.plots import plot_bars
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.evaluation.retraining.clip import scene_captions
from headwater.evaluation.studies.abc import (
    Query,
    exemplar_question,
    hidden_recall,
    kernel_scores,
)
from headwater.evaluation.studies.method_indexes import build_indexes
from headwater.evaluation.studies.method_scores import QuestionOptions, score_questions
from headwater.evaluation.studies.retrieval import describe_method
from headwater.methods.row import Method

TAUGHT = "a {} shape"
DAMPING = 0.1
PROMPTS = tuple(
    f"a {{}} shape on a {each} background" for each in ("plain", "striped", "wavy", "checkered")
)
ASKED = (
    "trak",
    "concept-trak-a",
    "concept-trak-b",
    "concept-trak-c",
    "concept-trak",
    "concept-trak-c-unguided",
    "concept-trak-unguided",
    "concept-d-trak",
    "d-trak",
    "das",
    "journey-trak",
    "pixel-cosine",
    "clip-cosine",
    "random",
)

HIDDEN_AMONG = 500

# Concept-TRAK, table 1: Stable Diffusion 1.4, 100,000 images, 48 questions.
PUBLISHED = {
    "trak": 0.04,
    "concept-trak-a": 0.261,
    "concept-trak-b": 0.335,
    "concept-trak-c": 0.564,
    "concept-trak": 0.955,
}


def token(thing: str) -> str:
    """The word for a thing."""
    return f"<{thing}>"


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


@dataclass(frozen=True)
class Asked:
    """The indexes of the pool, by method, and what each is asked."""

    hidden: Hidden
    indexes: Mapping[Method, Index]
    queries: Sequence[Query]
    options: QuestionOptions
    ids: Sequence[str]
    scores: Path

    def questions(self, method: Method) -> list[Concept | Image]:
        """What this method is asked."""
        return [exemplar_question(method, query, self.options) for query in self.queries]

    def scored(self) -> dict[str, np.ndarray]:
        """Scores of all images for each question, by the usual kernel."""
        return score_questions(self.indexes, self.questions, self.scores)


def ask(out: Path, model: Denoiser, hidden: Hidden, given: argparse.Namespace) -> Asked:
    """Index the pool, and say what is asked."""
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
    options, ids = QuestionOptions(given.draws, guidance=3.0), [each.id for each in data.samples]
    return Asked(hidden, indexes, queries, options, ids, out / "scores")


def tables(folder: Path, asked: Asked, given: argparse.Namespace) -> None:
    """Recall of the exemplars by each method, of both captions, in both pools."""
    hidden, queries, ids, found = asked.hidden, asked.queries, asked.ids, asked.scored()
    rows, values = [], {}
    for method, index in asked.indexes.items():
        own = values[method.name] = {
            f"{caption}{where}": by_thing(queries, found[method.name], ids, caption, decoys)
            for caption in ("said", "unsaid")
            for where, decoys in (("", True), (", alone", False))
        }
        rows.append({
            "method": method.name,
            **describe_method(method, index),
            "asked": asked.questions(method)[0].kind,
            "published": PUBLISHED.get(method.name),
            **{name: interval(each) for name, each in own.items()},
        })  # fmt: skip
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


def kernels(folder: Path, asked: Asked, given: argparse.Namespace) -> None:
    """Recall of the exemplars under their word by three kernels, by methods of the rule `trak`."""
    asked.scored()  # leaves the questions' gradients beside the first index
    exemplars, lender = [id for id in asked.ids if not strange(id)], None
    rows, values = [], {}
    for method, index in asked.indexes.items():
        session = Session(index)
        lender = lender or session
        if session is not lender:
            lender.lend_to(session)
        if method.rule != "trak":
            continue
        answers = [session.attribute(each, method=method.name) for each in asked.questions(method)]
        psi = np.stack([answer.feature for answer in answers if answer.feature is not None])
        by_kernel = kernel_scores(session, psi, exemplars)
        own = values[method.name] = {
            "as published": best_by_thing(asked, by_kernel["of the pool"]),
            **{
                f"kernel {name}": by_thing(asked.queries, each[DAMPING], asked.ids, "said", False)
                for name, each in by_kernel.items()
            },
        }
        rows.append({
            "method": method.name,
            **describe_method(method, index),
            "published": PUBLISHED.get(method.name),
            **{name: interval(each) for name, each in own.items()},
        })  # fmt: skip
    title = f"Exemplars ({given.things}) by three kernels: {len(asked.queries)} questions"
    notes = [
        f"recall@10: how many of a thing's {EXEMPLARS} exemplars, with a caption that holds the "
        f"word, are among the ten highest of these and {sum(map(strange, asked.ids)):,} others",
        "as published: by a kernel of the pool alone, the best of nine dampings of each question",
        f"the others at damping {DAMPING}; corrected: of the pool, its own rows by s / (1 - h)",
        "of all: the kernel holds the exemplars of all things under both captions",
        "published: Concept-TRAK's table 1, of other things hidden among 100,000 photographs",
        "intervals: 95%, over things",
    ]
    things = list(asked.hidden.called)
    write_results(
        folder / "kernels", title, about(given), rows, notes, values=values, things=things
    )
    print(markdown(rows), folder / "kernels" / "table.md", sep="\n")


def best_by_thing(asked: Asked, by_damping: Mapping[float, np.ndarray]) -> list[float]:
    """`by_thing` of captions with the word, each question at the damping that finds most."""
    alone = [
        by_thing([query], scores[[row]], asked.ids, "said", False)
        for scores in by_damping.values()
        for row, query in enumerate(asked.queries)
    ]
    best = np.array(alone).reshape(len(by_damping), -1).max(0)
    of_thing: dict[str, list[float]] = {}
    for query, recall in zip(asked.queries, best, strict=True):
        of_thing.setdefault(query.concept, []).append(recall)
    return [float(np.mean(each)) for each in of_thing.values()]


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
