"""The page on the architecture names every file of the package, and shows who imports whom."""

import ast
import importlib
import re
import runpy
from pathlib import Path

import headwater

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


# --- sizes ----------------------------------------------------------------------------------------

LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS, MOST_ROOMS = 320, 60, 6, 12


def functions():
    """(file, function) of every function of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield path.relative_to(PACKAGE).as_posix(), node


def is_command(file, function):
    """Whether typer makes options of its parameters."""
    return file.startswith("cli/") and not function.name.startswith("_")


def body_lines(function):
    """Lines from the first statement after the docstring to the last."""
    documented = ast.get_docstring(function) is not None
    body = function.body[1:] if documented and len(function.body) > 1 else function.body
    return function.end_lineno - body[0].lineno + 1


def parameters(function):
    """Names of its parameters but self and cls."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [each.arg for each in every if each.arg not in ("self", "cls")]


def test_no_file_is_long():
    lengths = {path.name: path.read_text().count("\n") for path in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_no_function_is_long():
    lengths = {(file, each.name): body_lines(each) for file, each in functions()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_no_function_but_a_command_has_many_parameters():
    counts = {
        (file, each.name): len(parameters(each))
        for file, each in functions()
        if not is_command(file, each)
    }
    assert {name: count for name, count in counts.items() if count > MOST_PARAMETERS} == {}


def test_no_wing_has_many_rooms():
    folders = [path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    rooms = {
        folder.name: len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        + len([*folder.glob("*/__init__.py")])
        for folder in folders
    }
    assert {name: count for name, count in rooms.items() if count > MOST_ROOMS} == {}


def test_everything_public_says_what_it_is_and_of_what_type():
    documented, bare, untyped = 0, [], []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        inside = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for node in [*tree.body, *(each for one in inside for each in one.body)]:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                bare.append((path.name, node.name))
            else:
                documented += 1
            if isinstance(node, ast.FunctionDef):
                names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                typed = all(a.annotation for a in names if a.arg not in ("self", "cls"))
                if not typed or node.returns is None:
                    untyped.append((path.name, node.name))
    assert documented / (documented + len(bare)) >= 0.98, bare
    assert untyped == []


def test_every_public_name_is_where_it_is_said_to_be():
    """For people, for type checkers and for `from headwater import *` alike."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {a.name: node.module for node in checked.body for a in node.names}  # pyright: ignore
    assert set(told) == set(headwater.__all__)
    for name, module in told.items():
        assert getattr(headwater, name) is getattr(importlib.import_module(module), name)
