"""Run every case of a folder, print what became of each, and exit with 1 if any is wrong.

    python tests/support/run_cases.py FOLDER [--expected FILE] [--only PREFIX ...] [--logs FOLDER]

A case is a folder in FOLDER with a `run.sh`, which tries one thing that happened to somebody and
prints what came of it. It is right if the script shows no traceback, and ends and prints as FILE
asks of it. FILE (`expected_cases.json` beside this one, unless another is given) is JSON:

- "cases": case -> {"contains": [...], "lacks": [...], "exit_code": 0}, regular expressions that its
  output must and must not match, and how it must end. A case without a row must end with 0.
- "renamed": old -> new, for Python names that have moved since the scripts were written. A copy of
  FOLDER with these replaced is what is run; FOLDER itself is never written.

All work is done below the folder of the environment variable CASES_TMP; unless it is set, in a
temporary folder that is removed at the end. Scripts call the `headwater` and `python` on PATH;
where it has no `headwater`, those beside the running interpreter.
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
    """Regular expressions of one case's output, and its exit code."""

    contains: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    exit_code: int = 0

    def faults(self, code: int, output: str) -> list[str]:
        """How it ended, what the output lacks, and what it should not have."""
        ended = [] if code == self.exit_code else [f"exit code {code}"]
        if re.search(r"^Traceback \(most recent call last\)", output, re.M):
            ended.append("a traceback")
        missing = [f"lacks {p!r}" for p in self.contains if not re.search(p, output, re.M)]
        return ended + missing + [f"has {p!r}" for p in self.lacks if re.search(p, output, re.M)]


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


@dataclass(frozen=True)
class Expectations:
    """What a folder of cases must print, and what has moved since its scripts were written."""

    cases: dict[str, Expectation]
    renamed: dict[str, str]

    @classmethod
    def read(cls, file: Path) -> "Expectations":
        """Read them from JSON."""
        content = json.loads(file.read_text(encoding="utf-8"))
        cases = {
            case: Expectation(
                tuple(row.get("contains", ())), tuple(row.get("lacks", ())), row.get("exit_code", 0)
            )
            for case, row in content.get("cases", {}).items()
        }
        return cls(cases, content.get("renamed", {}))

    def of(self, case: str) -> Expectation:
        """What this case must print."""
        return self.cases.get(case, Expectation())


def copy_cases(folder: Path, copy: Path, renamed: dict[str, str]) -> None:
    """Copy the scripts, with today's names in them."""
    for source in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = copy / source.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix not in (".sh", ".py"):
            shutil.copyfile(source, target)
            continue
        text = source.read_text(encoding="utf-8")
        for old, new in renamed.items():
            text = text.replace(old, new)
        target.write_text(text, encoding="utf-8")


def find_cases(folder: Path, prefixes: tuple[str, ...] = ()) -> list[Path]:
    """Folders with a `run.sh`, by name; with prefixes, those that begin with one of them."""
    cases = sorted(script.parent for script in folder.glob("*/run.sh"))
    return [case for case in cases if not prefixes or case.name.startswith(prefixes)]


def run_case(case: Path, expectation: Expectation, environment: dict[str, str]) -> Outcome:
    """Run its script and judge what it prints."""
    code, output = run_script(case / "run.sh", environment)
    return Outcome(case.name, output, expectation.faults(code, output))


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


def case_environment(scratch: Path) -> dict[str, str]:
    """Environment variables of the scripts: where they work, and whose `headwater` they call."""
    environment = os.environ | {"CASES_TMP": str(scratch)}
    if shutil.which("headwater") is None:
        beside = str(Path(sys.executable).parent)
        environment["PATH"] = os.pathsep.join([beside, environment.get("PATH", "")])
    return environment


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """The folder that CASES_TMP names, or a temporary one."""
    named = os.environ.get("CASES_TMP")
    if named:
        Path(named).mkdir(parents=True, exist_ok=True)
        yield Path(named).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="cases-") as scratch:
        yield Path(scratch).resolve()


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


def run_cases(cases: list[Path], options: argparse.Namespace) -> int:
    """Run them one after another and print a row of each; how many are wrong."""
    expectations = Expectations.read(options.expected)
    wrong = 0
    with scratch_folder() as scratch, tempfile.TemporaryDirectory() as scripts:
        copy_cases(options.folder, Path(scripts), expectations.renamed)
        environment = case_environment(scratch)
        for name in (case.name for case in cases):
            outcome = run_case(Path(scripts, name), expectations.of(name), environment)
            print(table_row(outcome), flush=True)
            wrong += bool(outcome.faults)
            if options.logs:
                options.logs.mkdir(parents=True, exist_ok=True)
                (options.logs / f"{name}.txt").write_text(outcome.output, encoding="utf-8")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Run the cases of a folder; 1 if any is wrong, 2 if there is none."""
    options = parse(arguments)
    cases = find_cases(options.folder, tuple(options.only))
    if not cases:
        print(f"{options.folder} has no cases: give a folder of */run.sh", file=sys.stderr)
        return 2
    print("case | result | last line")
    wrong = run_cases(cases, options)
    print(f"{len(cases) - wrong} of {len(cases)} right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
