"""What a process says to a person: remarks on stderr, and no noise of other libraries."""

from __future__ import annotations

import sys
import warnings

from headwater.errors import HeadwaterWarning


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


def warn_plainly() -> None:
    """Let this process say its own warnings in one line, and none of third parties."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", HeadwaterWarning)
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
