"""An extension of griffe: examples in docstrings are set as code.

They are doctests (`>>>`), which Markdown takes for prose, or a section `Example:`.
"""

import re
from textwrap import dedent
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> .*(?:\n\S.*)*", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:\n((?:(?: {4}.*)?\n?)+)", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences every example."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Of one docstring."""
        if obj.docstring:
            text = DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(
                lambda found: f"```python\n{dedent(found[1]).strip()}\n```\n", text
            )
