"""Templates become text: one Jinja environment, in which nothing from outside can do harm.

Every value is escaped where it is written, in pages and in the drawings inside them; nothing is
markup but what the templates of this package made. What escaping leaves alone, control characters
and marks that turn the direction of writing, `legible` takes out of the finished text: no way into
a template leads around it. A name that a template misspells is an error, not an empty place.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from headwater.data.images import data_uri
from headwater.report.sheets.contact_sheet import format_error, format_score

# The controls of C0 and C1 without tab and newline, and the marks of Unicode that embed, override
# or isolate a direction of writing: an unclosed one turns around all that follows.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

# With 16 hexadecimal digits or more a value is a checksum, "sha256:0123..." or without a name.
_CHECKSUM = re.compile(r"(\w+:)?[0-9a-fA-F]{16,}")


def render(template: str, **content: Any) -> str:
    """The text that a file of `templates/` makes of its content.

    Raises:
        jinja2.UndefinedError: the template asks for something that the content lacks.
    """
    return legible(_environment().get_template(template).render(content))


def legible(text: str) -> str:
    r"""The text without what a reader cannot see, for a file in UTF-8.

    A control character or a mark that turns the direction of writing becomes U+FFFD, a lone
    surrogate (from a file name that is no UTF-8) a question mark; lines end in newlines.

    >>> legible("caf\xe9\x1b[31m \udcff\r\n\u202egnp.exe")
    'café�[31m ?\n�gnp.exe'
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", lines.encode("utf-8", "replace").decode())


def with_minus(number: str) -> str:
    """The number with the minus sign of print in the place of a hyphen."""
    return number.replace("-", "\N{MINUS SIGN}")


def signed_score(value: float, error: float | None = None) -> str:
    """A score with its sign, and its standard error where there is one.

    >>> signed_score(0.07312, 0.00213)
    '+0.0731 ± 0.0021'
    """
    score = with_minus(format_score(value))
    return score if error is None else f"{score} ± {format_error(error)}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("headwater.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "data_uri": data_uri,
        "score": signed_score,
        "decimal": lambda value: with_minus(f"{value:.2f}"),
        "percent": lambda share: with_minus(f"{share:.0%}"),
        "thousands": lambda count: f"{count:,}",
        "px": lambda length: f"{length:.2f}",
    }
    environment.tests["checksum"] = lambda value: _CHECKSUM.fullmatch(value) is not None
    return environment
