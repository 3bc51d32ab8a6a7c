"""A question as the end of an address: whoever opens the link finds it asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from headwater.viewer.form import Form

# A picture that was given is on one person's page alone.
_WRITTEN = [field.name for field in fields(Form) if field.name not in ("picture", "mask")]


def link_of(form: Form) -> str:
    """The end of an address that brings this question back, but for a picture that was given."""
    usual, pairs = Form(), []
    for name in _WRITTEN:
        value = getattr(form, name)
        if value == getattr(usual, name):
            continue
        several = value if isinstance(value, tuple) else (value,)
        pairs += [(name, int(each) if isinstance(each, bool) else each) for each in several]
    return f"?{urlencode(pairs)}"


def form_of_link(link: str | Sequence[tuple[str, str]]) -> Form:
    """The form that a link holds; what it does not hold, or holds wrongly, is as usual.

    >>> form = Form(prompt="a red star", concepts=("star",), seed=3)
    >>> form_of_link(link_of(form)) == form
    True

    Args:
        link: as `link_of` makes it, or its pairs of names and values.
    """
    pairs = parse_qsl(link.removeprefix("?"), True) if isinstance(link, str) else link
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        given.setdefault(name, []).append(value)
    usual, found = Form(), {}
    for name, values in given.items():
        if name not in _WRITTEN:
            continue
        try:
            found[name] = _read(getattr(usual, name), name, values)
        except ValueError:
            continue
    return replace(usual, **found)


def _read(usual: Any, name: str, values: Sequence[str]) -> Any:
    if isinstance(usual, tuple):
        return tuple(values)
    if isinstance(usual, bool):
        return values[0] == "1"
    if isinstance(usual, int):
        return int(values[0])
    if name in ("guidance", "damping"):
        return float(values[0])
    return values[0]
