"""Functions of the user's own, named on a command line as "module:function"."""

from __future__ import annotations

import ast
import importlib
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from headwater.errors import QueryError, first_line


def function_named(option: str, name: str) -> tuple[Callable[..., Any], Path | None]:
    """The function, from the working directory or what is installed, and its module's file.

    Args:
        option: what names it, for errors: "--reward".
        name: "module:function".

    Raises:
        QueryError: no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise QueryError(f"{option} {name!r} must be module:function")
    module = _imported(option, module_name)
    function = getattr(module, function_name, None)
    file = getattr(module, "__file__", None)
    if function is None:
        where = file or f"the module {module_name!r}"
        raise QueryError(f"{option} {name!r}: {where} has no function {function_name!r}")
    if not callable(function):
        raise QueryError(
            f"{option} {name!r}: it is a {type(function).__name__}, not a function of images"
        )
    return function, None if file is None else Path(file)


def _imported(option: str, name: str) -> ModuleType:
    here = str(Path.cwd())  # a console script does not look there by itself
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's module raises whatever it likes
        raise QueryError(
            f"{option}: cannot import the module {name!r} ({type(error).__name__}: "
            f"{first_line(error)}): it must lie in the working directory or be installed"
        ) from None
    finally:
        sys.path.remove(here)


def sources_reached(module: str) -> dict[str, bytes]:
    """The sources of a module and of those that it imports, by name; in turn of theirs.

    Only of modules that were imported. What lies among the installed packages is left out: it
    changes with a version, not while somebody works on it. Files that are no Python count as they
    are, and are not looked into.
    """
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in sources or file is None or (name != module and _is_installed(Path(file))):
            continue
        sources[name] = Path(file).read_bytes()
        waiting += _imports(sources[name], name, sys.modules[name])
    return dict(sorted(sources.items()))


def _is_installed(file: Path) -> bool:
    paths = sysconfig.get_paths()
    libraries = (paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib"))
    places = [*libraries, *site.getsitepackages(), site.getusersitepackages()]
    return any(file.resolve().is_relative_to(Path(place).resolve()) for place in places)


def _imports(source: bytes, name: str, module: ModuleType) -> Iterator[str]:
    """The names of all that may be modules in the import statements of a source."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    package = module.__package__ or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
