"""Runs what a page of the documentation says, as a reader would.

    python docs/run.py docs/start/scenes.md docs/start/scenes.ipynb [--in FOLDER]

Blocks that are marked `bash` or `python` run as they stand, in their order, in one folder; the
Python of a page is one program. Indented blocks are not run: they have names of yours in them.
The first thing that fails ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block that runs; of a notebook, its cells of code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [each for each in json.loads(text)["cells"] if each["cell_type"] == "code"]
        return [("python", "".join(each["source"])) for each in cells]
    return BLOCK.findall(text)


def run(page: Path) -> None:
    """All of a page, here.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, text in blocks(page):
        print(f"--- {page.name}\n{text}", flush=True)
        begun = time.monotonic()
        if language == "bash":
            command = ["bash", "-euo", "pipefail", "-c", text]
            subprocess.run(command, check=True, env=os.environ | {"PATH": beside})
        else:
            exec(compile(text, str(page), "exec"), names)
        print(f"--- {time.monotonic() - begun:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--in", dest="folder", type=Path)
    arguments = parser.parse_args()
    pages = [page.resolve() for page in arguments.pages]
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    for page in pages:
        run(page)


if __name__ == "__main__":
    main()
