"""The scenes: does the model itself see what an image shows, whatever its caption says?

The bundled model; its first 1,000 pictures, a fifth of them with a caption in which one word is
false. For each of the 30 concepts, presence with the alternatives that captions have in its place,
with those of its kind given, and with none, beside what captions say: retrieval, precision among
images whose caption does not name what they show, and how many of the highest are named but do not
show it. A second table says how well the false captions themselves are found, and a third what
`headwater audit` says of them.

    export OMP_NUM_THREADS=1
    python experiments/presence.py tables
    python experiments/presence.py contexts    where captions name no value: how should they?
    python experiments/presence.py unnamed     what `ekfac-presence` tries of it

Everything lies in `experiments/results/presence`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from common import RESULTS, about, parser

from headwater import Concept, Denoiser, Session, audit, build_index, load_dataset
from headwater.attribution.scorers.content.caption_losses import caption_losses
from headwater.attribution.scorers.content.presence import (
    kind_of,
    losses_of,
    prepare,
    presence,
    timesteps_of,
)
from headwater.attribution.scorers.content.unnamed import shown
from headwater.data.training_set import Sample
from headwater.evaluation.ground_truth.concepts import Truth, read_truths
from headwater.evaluation.ground_truth.label_noise import plant_label_noise
from headwater.evaluation.ground_truth.oracles import MEMBERSHIP, break_ties, membership
from headwater.evaluation.metrics.intervals import interval
from headwater.evaluation.metrics.retrieval import average_precision, precision_at
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.evaluation.studies.retrieval import Evaluation, describe_columns
from headwater.queries.words.prompts import contains
from headwater.queries.words.replacements import Insertions
from headwater.scenes.dataset import pictures
from headwater.scenes.vocabulary import ATTRIBUTES, attribute_of

OUT = RESULTS / "presence"
FALSE, IMAGES = 0.2, 1_000
ASKED = ("mined", "given", "none")


def main() -> None:
    stages = {"tables": tables, "contexts": contexts, "unnamed": unnamed}
    command = parser(__doc__, *stages)
    command.add_argument("--alternatives", nargs="+", choices=ASKED, default=ASKED)
    given = command.parse_args()
    torch.set_num_threads(1)
    data = plant_label_noise(load_dataset("scenes").first(IMAGES), FALSE)
    model = Denoiser.load("scenes", given.device)
    session = Session(build_index(model, data, OUT / "indexes" / "pixels", method="pixel-dot"))
    stages[given.stage](session, given)


def tables(session: Session, given: argparse.Namespace) -> None:
    """Both tables."""
    said, true = session.index.samples, load_dataset("scenes").first(IMAGES).samples
    truths = read_truths("scenes", said)
    scores = {MEMBERSHIP: break_ties(membership(truths))}
    for kind in given.alternatives:
        queries = [question(truth, kind) for truth in truths]
        start = time.process_time()
        scores[f"presence, {kind}"] = ask(session, queries)
        print(f"{kind}: {time.process_time() - start:.0f} CPU seconds")
    evaluation = Evaluation("retrieval")
    values = {name: evaluation.measure(truths, rows) for name, rows in scores.items()}
    lies = {
        name: planted(true, said, truths, rows)
        for name, rows in scores.items()
        if name != MEMBERSHIP
    }
    write(values, lies, given)
    audited(
        session, {a.id for a, b in zip(true, said, strict=True) if a.caption != b.caption}, given
    )


def contexts(session: Session, given: argparse.Namespace) -> None:
    """Of images whose caption names no value of a kind, how often the true one explains it best.

    The value is put where other captions have one, behind a comma, or stands by itself.
    """
    said, captions = session.index.samples, session.captions
    truths = {truth.concept: truth for truth in read_truths("scenes", said)}
    spec = timesteps_of(session.denoiser)
    rows: list[dict[str, Any]] = []
    for kind in session.kinds:
        insert = Insertions(captions, kind)
        silent = [
            i for i, each in enumerate(said) if not any(contains(each.caption, v) for v in kind)
        ]
        ways = {
            "where others have one": [[insert(said[i].caption, v) for v in kind] for i in silent],
            "behind a comma": [[f"{said[i].caption}, {v}" for v in kind] for i in silent],
            "the bare word": [list(kind) for _ in silent],
        }
        row: dict[str, Any] = {"kind": kind[0], "images": str(len(silent))}
        for way, texts in ways.items() if silent else ():
            best = caption_losses(session, silent, texts, spec).mean(0).argmin(1).tolist()
            right = [truths[kind[v]].shows[i] for i, v in zip(silent, best, strict=True)]
            row[way] = interval([float(each) for each in right])
        rows += [row] if silent else []
    note = "share of images with the interval over them; a kind goes by its most frequent value"
    write_results(OUT / "contexts", "Captions that name no value", about(given), rows, [note])
    print(markdown(rows), OUT / "contexts" / "table.md", sep="\n")


def unnamed(session: Session, given: argparse.Namespace) -> None:
    """Whether images that show a concept and do not name it are the same, and at what cost."""
    rows: dict[str, list[dict[str, float]]] = {}
    for truth in read_truths("scenes", session.index.samples):
        kind = kind_of(session, Concept(truth.prompt, truth.concept))
        whole, found = losses_of(session, kind, truth.concept), shown(session, kind, truth.concept)
        silent = ~whole.named.any(1)
        seen = (whole.margins(truth.concept).mean(0) > 0) & silent
        shows = torch.tensor(truth.shows) & silent
        rows.setdefault(attribute_of(truth.concept), []).append({
            "captions that name none": int(silent.sum()),
            "show it": int(shows.sum()),
            "seen": int(seen.sum()),
            "right": int((seen & shows).sum()),
            "seen by few": int(found.unnamed.sum()),
            "of these right": int((found.unnamed & shows).sum()),
            "seen by one alone": int((seen != found.unnamed).sum()),
            "losses, of all": found.losses / whole.losses.numel(),
        })  # fmt: skip
    table = [
        {"kind": kind, "concepts": len(own)}
        | {name: float(np.mean([row[name] for row in own])) for name in own[0]}
        for kind, own in rows.items()
    ]
    note = f"of {IMAGES} images; mean over the concepts of a kind"
    write_results(
        OUT / "unnamed", "Seen and not named, for fewer losses", about(given), table, [note]
    )
    print(markdown(table), OUT / "unnamed" / "table.md", sep="\n")


def question(truth: Truth, kind: str) -> Concept:
    """The concept, with its alternatives."""
    values = ATTRIBUTES[attribute_of(truth.concept)]
    others = tuple(value for value in values if value != truth.concept)
    alternatives = {"mined": None, "given": others, "none": ()}[kind]
    return Concept(truth.prompt, truth.concept, alternatives=alternatives)


def ask(session: Session, queries: Sequence[Concept]) -> np.ndarray:
    """The presence of each concept in each image."""
    prepare(session, [(kind_of(session, query), query.concept) for query in queries])
    return np.stack([presence(session, query).double().numpy() for query in queries])


def planted(
    true: Sequence[Sample], said: Sequence[Sample], truths: Sequence[Truth], scores: np.ndarray
) -> dict[str, list[float]]:
    """How well false captions are found by what the model sees least of all that they name."""
    names = np.stack([truth.names for truth in truths])
    doubt = np.where(names, -scores, -np.inf).max(0)
    false = np.array([a.caption != b.caption for a, b in zip(true, said, strict=True)])
    asked = names.any(0)
    doubt, false = doubt[asked], false[asked]
    resampled = np.random.default_rng(0).integers(len(false), size=(1_000, len(false)))
    return {
        "average precision": [
            average_precision(doubt, false),
            *np.quantile(
                [average_precision(doubt[r], false[r]) for r in resampled], (0.025, 0.975)
            ),
        ],
        "precision@100": [precision_at(doubt, false, 100)],
    }


def write(
    values: Mapping[str, Mapping[str, Sequence[float | None]]],
    lies: Mapping[str, Mapping[str, Sequence[float]]],
    given: argparse.Namespace,
) -> None:
    """The tables, on disk and on the screen."""
    columns = describe_columns(10)
    rows: list[dict[str, Any]] = [
        {"method": name, **{metric: interval(each) for metric, each in own.items()}}
        for name, own in values.items()
    ]
    notes = [f"{column}: {text}" for column, text in columns.items() if column in rows[0]]
    title = f"Presence: {len(next(iter(values.values()))['isolation'])} concepts, {IMAGES} images"
    write_results(OUT, title, about(given), rows, notes, values=values)
    found = [
        {
            "method": name,
            **{metric: " ".join(f"{number:.3f}" for number in own) for metric, own in each.items()},
        }
        for name, each in lies.items()
    ]
    note = "average precision of planted lies among captions, with its 95% interval over images"
    write_results(OUT / "lies", f"{FALSE:.0%} false captions, found", about(given), found, [note])
    print(markdown(rows), markdown(found), OUT / "table.md", sep="\n")


def audited(session: Session, false: Set[str], given: argparse.Namespace) -> None:
    """What an audit says, against what images show."""
    found = audit(session)
    shown = {picture.id: picture for picture in pictures()}

    def share(values: Iterable[bool]) -> Any:
        return interval([float(value) for value in values])

    doubted = {each.sample.id for each in found.wrong}
    rows = [
        {
            "findings": name,
            "images": f"{len(each):,}",
            "caption false": share(one.sample.id in false for one in each),
            "shows what is seen": share(shown[one.sample.id].shows(one.sees) for one in each),
        }
        for name, each in (("says, not seen", found.wrong), ("seen, not said", found.unsaid))
    ]
    note = f"of {len(false)} false captions {len(doubted & false)} are doubted"
    write_results(OUT / "audit", "What an audit finds", about(given), rows, [note])
    print(markdown(rows), note, sep="\n")


if __name__ == "__main__":
    main()
