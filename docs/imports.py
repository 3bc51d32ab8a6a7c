"""Which wing of the house imports from which: the picture in `architecture.md`.

    python docs/imports.py

writes it anew, from the source. Imports inside functions count, those for type checkers alone do
not (as in the contracts of pyproject.toml, which the order of the wings is read from).
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "headwater"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- made by docs/imports.py: begin -->", "<!-- end -->"


def wings() -> list[str]:
    """From the highest to the lowest, as the contract of layers names them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r"^layers = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert layers, "pyproject.toml has a contract of layers"
    return re.findall(r"headwater\.(\w+)", layers[1])


def imported(node: ast.AST) -> Iterator[str]:
    """Wings that a piece of code imports from."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        nodes = node.orelse
    else:
        nodes = list(ast.iter_child_nodes(node))
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == "headwater":
        names = [f"headwater.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    for name in names:
        if name.startswith("headwater."):
            yield name.split(".")[1]
    for child in nodes:
        yield from imported(child)


def files_of(wing: str) -> list[Path]:
    """A wing is a folder, or one file."""
    return sorted((PACKAGE / wing).rglob("*.py")) or [PACKAGE / f"{wing}.py"]


def matrix() -> str:
    """A row for each wing: how many of its files import from each wing below it."""
    order = wings()
    width = max(map(len, order))
    columns = [name[:6] for name in order]
    lines = [" " * width + "  " + " ".join(f"{name:>6}" for name in columns)]
    for wing in order:
        counts = Counter(
            target
            for file in files_of(wing)
            for target in set(imported(ast.parse(file.read_text(encoding="utf-8"))))
        )
        cells = ["\\" if other == wing else str(counts[other] or ".") for other in order]
        lines.append(f"{wing:<{width}}  " + " ".join(f"{cell:>6}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def picture() -> str:
    """What stands in the page, between its two marks."""
    return f"{BEGIN}\n```text\n{matrix()}\n```\n{END}"


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{picture()}{after}", encoding="utf-8")
