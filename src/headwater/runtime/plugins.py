"""Functions of the user's own, named on a command line as "module:function"."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
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
