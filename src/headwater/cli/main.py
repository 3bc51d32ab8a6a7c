"""The command line. Heavy imports happen inside commands, so that `--help` answers at once."""

from __future__ import annotations

import errno
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.cli.evaluation.commands import app as evaluate
from headwater.cli.imports import import_rows
from headwater.cli.index import index
from headwater.cli.info import export, info, push, remove, repair, verify
from headwater.cli.look import gallery, inspect, show_page, view
from headwater.cli.options import Json
from headwater.cli.output import Output, answer
from headwater.cli.query import concept, image, preference
from headwater.cli.quick import audit, why
from headwater.errors import INTERRUPTED, HeadwaterError, ParameterError, first_line
from headwater.runtime.console import (
    accept_any_text,
    complain,
    json_line,
    quiet_libraries,
    remarks_on_stderr,
    say,
    set_verbosity,
    warn_plainly,
)
from headwater.runtime.interrupt import ctrl_c_after_imports

DEMO_PROMPT = "a red star in hatched style on a striped background"
DEMO_CONCEPTS = ("star", "hatched")
DEMO_GUIDANCE = 3.0
EXIT_INTERRUPTED = 130

log = logging.getLogger(__name__)

# What all complaints about a command line are, in whichever version of typer.
_UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """Run the command line: errors that the user can mend are one line, exit code 2."""
    accept_any_text()
    quiet_libraries()
    warn_plainly()
    with remarks_on_stderr(), ctrl_c_after_imports():
        code = _run(sys.argv[1:] or ["--help"])
        if code == EXIT_INTERRUPTED:
            complain(f"headwater: {INTERRUPTED}")
    sys.exit(code)


def _run(arguments: list[str]) -> int | None:
    """The exit code of a command line, None where all went well."""
    try:
        return commands()(arguments, standalone_mode=False)
    except _UsageError as error:
        reason = error.format_message().partition("\n")[0].rstrip(".?")
        reason = f"{reason[:1].lower()}{reason[1:]}"
        complain(f"headwater: {reason}; see {_command(arguments)} --help")
    except HeadwaterError as error:
        log.debug("where it was raised", exc_info=True)
        complain(f"headwater: {error}")
    except KeyboardInterrupt:  # before a command has begun; within one, typer makes it 130
        return EXIT_INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        _complain_of_memory(error)
    except OSError as error:
        _complain_of_disk(error)
    return 2


def _complain_of_memory(error: Exception) -> None:
    """Say that memory ran out where no batch could be halved; raise any other error again."""
    from headwater.runtime.batch_size import out_of_memory

    if not out_of_memory(error):
        raise error
    complain(
        f"headwater: out of memory ({first_line(error)}): use a machine with more, or fewer --dim "
        "or --parameters; finished work is kept"
    )


def _complain_of_disk(error: OSError) -> None:
    """Say that a disk is full or read-only where a library wrote; raise any other error again."""
    from headwater.storage.files import is_full

    if not is_full(error) and error.errno != errno.EROFS:
        raise error
    complain(
        f"headwater: {first_line(error)}: free some space, or name a folder that can be written "
        "to; finished work is kept"
    )


def _command(arguments: list[str]) -> str:
    """The command, or the group of commands, that these arguments begin with."""
    command, name = commands(), "headwater"
    for argument in arguments:
        if argument.startswith("-"):  # --quiet, which stands before the command
            continue
        command = getattr(command, "commands", {}).get(argument)
        if command is None:
            break
        name += f" {argument}"
    return name


def verbosity(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say in detail what is done.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No remarks and no bars: warnings, errors.")
    ] = False,
) -> None:
    """How much is said on stderr; stands before the command."""
    if verbose and quiet:
        raise ParameterError("--verbose and --quiet contradict each other: give one of them")
    set_verbosity(verbose=verbose, quiet=quiet)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the index and the answers.")] = Path(
        "headwater-demo"
    ),
    view: Annotated[bool, typer.Option("--view", help="Then open the page on them.")] = False,
) -> None:
    """Index the bundled scenes; ask for an object and for a style."""
    from headwater.attribution.session import Session
    from headwater.data.sources import load_dataset
    from headwater.index.build import build_index
    from headwater.models.denoiser import Denoiser
    from headwater.queries.outputs.output import Contribution

    index = build_index(
        Denoiser.load("scenes"), load_dataset("scenes"), out / "scenes-index", note=say
    )
    queries = [Contribution(DEMO_PROMPT, words) for words in DEMO_CONCEPTS]
    output = Output(out / "answers", top=10, as_json=False)
    answer(Session(index), queries, output, DEMO_GUIDANCE, {})
    if view:
        show_page([out / "scenes-index"])


def methods(as_json: Json = False) -> None:
    """The table of methods: what each takes, and what it costs."""
    from headwater.cli.tables import methods_table
    from headwater.methods.table import METHODS

    rows = [method.facts() for method in METHODS.values()]
    print(json_line(rows) if as_json else methods_table(rows))


app = typer.Typer(
    help="A diffusion model made this; which training images taught it that?",
    add_completion=False,
    rich_markup_mode=None,  # plain text, as everything else that is printed
    pretty_exceptions_enable=False,
)
app.callback()(verbosity)
COMMANDS = (
    demo, view, why, inspect, index, concept, image, preference, audit, methods, info, verify,
    repair, remove, push, export, gallery,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.command("import")(import_rows)
app.add_typer(evaluate, name="evaluate")


@cache
def commands() -> Any:
    """What `app` declares, as click takes it; typer would make it again at each call, in 0.1 s."""
    return typer.main.get_command(app)


if __name__ == "__main__":
    main()
