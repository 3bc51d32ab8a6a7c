"""The command line before it computes: help, what is mistyped, and where an answer will go."""

import errno
import logging
import os
import warnings
from pathlib import Path

import pytest
import typer
from support.command_line import assert_refused, headwater

from headwater.cli import main
from headwater.cli.output import default_folder
from headwater.errors import HeadwaterWarning, StoreError
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.queries.local.local_concept import Local, whole_picture
from headwater.queries.reward import Reward, Scorer
from headwater.runtime.console import say

# --- mistyped -----------------------------------------------------------------------------------

MISTYPED = {
    "no command": ("indx", "no such command 'indx'. Did you mean 'index'; see headwater --help"),
    "no such option": ("--loud", "no such option: --loud; see headwater --help"),
    "no argument": ("index", "missing argument 'model'; see headwater index --help"),
    "one argument": ("preference here", "missing argument 'pairs'; see headwater preference --hel"),
    "too many": ("info here there", "unexpected extra argument(s) (there); see headwater info --h"),
    "unknown": ("index a b c --tiemsteps 2", "no such option: --tiemsteps (Possible options: --ti"),
    "where": ("image a --loud", "; see headwater image --help"),
    "integer": ("index a b c --timesteps x", "invalid value for '--timesteps': "),
    "number": ("image a b.png --guidance x", "invalid value for '--guidance': "),
    "no value": ("preference a b --top", "option '--top' requires an argument; see headwater pref"),
    "a value": ("demo --help=yes", "option '--help' does not take a value; see headwater demo --h"),
}


@pytest.mark.parametrize("command, said", MISTYPED.values(), ids=MISTYPED)
def test_mistyped(command, said):
    assert_refused(headwater(*command.split()), said)


def test_mistyped_in_a_group_of_commands(monkeypatch):
    """As one that is added later would be."""
    group = typer.Typer()
    group.command()(main.methods)
    group.command()(main.info)
    monkeypatch.setattr(main.app, "registered_groups", [])
    main.app.add_typer(group, name="judge")
    monkeypatch.setattr(main, "commands", lambda: typer.main.get_command(main.app))
    assert_refused(headwater("judge"), "missing command; see headwater judge --help")
    assert_refused(headwater("judge", "info"), "'index'; see headwater judge info --help")
    assert headwater("judge", "methods").out == headwater("methods").out


@pytest.mark.parametrize("stop, code", [(typer.Exit(3), 3), (typer.Exit(), 0)])
def test_a_command_may_say_its_exit_code(monkeypatch, stop, code):
    def stopped(_):
        raise stop

    monkeypatch.setattr("headwater.storage.manifest.read_manifest", stopped)
    result = headwater("info", "here")
    assert (result.code, result.out, result.err) == (code, "", "")


# --- how much is said -----------------------------------------------------------------------------


def chatty(index):
    logging.getLogger("headwater.index.build").debug("a detail")
    say("a remark")
    warnings.warn("a caption lost a word", HeadwaterWarning, stacklevel=1)
    raise StoreError(f"no index at {index}")


SAID = {
    "": "a remark\nwarning: a caption lost a word\nheadwater: no index at here\n",
    "-q": "warning: a caption lost a word\nheadwater: no index at here\n",
    "--quiet": "warning: a caption lost a word\nheadwater: no index at here\n",
}


@pytest.mark.parametrize("option", SAID)
def test_how_much_is_said(monkeypatch, option):
    monkeypatch.setattr("headwater.storage.manifest.read_manifest", chatty)
    result = headwater(*option.split(), "info", "here")
    assert (result.code, result.out, result.err) == (2, "", SAID[option])


@pytest.mark.parametrize("option", ["-v", "--verbose"])
def test_details_come_with_where_they_are_from(monkeypatch, option):
    monkeypatch.setattr("headwater.storage.manifest.read_manifest", chatty)
    lines = headwater(option, "info", "here").err.splitlines()
    assert lines[:2] == ["headwater.index.build: a detail", "a remark"]
    assert any(line.startswith("Traceback") for line in lines)
    assert lines[-1] == "headwater: no index at here"


