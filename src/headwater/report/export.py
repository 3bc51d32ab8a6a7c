"""Answers on disk: the query's picture, contact sheets, every score, and one report to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import PIL.Image
import torch

from headwater.attribution.answer.bootstrap import Certainty
from headwater.attribution.answer.groups import Group
from headwater.attribution.answer.result import Attribution, Ranked
from headwater.attribution.pictures import making_of, write_picture
from headwater.attribution.resources import Resources
from headwater.data.near_duplicates import distinct
from headwater.methods.choice import measure
from headwater.methods.evidence import evidence
from headwater.report.charts import spans
from headwater.report.figures import draw_figures
from headwater.report.html import GROUPS_SHOWN, Answer, Asked, Bar, html_report
from headwater.report.journeys.journey import Journey, write_steps
from headwater.report.scores import score_columns, write_scores
from headwater.report.sheets.contact_sheet import Entry, contact_sheet
from headwater.report.wording import WORDING, said_candidates, said_left_out
from headwater.storage.files import (
    changing,
    distinct_names,
    remove_abandoned,
    slug,
    write_image,
    write_text,
)

# Parts of an attribution's provenance that differ between the questions of one prompt.
PER_QUESTION = ("query", "reused_query_gradient", "seconds")

# Opens the picture of a row, None where it is not there any more.
Opener: TypeAlias = Callable[[int], PIL.Image.Image | None]
# Near-copies are looked for among so many times as many images as an answer shows.
DEEP = 10


@dataclass(frozen=True)
class Shown:
    """One entry of an answer: an image, its picture if it can be opened, and its near-copies."""

    ranked: Ranked
    image: PIL.Image.Image | None
    near_copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ends:
    """The strongest proponents and opponents, near-copies grouped."""

    top: Sequence[Shown]
    bottom: Sequence[Shown]


def ends(attribution: Attribution, count: int, picture: Opener | None = None) -> Ends:
    """Both ends of the ranking, each of `count` entries that a person can tell apart.

    Args:
        picture: opens the picture of a row; by default the index does.
    """
    opened, rows = picture or attribution.index.image, DEEP * count
    if attribution.left_out is not None:  # beyond those that compete stand those left out
        rows = min(rows, len(attribution.competing))
    return Ends(
        _grouped(opened, attribution.top(rows), count),
        _grouped(opened, attribution.bottom(rows), count),
    )


def _grouped(picture: Opener, ranking: Sequence[Ranked], count: int) -> list[Shown]:
    opened: list[PIL.Image.Image | None] = []

    def pictures() -> Iterator[PIL.Image.Image | None]:
        for entry in ranking:
            opened.append(picture(entry.row))
            yield opened[-1]

    return [
        Shown(ranking[first], opened[first], tuple(ranking[i].id for i in copies))
        for first, *copies in distinct(pictures(), count, len(ranking))
    ]


def write_answers(
    resources: Resources,
    attributions: Sequence[Attribution],
    out: str | Path,
    *,
    guidance: float = 5.0,
    top: int = 10,
    journey: Journey | None = None,
) -> dict[str, Any]:
    """Write the folder `out` and return the answer as one JSON-ready object.

    Holds `query.png`, `query.safetensors` (noise, latents), `report.html`, and for each question a
    folder with `top.png`, `bottom.png`, `scores.parquet` and `result.json`; for a journey one with
    `journey.png`, `scores.parquet` and `journey.json`.

    Args:
        resources: the session that answered.
        attributions: answers to questions of one prompt or picture.
        guidance: of the picture that stands for questions without one.
        top: how many proponents and opponents are shown.
        journey: of `journey_of`, to stand in the same report.

    Raises:
        StoreError: `out` cannot be written.

    Example:
        prompt = "a red star in hatched style"
        questions = [Contribution(prompt, "star"), Contribution(prompt, "hatched")]
        write_answers(session, session.attribute(questions), "answer")
    """
    out, first = Path(out), attributions[0]
    picture = resources.picture_of(first.query, guidance)
    write_picture(out, picture)
    origin = shared_provenance(first, making_of(picture, first.query))
    answers, results = [], []
    named = folders(attributions, journey)
    for attribution, folder in zip(attributions, named, strict=False):  # a journey's is the last
        both = ends(attribution, top)
        answers.append(answer_of(attribution, both))
        with changing(out / folder):
            files = _write_concept(out / folder, attribution, answers[-1])
        results.append({**to_json(attribution, both), "files": files})
        said = json.dumps(results[-1] | {"provenance": origin}, indent=1, ensure_ascii=False)
        write_text(out / folder / "result.json", said)
    steps = {}
    if journey is not None:
        with changing(out / named[-1]):
            steps = {"journey": write_steps(out / named[-1], journey, out)}
    asked = {
        attribution.query.title: attribution.provenance["query"] for attribution in attributions
    }
    report = html_report(
        asked=Asked(
            first.query.prompt,
            draw_figures(resources, first.query, first.method, guidance),
            str(getattr(first.query, "file", None) or ""),
        ),
        method=first.method,
        answers=answers,
        provenance={**origin, "query": asked},
        journey=journey,
    )
    write_text(out / "report.html", report)
    remove_abandoned(out, *(out / folder for folder in named))
    return {
        "index": str(first.index.path),
        "prompt": first.query.prompt,
        "method": first.method,
        "results": results,
        **steps,
        "provenance": origin,
        "out": str(out),
    }


def shared_provenance(first: Attribution, making: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance that all answers of a folder share; `making` is of their picture."""
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "headwater": metadata.version("headwater"),
        "torch": torch.__version__,
        **{k: v for k, v in first.provenance.items() if k not in PER_QUESTION},
        "picture": dict(making),
    }


