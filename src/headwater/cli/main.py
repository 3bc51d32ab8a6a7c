"""The command line. Heavy imports happen inside commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.cli.evaluate import app as evaluate
from headwater.cli.index import index
from headwater.cli.info import info
from headwater.cli.options import Command, Json
from headwater.cli.output import Output, answer
from headwater.cli.query import concept, image, preference
from headwater.errors import HeadwaterError
from headwater.runtime.console import quiet_libraries, say, warn_plainly

DEMO_PROMPT = "a red star in hatched style on a striped background"
DEMO_CONCEPTS = ("star", "hatched")
DEMO_GUIDANCE = 3.0
DEMO_TOP = 10

# What all complaints about a command line are, in whichever version of typer.
_UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """Run the command line: errors that the user can mend are one line, exit code 2."""
    warn_plainly()
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except _UsageError as error:
        said = error.format_message().partition("\n")[0].rstrip(".?")
        say(f"headwater: {said[:1].lower()}{said[1:]}; see {_command(sys.argv[1:])} --help")
        code = 2
    except HeadwaterError as error:
        say(f"headwater: {error}")
        code = 2
    except KeyboardInterrupt:  # before a command has begun; within one, typer makes it 130
        code = 130
    if code == 130:
        say("headwater: interrupted; finished work is kept, the same command goes on from there")
    sys.exit(code)


def _command(arguments: list[str]) -> str:
    """The command, or the group of commands, that these arguments begin with."""
    command, name = typer.main.get_command(app), "headwater"
    for argument in arguments:
        command = getattr(command, "commands", {}).get(argument)
        if command is None:
            break
        name += f" {argument}"
    return name


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the index and the answers.")] = Path(
        "headwater-demo"
    ),
) -> None:
    """Index the bundled scenes; ask for an object and for a style."""
    quiet_libraries()
    from headwater.attribution.session import Session
    from headwater.data.sources import load_dataset
    from headwater.index.build import build_index
    from headwater.models.denoiser import Denoiser
    from headwater.queries.concept import Concept

    index = build_index(
        Denoiser.load("scenes"), load_dataset("scenes"), out / "scenes-index", note=say
    )
    queries = [Concept(DEMO_PROMPT, words) for words in DEMO_CONCEPTS]
    answer(Session(index), queries, Output(out / "answers", DEMO_TOP, False), DEMO_GUIDANCE, {})


def methods(as_json: Json = False) -> None:
    """The table of methods: what each takes, and what it costs."""
    from headwater.cli.tables import methods_table
    from headwater.methods import METHODS

    rows = [method.facts() for method in METHODS.values()]
    print(json.dumps(rows) if as_json else methods_table(rows))


app = typer.Typer(
    help="A diffusion model made this; which training images taught it that?",
    add_completion=False,
    rich_markup_mode=None,  # plain text, as everything else that is printed
    pretty_exceptions_enable=False,
)
for command in (demo, index, concept, image, preference, methods, info):
    app.command(cls=Command)(command)
app.add_typer(evaluate, name="evaluate")


if __name__ == "__main__":
    main()
