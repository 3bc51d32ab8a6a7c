"""What a page's controls hold, for tests that click without a page."""

PROMPT = "a red star on a plain background"
# What the controls of a fresh page hold.
FRESH = {
    "index": "all",
    "prompt": PROMPT,
    "concepts": ["star"],
    "phrase": "",
    "against": "",
    "against_of": "",
    "whole": False,
    "ask_for": "slider",
    "picture_prompt": "",
    "search": "",
    "seed": 0,
    "guidance": 5.0,
    "shown": 3,
    "method": "",
    "damping": 0.0,
    "draws": 6,
    "where": "",
    "group_by": "",
    "left_out": [],
    "other": "fewer",
    "step": 1,
    "found": None,
    "row": None,
    "row_of": "",
    "steps": None,
    "words": None,
}


def done(updates) -> dict:
    """What the controls hold at the end."""
    held = {}
    for update in updates:
        held |= update
    return held


def after(values, updates) -> dict:
    """What the controls hold after updates, as the next handler is told of it."""
    changed = {
        name: value["value"] if isinstance(value, dict) and "value" in value else value
        for name, value in done(updates).items()
    }
    return values | changed
