"""What a terminal gets: text and JSON that it only shows, and silence of other libraries."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings

import pytest

from headwater.errors import HeadwaterWarning
from headwater.runtime import console

# fmt: off
TEXTS = [
    ("a red star", "a red star"),
    ("星 ★ né 👩\u200d🎨", "星 ★ né 👩\u200d🎨"),  # joined emoji are text
    ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
    ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
    ("\x9b31m", "\\x9b31m"),  # one character that begins an escape sequence
    ("a\nb\rc\td", "a\\nb\\rc\\td"),
    ("\x7f\x00", "\\x7f\\x00"),
    ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
    ("a\u2028b", "a\\u2028b"),
    ("\udc80.png", "\\udc80.png"),  # a file name that is no UTF-8
    ("C:\\x1b", "C:\\x1b"),
]
# fmt: on


@pytest.mark.parametrize("text, shown", TEXTS)
def test_printable(text, shown):
    assert console.printable(text) == shown == console.printable(shown)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
@pytest.mark.parametrize("text", [text for text, _ in TEXTS])
def test_json_is_valid_in_every_encoding(monkeypatch, text, encoding):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stdout)
    line = console.json_line({text: [text]})
    assert console.printable(line) == line
    assert json.loads(line.encode(encoding).decode(encoding)) == {text: [text]}


def test_json_stays_readable_where_it_can(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert console.json_line("星") == '"星"'


def test_streams_take_any_text(monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    console.accept_any_text()
    for stream in streams:
        print("né ★", file=stream, flush=True)
        assert stream.buffer.getvalue() == b"n\\xe9 \\u2605\n"


def test_the_library_says_nothing_unless_somebody_listens(capsys):
    console.say("a remark")
    assert capsys.readouterr().err == ""
    with console.remarks_on_stderr():
        console.say("100% of \x1b[31m")
        logging.getLogger("headwater.index").debug("a detail")
    console.say("another")
    assert capsys.readouterr().err == "100% of \\x1b[31m\n"


def test_a_root_handler_does_not_say_it_again(capsys):
    root = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(root)
    try:
        with console.remarks_on_stderr():
            console.say("once")
    finally:
        logging.getLogger().removeHandler(root)
    assert capsys.readouterr().err == "once\n" and root.stream.getvalue() == ""


@pytest.mark.parametrize("listened", [True, False], ids=["command line", "worker"])
def test_warnings_are_lines(capsys, monkeypatch, listened):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own: a worker has none
    with warnings.catch_warnings():
        console.warn_plainly()
        warnings.warn("of a third party", UserWarning, stacklevel=1)
        if listened:
            with console.remarks_on_stderr():
                warnings.warn("lost \x1b[31m", HeadwaterWarning, stacklevel=1)
        else:
            warnings.warn("lost \x1b[31m", HeadwaterWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: lost \\x1b[31m\n"


# --- other libraries ------------------------------------------------------------------------------

NOISE = """
import sys
from headwater.runtime.console import obey_bar_setting, quiet_libraries
{quiet}
assert not {{"torch", "diffusers", "transformers", "datasets"}} & set(sys.modules)
import diffusers.utils.logging, transformers.utils.logging, huggingface_hub.utils
obey_bar_setting()
for library in (diffusers, transformers):
    library.utils.logging.get_logger(library.__name__ + ".models").error("NOISE")
    list(library.utils.logging.tqdm(range(2), desc="NOISE"))
huggingface_hub.utils.logging.get_logger("huggingface_hub.x").error("NOISE")
list(huggingface_hub.utils.tqdm(range(2), desc="NOISE"))
from transformers import CLIPImageProcessor
"""


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "as they are"])
def test_other_libraries_are_silenced_before_they_are_imported(quiet):
    script = NOISE.format(quiet="quiet_libraries()" if quiet else "")
    env = {name: v for name, v in os.environ.items() if name != "TQDM_DISABLE"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    assert (run.stdout + run.stderr == "") == quiet
    if not quiet:  # what is silenced is there to be heard
        assert run.stderr.count("NOISE") >= 6 and "CLIPImageProcessor" in run.stderr


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("DIFFUSERS_VERBOSITY", "debug")
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    console.quiet_libraries()
    assert os.environ["DIFFUSERS_VERBOSITY"] == "debug"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "critical"
