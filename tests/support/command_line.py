"""The command line as a test runs it, and what a refusal looks like."""

import contextlib
import io
import os
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

from headwater.cli import main
from support.processes import Result, in_a_process

# A method named: without one an index takes two passes more, for its curvature.
FAST = ["--method", "concept-trak-unguided", "--timesteps", "2", "--dim", "64"]


PROMPT = "a red star in hatched style"


def headwater(*args: object) -> Result:
    """Run the command line in this process, where the imports are done already."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["headwater", *map(str, args)]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        try:
            main.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    return Result(code, out.getvalue(), err.getvalue())


def shell(*args: object) -> Result:
    """Run it in a process of its own."""
    return in_a_process(main.main, *args)


def files(*folders: Path) -> dict[Path, bytes]:
    """Every file, but for what an index keeps of queries."""
    paths = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    kept = {"queries", "kernels"}
    return {path: path.read_bytes() for path in paths if path.parent.name not in kept}


# What a run that had begun has said.
REMARKS = re.compile(r"\A(?:batches of 32\n|--parameters .* is taken, .*\n)*")


def assert_refused(result: Result, said: str) -> None:
    """One line on stderr that names the thing; nothing on stdout; exit code 2."""
    result = replace(result, err=REMARKS.sub("", result.err))
    assert result.err.startswith("headwater: ") and result.err.count("\n") == 1, result.err
    assert said in result.err
    assert (result.code, result.out) == (2, "")
