"""Run every case of a folder, print what became of each, and exit with 1 if any is wrong.

    python tests/support/run_cases.py FOLDER [--expected FILE] [--only PREFIX ...] [--logs FOLDER]

A case is a folder in FOLDER with a `run.sh`, which tries one thing that happened to somebody and
prints what came of it. It is right if the script ends with 0, shows no traceback, and prints what
FILE asks of it. FILE is JSON, case -> {"contains": [...], "lacks": [...]}: regular expressions
that the output must and must not match. Left out, it is `expected_cases.json` beside this file. A
case that FILE does not name is judged by its exit code and tracebacks alone.

Scripts work in the folder of the environment variable CASES_TMP; unless it is set, in a temporary
folder that is removed at the end. They call the `headwater` and `python` on PATH; where it has no
`headwater`, those beside the running interpreter.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

EXPECTED = Path(__file__).with_name("expected_cases.json")
SECONDS = 1800  # after which a case hangs
WIDTH = 110  # characters of a last line that the table shows
TIMED_OUT = 124


@dataclass(frozen=True)
class Expectation:
    """Regular expressions of one case's output."""

    contains: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    def faults(self, output: str) -> list[str]:
        """What the output lacks, and what it should not have."""
        missing = [f"lacks {p!r}" for p in self.contains if not re.search(p, output, re.M)]
        return missing + [f"has {p!r}" for p in self.lacks if re.search(p, output, re.M)]


@dataclass(frozen=True)
class Outcome:
    """One case that was run."""

    case: str
    output: str
    faults: list[str] = field(default_factory=list)

    @property
    def last_line(self) -> str:
        """Its last line that is not empty, without control characters."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return re.sub(r"[\x00-\x1f\x7f]", "", lines[-1] if lines else "")[:WIDTH]


def read_expectations(file: Path) -> dict[str, Expectation]:
    """Case -> what its output must and must not match."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    return {
        case: Expectation(tuple(row.get("contains", ())), tuple(row.get("lacks", ())))
        for case, row in rows.items()
    }


def find_cases(folder: Path, prefixes: tuple[str, ...] = ()) -> list[Path]:
    """Folders with a `run.sh`, by name; with prefixes, those that begin with one of them."""
    cases = sorted(script.parent for script in folder.glob("*/run.sh"))
    return [case for case in cases if not prefixes or case.name.startswith(prefixes)]


def run_case(case: Path, expectation: Expectation, environment: dict[str, str]) -> Outcome:
    """Run its script and judge what it prints."""
    code, output = run_script(case / "run.sh", environment)
    faults = [f"exit code {code}"] if code else []
    if re.search(r"^Traceback \(most recent call last\)", output, re.M):
        faults.append("a traceback")
    return Outcome(case.name, output, faults + expectation.faults(output))


def run_script(script: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and output; a script that hangs is ended with all that it started."""
    process = subprocess.Popen(
        ["bash", str(script.resolve())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        code = TIMED_OUT
    return code, output.decode("utf-8", "replace").replace("\r", "\n")


@contextmanager
def case_environment() -> Iterator[dict[str, str]]:
    """Environment variables of the scripts: where they work, and whose `headwater` they call."""
    environment = dict(os.environ)
    if shutil.which("headwater") is None:
        beside = str(Path(sys.executable).parent)
        environment["PATH"] = os.pathsep.join([beside, environment.get("PATH", "")])
    if environment.get("CASES_TMP"):
        yield environment
        return
    with tempfile.TemporaryDirectory(prefix="cases-") as scratch:
        yield environment | {"CASES_TMP": scratch}


def table_row(outcome: Outcome) -> str:
    """The case as a row: case | result | last line."""
    result = "wrong: " + "; ".join(outcome.faults) if outcome.faults else "right"
    return f"{outcome.case} | {result} | {outcome.last_line}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run every case of a folder.")
    parser.add_argument("folder", type=Path, help="folder of cases, each with a run.sh")
    parser.add_argument("--expected", type=Path, default=EXPECTED, help="what each must print")
    parser.add_argument("--only", nargs="+", default=[], metavar="PREFIX", help="cases to run")
    parser.add_argument("--logs", type=Path, help="folder for the whole output of each")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases; 1 if any is wrong, 2 if there is none."""
    options = parse(arguments)
    cases = find_cases(options.folder, tuple(options.only))
    if not cases:
        print(f"{options.folder} has no cases: give a folder of */run.sh", file=sys.stderr)
        return 2
    expectations = read_expectations(options.expected)
    wrong = 0
    print("case | result | last line")
    with case_environment() as environment:
        for case in cases:
            outcome = run_case(case, expectations.get(case.name, Expectation()), environment)
            print(table_row(outcome), flush=True)
            wrong += bool(outcome.faults)
            if options.logs:
                options.logs.mkdir(parents=True, exist_ok=True)
                (options.logs / f"{case.name}.txt").write_text(outcome.output, encoding="utf-8")
    print(f"{len(cases) - wrong} of {len(cases)} right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