def test_quiet_leaves_no_bars_and_no_trace(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE")
    seen = []
    monkeypatch.setattr(
        "headwater.storage.manifest.read_manifest",
        lambda index: seen.append(os.environ.get("TQDM_DISABLE")) or chatty(index),
    )
    headwater("info", "here")
    headwater("-q", "info", "here")
    assert seen == [None, "1"]
    log = logging.getLogger("headwater")
    assert (log.handlers, log.level, log.propagate) == ([], logging.NOTSET, True)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_out_of_memory_is_one_line(monkeypatch, error):
    def too_much(index):
        raise error

    monkeypatch.setattr("headwater.storage.manifest.read_manifest", too_much)
    assert_refused(headwater("info", "here"), "out of memory (")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_a_library_could_not_write_to_is_one_line(monkeypatch, number):
    """But not one that is broken."""

    def write(index):
        raise OSError(number, os.strerror(number), "there/model_index.json")

    monkeypatch.setattr("headwater.storage.manifest.read_manifest", write)
    if number == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            headwater("info", "here")
        return
    result = headwater("info", "here")
    assert_refused(result, f"{os.strerror(number)}: 'there/model_index.json': free some space, or")


def test_a_fault_of_ours_keeps_its_trace(monkeypatch):
    def wrong(index):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("headwater.storage.manifest.read_manifest", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        headwater("info", "here")


def test_quiet_and_verbose():
    assert_refused(
        headwater("-q", "-v", "info", "x"), "--verbose and --quiet contradict each other"
    )


def test_what_is_mistyped_after_quiet():
    assert_refused(headwater("-q", "info"), "missing argument 'index'; see headwater info --help")


def test_no_escape_code_of_a_file_name_reaches_the_terminal():
    result = headwater("info", "a\x1b[31m\nb\u202e")
    assert_refused(result, "no index at a\\x1b[31m\\nb\\u202e: build one")


# --- help ---------------------------------------------------------------------------------------


def test_help():
    plain, asked = headwater(), headwater("--help")
    assert plain == asked and (plain.code, plain.err) == (0, "")
    lines = plain.out.splitlines()
    assert lines[0] == "Usage: headwater [OPTIONS] COMMAND [ARGS]..."
    commands = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :]]
    first = ["demo", "view", "why", "inspect", "index", "concept", "image", "preference"]
    assert commands[: len(first)] == first
    assert "..." not in "".join(lines[1:])  # every line on its command is whole
    for command in commands:
        shown = headwater(command, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.startswith(f"Usage: headwater {command} ")
        assert max(map(len, shown.out.splitlines())) <= 80


# --- where an answer goes -----------------------------------------------------------------------

PROMPT = "a red star in hatched style on a striped background"
STAR = Concept(PROMPT, "star")
FOLDERS = {
    "concept": ([STAR], "concept-star-in-a-red-star-in-hatched-style-on-a-0-"),
    "concepts": (
        [Concept(PROMPT, "star", seed=4), Concept(PROMPT, "red", seed=4)],
        "concept-star-red-in-a-red-star-in-hatched-style-4-",
    ),
    "image": ([Image("A star!", seed=2)], "image-a-star-2-"),
    "no prompt": ([Image()], "image-0-"),
    "file": ([Image("a star", "there/cat.one.png")], "image-cat-one-0-"),
    "patch": ([Image("", "cat.png", "mask.png")], "patch-cat-0-"),
    "step": ([Image("a star", step=499)], "step-499-a-star-0-"),
    "journey": ([Image("a star")], "journey-a-star-0-"),
    "local": ([Local(STAR, "cat.png")], "local-this-star-in-cat-0-"),
    "whole": ([whole_picture("", "cat.png")], "local-this-picture-in-cat-0-"),
    "reward": (
        [Reward("a star", Scorer("judge:likes", "", len))],
        "reward-judge-likes-in-a-star-0-",
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_says_what_was_asked(kind):
    queries, begin = FOLDERS[kind]
    given = {"step": 499, "journey": kind == "journey"}
    folder = default_folder(queries, given)
    assert folder.parent == Path("headwater-answers")
    assert folder.name.startswith(begin) and len(folder.name) == len(begin) + 6


ASKED = {
    "index": Path("index"), "file": Path("a/cat.png"), "prompt": "", "seed": 0, "mask": None,
    "step": None, "journey": False, "draws": "32", "method": None, "out": None, "top": 10,
    "fresh": False, "device": None, "as_json": False, "judge": None,
}  # fmt: skip


def test_a_folder_belongs_to_one_question():
    query = [Image(file="a/cat.png")]
    own = default_folder(query, ASKED)
    others = {
        "index": Path("other"), "file": Path("b/cat.png"), "prompt": "a cat", "mask": Path("m.png"),
        "method": "trak", "draws": "8",
    }  # fmt: skip
    found = {default_folder(query, ASKED | {name: value}) for name, value in others.items()}
    assert len(found) == len(others) and own not in found
    shown = {"top": 3, "fresh": True, "device": "cpu", "as_json": True, "judge": "a:b"}
    assert default_folder(query, dict(reversed((ASKED | shown).items()))) == own
    assert own.name == "image-cat-0-ffd42c"  # in every process, on every machine


def test_a_folder_has_a_name_that_any_disk_takes():
    prompt = "星" * 200
    first, second = (
        default_folder([Image(p)], ASKED | {"prompt": p}) for p in (prompt, prompt[1:])
    )
    assert first != second and len(first.name.encode()) < 200
