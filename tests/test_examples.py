"""The examples in docstrings say what the code does."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import headwater

ROOT = Path(headwater.__file__).parent
FILES = [file for file in sorted(ROOT.rglob("*.py")) if ">>> " in file.read_text()]
MODULES = [".".join(file.relative_to(ROOT.parent).with_suffix("").parts) for file in FILES]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    result = doctest.testmod(import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0 and result.attempted > 0
