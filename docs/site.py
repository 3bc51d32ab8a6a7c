"""Builds the documentation as a site that needs no network.

    python docs/site.py [OUT]

Links in `docs/` lead through the repository, so that the pages can be read there. Of what they
lead to, pictures, the notebook, the changelog and how to contribute go along, and other files are
named. Commands and the Python interface are read from the source. Warnings of the builder, links
that lead nowhere among them, are errors.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import typer

import headwater
from headwater.cli import main as command_line

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BESIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
FILES = {".png", ".svg", ".ipynb"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s:#]+?)(#[^)\s]*)?\)")


def pages() -> dict[Path, str]:
    """Each page of the repository, and its place in the site."""
    inside = {page: page.relative_to(DOCS).as_posix() for page in sorted(DOCS.rglob("*.md"))}
    return inside | {ROOT / name: place for name, place in BESIDE.items()}


def relinked(text: str, page: Path, places: dict[Path, str], out: Path) -> str:
    """The text of a page with links that hold in the site; pictures and the notebook are copied.

    Raises:
        FileNotFoundError: a link leads nowhere.
    """
    here = Path(places[page]).parent

    def moved(match: re.Match[str]) -> str:
        bang, words, link, anchor = match.group(1, 2, 3, 4)
        target = (page.parent / link).resolve()
        if not target.exists():
            raise FileNotFoundError(f"{page.relative_to(ROOT)}: {link}")
        if target in places:
            return f"[{words}]({os.path.relpath(places[target], here)}{anchor or ''})"
        if target.suffix in FILES:
            place = "files/" + target.relative_to(ROOT).as_posix().replace("/", "-")
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, out / place)
            return f"{bang}[{words}]({os.path.relpath(place, here)})"
        return f"{words} (`{target.relative_to(ROOT).as_posix()}`)"

    return LINK.sub(moved, text)


def commands() -> str:
    """Every command and option, as `--help` says them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of typer's own
        from typer.cli import get_docs_for_click

        command = command_line.commands()
        context = typer.Context(command, info_name="headwater")
        text = get_docs_for_click(obj=command, ctx=context, name="headwater")
    return re.sub(r"^#", "##", text, flags=re.MULTILINE).replace("```console\n$ ", "```text\n")


def interface() -> str:
    """Every public class and function, for mkdocstrings to write its docstring."""
    named = {name: getattr(headwater, name) for name in headwater.__all__}
    lines = [f"::: {what.__module__}.{name}" for name, what in named.items() if callable(what)]
    return "\n\n".join(lines)


# What stands in a page for what is made of the source.
MADE = {"<!-- every command -->": commands, "<!-- every public name -->": interface}


def stage(out: Path) -> None:
    """All pages below `out`, ready to be built."""
    places = pages()
    for page, place in places.items():
        text = relinked(page.read_text(encoding="utf-8"), page, places, out)
        for mark, made in MADE.items():
            if mark in text:
                text = text.replace(mark, made())
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(text, encoding="utf-8")


def main(out: Path) -> None:
    """Build it below `out`, which is emptied if a site was built there.

    Raises:
        SystemExit: it holds something else.
    """
    mark = out / ".headwater-site"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        sys.exit(f"{out} holds something that is no site: name another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.touch()
    stage(out / "docs")
    for name in ("zensical.toml", "doctests.py"):
        shutil.copyfile(DOCS / name, out / name)
    zensical = Path(sys.executable).parent / "zensical"
    subprocess.run([zensical, "build", "--strict"], cwd=out, check=True)
    print(out / "site" / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site"))
