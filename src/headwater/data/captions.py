"""What counts as a caption: one text or several, by the name of its key; the rest is counted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headwater.data.training_set import (
    TrainingSet,
    is_unicode,
    make_sample,
    make_training_set,
)
from headwater.errors import DatasetError, HeadwaterWarning

# Names of columns, and of keys of metadata files, in the order in which they are looked for.
COLUMNS = ("caption", "text", "prompt", "description", "captions", "texts", "prompts")
KEYS = ("text", "caption", "prompt", "description", "captions", "texts", "prompts")


class CaptionReader:
    """Reads captions from values of a data set, and counts those that are no text.

    Args:
        source: the data set, for people.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._unusable = 0
        self._example = ""

    def read(self, value: Any, where: str) -> tuple[str, ...]:
        """The captions in a value: a text, or a list of some. `where` it stands is for people.

        Raises:
            DatasetError: half of a surrogate pair, which no tokenizer reads.
        """
        texts = value if isinstance(value, (list, tuple)) else [value]
        usable = tuple(text for text in texts if isinstance(text, str))
        if len(usable) < len(texts):
            self._example = self._example or f"{value!r:.40} ({where})"
            self._unusable += 1
        for text in usable:
            if not is_unicode(text):
                raise DatasetError(
                    f"{where} has the caption {text!a}, which holds half a character "
                    "(a lone surrogate): write it again"
                )
        return tuple(text for text in usable if text.strip()) or usable[:1]

    def read_row(self, row: Mapping[str, Any], key: str | None, where: str) -> tuple[str, ...]:
        """The captions under `key`, or under the first of the usual keys that holds any."""
        values = [row[name] for name in ([key] if key else KEYS) if name in row]
        return self.read(next(filter(_holds_text, values), values[0]), where) if values else ()

    def warn(self) -> None:
        """Say in one line how many could not be used."""
        if self._unusable:
            text = (
                f"{self._source}: {self._unusable} caption(s) are no text and could not be used, "
                f"such as {self._example}; write text, or name another key as --caption-column"
            )
            warnings.warn(text, HeadwaterWarning, stacklevel=3)


def with_trigger(data: TrainingSet, word: str) -> TrainingSet:
    """The images with captions as a trainer made them, and a fingerprint of their own.

    The word goes before each caption that does not hold it, and in the place of `[trigger]` and
    `[name]`: what ai-toolkit does with its `trigger_word`, and kohya's trainer, but for `[trigger]`
    and captions that hold it, with a `caption_prefix`.

    Args:
        word: or words.
    """

    def prefixed(caption: str) -> str:
        text = caption.replace("[trigger]", word).replace("[name]", word)
        return text if word in text else f"{word} {text}".strip()

    samples = [
        make_sample(s.id, [prefixed(text) for text in s.all_captions], s.uri, s.repeats)
        for s in data.samples
    ]
    made = make_training_set(data.source, samples, data.contents, data.open_image)
    return replace(made, options={**data.options, "trigger": word})


def lines_of(text: str) -> list[str]:
    """The captions of a text file, a line each; "" alone for none."""
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line] or [""]


def _holds_text(value: Any) -> bool:
    texts = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(text, str) for text in texts)
