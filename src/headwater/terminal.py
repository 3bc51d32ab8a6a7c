"""What the command line shows: remarks on stderr, answers as tables of 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.attribution import Attribution


def table(attribution: Attribution, entries: Sequence[Mapping[str, Any]]) -> str:
    """The proponents in 80 columns: entries as the JSON answer has them.

    A score stands with its standard error, a caption with how many near-copies the image has.
    """
    from headwater.figures import name
    from headwater.sheets import format_error, format_score, said_copies

    query = attribution.query
    width = min(24, max(len(entry["id"]) for entry in entries))
    spread = 0 if attribution.certainty is None else 11
    room = 80 - 4 - 2 - 9 - spread - 2 - width - 2
    lines = [
        "",
        _asked(*name(query), query.prompt),
        f"{attribution.method}, asked {attribution.asked}",
        *_sure(attribution),
        "",
        f"{'rank':>4}  {'score':>9}{'':<{spread}}  {'id':<{width}}  caption",
    ]
    for entry in entries:
        error = "" if entry["error"] is None else f" ± {format_error(entry['error'])}"
        copies = said_copies(len(entry["near_copies"]))
        caption = _short(entry["caption"], room - len(copies) - bool(copies))
        lines.append(
            f"{entry['rank']:>4}  {format_score(entry['score']):>9}{error:<{spread}}  "
            f"{_short(entry['id'], width):<{width}}  {f'{caption} {copies}' if copies else caption}"
        )
    return "\n".join(lines)


def _asked(words: str, quoted: bool, prompt: str) -> str:
    """What was asked for: 'star' in 'a red star', the picture of 'a red star'."""
    if not prompt:
        return words
    return f"{words!r} in {prompt!r}" if quoted else f"{words} of {prompt!r}"


def journey_table(answer: Mapping[str, Any]) -> str:
    """A journey in 80 columns: for each step its strongest proponent."""
    from headwater.sheets import format_score

    steps = answer["steps"]
    firsts = [step["top"][0] for step in steps]
    width = min(24, max(len(first["id"]) for first in firsts))
    lines = [
        "",
        f"the journey of {answer['prompt']!r}" if answer["prompt"] else "the journey",
        f"{answer['method']}, the strongest proponent of each step",
        "",
        f"{'step':>4}  {'stays':>5}  {'as before':>9}  {'score':>9}  {'id':<{width}}  caption",
    ]
    for i, (step, first) in enumerate(zip(steps, firsts, strict=True)):
        sure = step["certainty"]
        stays = "-" if sure is None else f"{sure['stability']:.0%}"
        before = f"{answer['correlation'][i][i - 1]:.2f}" if i else "-"
        caption = _short(first["caption"], 80 - 4 - 7 - 11 - 11 - 2 - width - 2)
        lines.append(
            f"{step['step']:>4}  {stays:>5}  {before:>9}  {format_score(first['score']):>9}  "
            f"{_short(first['id'], width):<{width}}  {caption}"
        )
    lines.append("\nstays: of the top 10, in resamples; as before: correlation with the step above")
    return "\n".join(lines)


def _sure(attribution: Attribution) -> list[str]:
    """How much the draws matter, in a line."""
    sure = attribution.certainty
    if sure is None:
        return []
    return [
        f"{sure.draws} draws; an image of the top {sure.k} stays there in {sure.stability:.0%} of "
        "resamples"
    ]


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())  # a caption may have line breaks
    return text if len(text) <= width else text[: width - 1] + "…"


def methods_table(rows: Sequence[dict[str, Any]]) -> str:
    """The table of methods in 80 columns; paper and questions stand on a line of their own."""
    lines = [f"{'method':<23}{'path/delta':<17}{'norm':<11}{'rule':<17}{'image*':>6}{'draw*':>6}"]
    for row in rows:
        image, draw = (row[cost] or "-" for cost in ("units per image", "units per draw"))
        lines += [
            f"{row['name']:<23}{row['train']:<17}{row['normalise']:<11}{row['rule']:<17}"
            f"{image:>6}{draw:>6}",
            *wrap(f"{row['paper']}; takes {', '.join(row['takes'])}", 78, **_INDENTED),
        ]
    lines.append(
        "\n* forward passes of the network at ten timesteps, for each training image and\n"
        "for each draw of a query (32 by default; an inversion has one)"
    )
    return "\n".join(lines)


_INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  "}


def print_facts(facts: dict[str, Any]) -> None:
    """Names and values, aligned."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def say(line: str) -> None:
    """A remark beside the answer, on stderr."""
    print(line, file=sys.stderr)


def quiet_libraries() -> None:
    """Keep diffusers' and transformers' own loading bars and remarks off the user's terminal."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity(logging.CRITICAL)  # errors are raised as well as logged
        logging.disable_progress_bar()
