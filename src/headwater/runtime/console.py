"""What a process says to a person: answers on stdout, remarks on stderr, text a terminal can take.

The library speaks through `logging`, under the name `headwater`, and configures nothing. A command
line listens: `remarks_on_stderr` attaches the one handler, and takes it away again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headwater.errors import HeadwaterWarning

log = logging.getLogger("headwater")

# What a terminal acts on instead of showing it: control characters (escape sequences begin with
# one), what reorders the text around it, what breaks a line, and halves of surrogate pairs.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# Other libraries raise their errors as well as log them, so nothing is lost by silence. They read
# these when they are imported, which this must not do for them: it takes seconds.
_QUIET = {
    "DIFFUSERS_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "critical",
    "DATASETS_VERBOSITY": "critical",
    "HF_HUB_VERBOSITY": "critical",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' too, and diffusers' by `obey_bar_setting`
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
_THIRD_PARTIES = ("diffusers", "transformers", "datasets", "huggingface_hub", "peft")


# --- text ----------------------------------------------------------------------------------------


def printable(text: str) -> str:
    r"""`text` on one line, with all that a terminal would obey written out as `\x1b`.

    >>> printable("a star")
    'a star'
    >>> print(printable("a" + chr(27) + "[31m star"))
    a\x1b[31m star
    """
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


def accept_any_text() -> None:
    """Let stdout and stderr write out what their encoding cannot hold, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # else it is not a real stream
            reconfigure(errors="backslashreplace")


def json_line(value: Any) -> str:
    """JSON on one line that stdout can hold and a terminal only shows: readable where that may be.

    In JSON only what is escaped as JSON has it stays valid, so backslashes of ours will not do.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text if printable(text) == text else json.dumps(value)


# --- remarks -------------------------------------------------------------------------------------


def say(line: str) -> None:
    """A remark beside the answer, for whoever listens to the library."""
    log.info("%s", line)


def complain(line: str) -> None:
    """The one line that says why a command ends; `--quiet` leaves it."""
    log.error("%s", line)


class _Stderr(logging.Handler):
    """Records as plain lines on whatever stderr is now."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:  # as all handlers of `logging` do
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        line = printable(record.getMessage())
        if record.levelno <= logging.DEBUG:
            line = f"{record.name}: {line}"
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            line = "\n".join([line, *map(printable, trace.splitlines())])
        return line


@contextmanager
def remarks_on_stderr() -> Iterator[None]:
    """Show what the library says while this lasts: remarks and worse, until `set_verbosity`."""
    handler, before = _Stderr(), (log.level, log.propagate)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # a root handler, which other libraries may set, would say it again
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """What is shown besides remarks: details too, or only warnings and errors, and no bars."""
    if verbose:
        log.setLevel(logging.DEBUG)
    if quiet:
        log.setLevel(logging.WARNING)
        os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported; workers inherit it


def hush() -> None:
    """Let this process remark nothing but why it ends: another one speaks for it."""
    log.setLevel(logging.ERROR)
    os.environ["TQDM_DISABLE"] = "1"


def warn_plainly() -> None:
    """Let this process say its own warnings in one line, and none of third parties."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", HeadwaterWarning)
    warnings.showwarning = lambda message, *_, **__: log.warning(
        "warning: %s", printable(str(message))
    )


# --- other libraries ------------------------------------------------------------------------------


def quiet_libraries() -> None:
    """Keep the bars and remarks of the libraries under this one off the user's terminal.

    A variable that the user has set stays; what is imported already is silenced by name.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in _THIRD_PARTIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def obey_bar_setting() -> None:
    """Turn diffusers' loading bar off where `HF_HUB_DISABLE_PROGRESS_BARS` turns all others off.

    diffusers is the one that reads no variable for its bar. For those who import it anyway.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled

    if are_progress_bars_disabled():
        diffusers_logging.disable_progress_bar()
