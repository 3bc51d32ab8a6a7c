"""What the command line shows: remarks on stderr, answers as tables of 80 columns."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.attribution import Attribution


def table(attribution: Attribution, top: int) -> str:
    """The proponents in 80 columns."""
    from headwater.sheets import format_score

    query = attribution.query
    ranked = attribution.top(top)
    width = min(24, max(len(entry.id) for entry in ranked))
    lines = [
        "",
        f"{query.concept!r} in {query.prompt!r}",
        f"asked {attribution.contexts.description}",
        "",
        f"{'rank':>4}  {'score':>9}  {'id':<{width}}  caption",
    ]
    for entry in ranked:
        room = 80 - 4 - 2 - 9 - 2 - width - 2
        id = _short(entry.id, width)
        caption = _short(entry.caption, room)
        lines.append(f"{entry.rank:>4}  {format_score(entry.score):>9}  {id:<{width}}  {caption}")
    return "\n".join(lines)


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())  # a caption may have line breaks
    return text if len(text) <= width else text[: width - 1] + "…"


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