def to_json(attribution: Attribution, shown: Ends) -> dict[str, Any]:
    """One question's part of the JSON answer."""
    query, sure = attribution.query, attribution.certainty
    samples = attribution.index.samples
    sweep = {
        str(ratio): [samples[row].id for row in attribution.order(scores, len(shown.top))]
        for ratio, scores in attribution.sweep.items()
    }
    grouped = bool(attribution.groups)
    return {
        "question": query.kind,
        **query.facts(),
        "method": attribution.method,
        "context": attribution.asked,
        "top": [_entry(entry) for entry in shown.top],
        "bottom": [_entry(entry) for entry in shown.bottom],
        "certainty": None if sure is None else _sure(sure),
        "measured of the method": evidence(attribution.method),
        **({"top by damping": sweep} if sweep else {}),
        **({"groups": [_group(attribution, g) for g in attribution.groups]} if grouped else {}),
        **_left_out(attribution),
        **{name: attribution.provenance[name] for name in PER_QUESTION},
    }


def _entry(shown: Shown) -> dict[str, Any]:
    entry = {k: v for k, v in asdict(shown.ranked).items() if k != "row"}
    return {**entry, "near_copies": list(shown.near_copies)}


def _group(attribution: Attribution, group: Group) -> dict[str, Any]:
    strongest = [attribution.index.samples[row].id for row in group.strongest]
    return {**asdict(group), "per image": group.per_image, "strongest": strongest}


def _left_out(attribution: Attribution) -> dict[str, Any]:
    """Which images whoever asked left out, and what they score together, if there are any."""
    group = attribution.left_out
    if group is None:
        return {}
    return {
        "left out": {
            "ids": attribution.provenance["left out"],
            **{name: getattr(group, name) for name in ("score", "error", "share")},
            "says": said_left_out(measure(attribution.method)),
        }
    }


def _sure(sure: Certainty) -> dict[str, Any]:
    return {
        "draws": sure.draws,
        "top": sure.k,
        "stability": round(sure.stability, 4),
        "correlation of halves": round(sure.halves, 4),
    }


def answer_of(attribution: Attribution, shown: Ends) -> Answer:
    """An attribution as pages show it, with both ends of its ranking."""
    query, sure = attribution.query, attribution.certainty
    words, quoted = query.name()
    facts = query.facts() if attribution.provenance["query"].get("context") == "prompt" else {}
    plus, minus = facts.get("plus", ""), facts.get("minus", "")
    return Answer(
        concept=words,
        plus=plus,
        minus=minus,
        context="" if plus or minus else f"Asked {attribution.asked}.",
        top=entries(shown.top, sure),
        bottom=entries(shown.bottom, sure),
        scores=attribution.scores.tolist(),
        certainty=sure,
        quoted=quoted,
        measure=measure(attribution.method),
        competing=None if attribution.among is None else attribution.competing.tolist(),
        remarks=remarks(attribution),
        groups=_bars(attribution),
        left_out=attribution.left_out,
        left_out_ids=attribution.provenance.get("left out", ()),
        grouped_by=attribution.provenance.get("grouped by", ""),
    )


def _bars(attribution: Attribution) -> list[Bar]:
    """The groups as a report shows them, with pictures of their strongest images."""
    index, groups = attribution.index, attribution.groups[:GROUPS_SHOWN]
    places = spans([group.score for group in groups], [group.error for group in groups])
    return [
        Bar(group, span, [index.image(row) for row in group.strongest])
        for group, span in zip(groups, places, strict=True)
    ]


def remarks(attribution: Attribution) -> list[str]:
    """What else a reader must know, sentence by sentence."""
    said = []
    if attribution.among is not None:
        facts = attribution.provenance
        chosen = [f"where {words}" for words in facts.get("where", ())]
        chosen += [f"of {facts['among']}"] if "among" in facts else []
        if chosen or facts["candidates"] is not None:
            counts = len(attribution.among), len(attribution.index)
            said.append(said_candidates(*counts, facts["candidates"], chosen))
    if attribution.unsure:
        said.append(f"The scores have no standard errors: {attribution.unsure}.")
    return [*said, *(f"{remark}." for remark in attribution.remarks)]


def entries(shown: Sequence[Shown], sure: Certainty | None) -> list[Entry]:
    """The same for a report and for sheets."""
    k = 0 if sure is None else sure.k
    return [
        Entry(r.rank, r.id, r.score, r.caption, r.uri, s.image, r.error, r.stays, k, s.near_copies)
        for s in shown
        for r in (s.ranked,)
    ]


def _write_concept(folder: Path, attribution: Attribution, answer: Answer) -> dict[str, str]:
    """Write contact sheets and all scores; checksums of files that an answer is verified by."""
    folder.mkdir(parents=True, exist_ok=True)
    said = f"{attribution.method}, asked {attribution.asked}"
    words = WORDING[answer.measure]
    for file, side, called in (
        ("top", answer.top, words.top),
        ("bottom", answer.bottom, words.bottom),
    ):
        sheet = contact_sheet(side, title=f"{called}: {answer.name}", subtitle=said)
        write_image(folder / f"{file}.png", sheet)
    return write_scores(folder, attribution.index, score_columns(attribution))


def folders(attributions: Sequence[Attribution], journey: Journey | None = None) -> list[str]:
    """A folder name for each question, and for a journey; numbered where two would be the same."""
    titles = [slug(attribution.query.title) for attribution in attributions]
    return distinct_names(titles if journey is None else [*titles, "journey"])
