"""The code of README and guides runs as it stands (on few pictures); all that is named is there."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest

import headwater
from headwater.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def ran(tmp_path, tiny_model, tiny_images, monkeypatch) -> Callable[[str], dict]:
    """Runs a document's Python; the names that it leaves.

    The bundled model and its pictures are a smaller model that reads the same words, and twelve of
    the pictures.
    """
    load, few = headwater.Denoiser.load, headwater.load_dataset(tiny_images).first(12)

    def load_smaller(model, *args, **options):
        return load(tiny_model if model == "scenes" else model, *args, **options)

    def run(file: str) -> dict:
        (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
        monkeypatch.setattr(headwater.Denoiser, "load", load_smaller)
        monkeypatch.setattr(headwater, "load_dataset", lambda source: few, raising=False)
        monkeypatch.chdir(tmp_path)
        names: dict = {}
        exec(lines, names)
        return names

    return run


# of so few images, and of a model that sees nothing
@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_the_five_lines(ran, tiny_images):
    top = ran("README.md")["attribution"].top(10)
    assert [entry.rank for entry in top] == list(range(1, 11))
    assert [entry.score for entry in top] == sorted((e.score for e in top), reverse=True)
    assert {entry.id for entry in top} <= {path.name for path in tiny_images.glob("*.png")}


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_the_questions_of_the_guide(ran, tmp_path):
    names = ran("docs/guides/python.md")
    assert len(names["top"]) == 10 and (tmp_path / "answer/report.html").is_file()
    assert [question.kind for question in names["others"]] == ["image", "image", "local"]


def test_the_training_that_is_recorded(ran):
    """And what the page says to do with it."""
    ran("docs/recorded-training.md")
    model = headwater.Denoiser.load("scenes", "cpu", lora="my-lora", run="my-run")
    data = headwater.load_dataset("scenes").first(12)
    index = headwater.build_index(model, data, "my-index", method="gradient-dot", timesteps=2)
    prompt = data.samples[0].caption
    question = headwater.Image(prompt, seed=1, draws=2, steps=4)
    answer = index.attribute(question, method="metagradient")
    assert answer.asked.endswith("through all 20 steps")
    assert answer.provenance["query"]["recorded training"]["gradient error"] < 1e-4
    assert len(set(answer.scores)) == 12


# --- what documents name is there -----------------------------------------------------------------

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *(page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").rglob("*.md"))),
]


def resolve(name: str) -> object:
    """What a dotted name stands for: a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        with suppress(ModuleNotFoundError):
            module = import_module(".".join(parts[:end]))
            return reduce(getattr, parts[end:], module)
    raise AssertionError(name)


def code_of(text: str) -> list[str]:
    """Lines and spans that are set as code."""
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    indented = re.findall(r"^ {4}(.*)$", prose, re.MULTILINE)
    return [*"\n".join(fenced).splitlines(), *indented, *re.findall(r"`([^`]+)`", prose)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_of_python_resolve(document):
    text = (ROOT / document).read_text()
    for name in re.findall(r"(?<![\w/.-])headwater(?:\.[A-Za-z_]\w*)+", text):
        resolve(name)
    for module, names in re.findall(
        r"from (headwater[\w.]*) import ([\w, ]+?)(?: as |\n|;|$)", text
    ):
        for name in names.split(","):
            resolve(f"{module}.{name.strip()}")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_links_are_there(document):
    text = (ROOT / document).read_text()
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / document).parent / link).exists(), link
    for name in re.findall(r"(?:[\w.]+/)*\w+\.py\b", " ".join(code_of(text))):
        places = (ROOT, ROOT / "docs", ROOT / "src/headwater")
        placeholder = "NAME" in name
        assert placeholder or any((place / name).exists() for place in places), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_there(document):
    commands = main.commands().commands
    for line in code_of((ROOT / document).read_text()):
        words = re.sub(r"^\$ ?|^\.venv/bin/", "", line).split()
        if words[:1] != ["headwater"] or len(words) == 1:
            continue
        if words[1].startswith("-") or words[1].isupper():  # an option, a placeholder
            continue
        assert words[1] in commands, line
        if words[1] == "evaluate" and len(words) > 2:
            assert words[2].strip("|") in commands["evaluate"].commands, line


# --- options --------------------------------------------------------------------------------------


def commands_of(text: str) -> list[list[str]]:
    """Words of each headwater command in blocks and spans, over continued lines, without comments.

    Of tables and prose, the words as they stand: `headwater image ... --journey`.
    """
    joined = re.sub(r"\\\n\s*", " ", text)
    found = []
    for line in code_of(joined):
        code = re.split(r"(?:^|\s)#\s", line)[0].replace("$(", " ").replace(")", " ")
        for part in re.split(r"\|\||&&|[;|]\s", code):
            words = re.sub(r"\"[^\"]*\"|'[^']*'", "TEXT", part).split()
            if "headwater" in words:
                found.append(words[words.index("headwater") + 1 :])
    return found


def taken(command) -> set[str]:
    return {opt for each in command.params for opt in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_are_there(document):
    """Each is one of the command that it is shown with."""
    for words in commands_of((ROOT / document).read_text()):
        command, options = main.commands(), {"--help"}
        while getattr(command, "commands", {}).get(next(iter(words), "")):
            options |= taken(command)
            command, words = command.commands[words[0]], words[1:]
        options |= taken(command)
        for word in words:
            option = word.strip("`,.:()[]").partition("=")[0]
            assert not re.match(r"--?[a-z]", option) or option in options, (command.name, words)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_named_alone_are_there(document):
    """Each is one of some command's, or of a script's of ours, or diffusers' own."""

    def every(command) -> set[str]:
        return taken(command).union(*map(every, getattr(command, "commands", {}).values()))

    options = every(main.commands()) | {"--guidance_scale"}
    for script in (*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("experiments/*.py")):
        options |= set(re.findall(r'"(--[a-z][\w-]*)"', script.read_text()))
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    for span in re.findall(r"`(--[a-z][^`]*)`", text):
        assert span.split()[0].partition("=")[0] in options, span


def test_an_option_that_is_not_there_is_found():
    (block,) = commands_of(
        '```bash\nheadwater concept my-index "a --b" \\\n  --nowhere 3  # --c\n```'
    )
    assert block == ["concept", "my-index", "TEXT", "--nowhere", "3"]
    assert "--nowhere" not in taken(main.commands().commands["concept"])
    assert commands_of("`headwater demo --view` and `pip x && headwater info y --json`") == [
        ["demo", "--view"], ["info", "y", "--json"],
    ]  # fmt: skip
