"""The page on the architecture names every file of the package, and shows who imports whom."""

import ast
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "headwater"
PAGE = ROOT / "docs" / "architecture.md"


def test_the_house_has_every_file():
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)]
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(named) == sorted(path.relative_to(PACKAGE).as_posix() for path in files)


def test_the_picture_of_imports_is_of_this_source():
    script = runpy.run_path(str(ROOT / "docs" / "imports.py"))
    assert script["picture"]() in PAGE.read_text(), "run `python docs/imports.py`"


def test_no_wing_imports_from_one_above_it():
    script = runpy.run_path(str(ROOT / "docs" / "imports.py"))
    for row, line in enumerate(script["matrix"]().splitlines()[1:]):
        cells = line.split()[1:]
        assert cells[row] == "\\" and set(cells[:row]) <= {"."}, line


def test_a_picture_counts_files_and_leaves_out_what_type_checkers_see():
    imported = runpy.run_path(str(ROOT / "docs" / "imports.py"))["imported"]
    code = """
from headwater import errors
if TYPE_CHECKING:
    from headwater.cli.main import main
else:
    import headwater.storage.files
def function():
    from headwater.data.sources import load_dataset
"""
    assert list(imported(ast.parse(code))) == ["errors", "storage", "data"]
