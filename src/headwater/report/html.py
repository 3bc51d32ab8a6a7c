"""What people look at: one HTML file that answers the question, for readers who are no experts.

The frame is `report.page`; this module says what the answers to a question are, and
`templates/answers.html` puts them into words and pictures. The same answer as one picture, a
contact sheet, is made by `report.contact_sheet`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from headwater.attribution.answer.bootstrap import Certainty
from headwater.attribution.answer.groups import Group
from headwater.methods.evidence import evidence
from headwater.report.charts import Histogram, Span, histogram
from headwater.report.journeys.journey import Journey
from headwater.report.page import Page, render_page
from headwater.report.sheets.contact_sheet import Entry
from headwater.report.wording import (
    WORDING,
    Wording,
    does_not_say,
    does_not_say_in_short,
    how_to_read,
    said_left_out,
)

# An answer is firm from this share on, and only a sample of many like it below the second.
FIRM, LOOSE = 0.9, 0.6

# Scripts that put no spaces between words, or glue particles to them, where a concept may stand
# between other letters: Thai and Lao, Burmese, Khmer, kana, Han, Hangul.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
)


GROUPS_SHOWN = 50


@dataclass(frozen=True)
class Bar:
    """A group of images in a report.

    Attributes:
        span: where its bar and its standard error stand.
        images: of its strongest images; None where one is not there any more.
    """

    group: Group
    span: Span
    images: Sequence[Image.Image | None]


@dataclass(frozen=True)
class Answer:
    """The answer to one question: what was compared, the extremes, and the score of every image.

    Attributes:
        concept: what was asked for; words are quoted, "the picture" is not.
        plus, minus: the text with the concept and without; both empty for a method that compares
            no texts.
        context: how the texts were compared, "over 16 training captions", to end that sentence.
        top, bottom: proponents, the strongest first, and opponents likewise; either may be empty.
        scores: of all training images, for the histogram.
        competing: rows of the candidates, where not all images competed.
        remarks: what else a reader must know, sentence by sentence.
        certainty: how much the draws matter; None where there was one.
        measure: what the scores are of, a key of `wording.WORDING`.
        groups: what groups of images scored together, and by what they are groups.
        left_out: what the images that were left out score together, and which they are.
    """

    concept: str
    plus: str
    minus: str
    context: str
    top: Sequence[Entry]
    bottom: Sequence[Entry]
    scores: Sequence[float]
    certainty: Certainty | None = None
    quoted: bool = True
    measure: str = "influence"
    competing: Sequence[int] | None = None
    remarks: Sequence[str] = ()
    groups: Sequence[Bar] = ()
    grouped_by: str = ""
    left_out: Group | None = None
    left_out_ids: Sequence[str] = ()

    @property
    def name(self) -> str:
        """What was asked for, as it stands in a sentence."""
        return f"“{self.concept}”" if self.quoted else self.concept

    @property
    def words(self) -> Wording:
        """What the two ends of this ranking may be called."""
        return WORDING[self.measure]

    @property
    def top_meaning(self) -> str:
        """What it says that images stand at the top; of few candidates some may be opponents."""
        mixed = any(entry.score <= 0 for entry in self.top)
        meaning = (mixed and self.words.mixed_top_means) or self.words.top_means
        return meaning.format(name=self.name)

    @property
    def bottom_meaning(self) -> str:
        """What it says that images stand at the bottom, where no score need be negative."""
        positive = all(entry.score >= 0 for entry in self.bottom)
        meaning = (positive and self.words.positive_bottom_means) or self.words.bottom_means
        return meaning.format(name=self.name)

    @property
    def firmness(self) -> str:
        """What other draws would show, "" where nothing is known of it."""
        if self.certainty is None:
            return ""
        k, stability = self.certainty.k, self.certainty.stability
        if stability >= FIRM:
            return f"other draws would show nearly the same {k}"
        if stability >= LOOSE:
            return f"other draws would show most of these {k} again, in another order"
        return f"other draws would show other images; take these {k} as examples of many"

    @property
    def left_out_means(self) -> str:
        """What the score of the images left out foretells."""
        return said_left_out(self.measure)

    @property
    def histogram(self) -> Histogram | None:
        """Of the scores of those that competed; those that are shown are marked."""
        shown = [entry.score for entry in (*self.top, *self.bottom)]
        if self.competing is None:
            return histogram(self.scores, marked=shown)
        return histogram([self.scores[row] for row in self.competing], "candidates", shown)


@dataclass(frozen=True)
class PromptPart:
    """A piece of a prompt, marked where it is what was asked for."""

    text: str
    marked: bool


@dataclass(frozen=True)
class Asked:
    """What a report's questions are about.

    Attributes:
        prompt: "" where there was none.
        pictures: that were asked about, each with a caption; of a single one it may be "".
        file: where they came from, if the model did not make them.
    """

    prompt: str
    pictures: Sequence[tuple[str, Image.Image]] = ()
    file: str = ""


def html_report(
    *,
    asked: Asked,
    method: str,
    answers: Sequence[Answer],
    provenance: Mapping[str, Any],
    journey: Journey | None = None,
) -> str:
    """The whole report as the text of one HTML file; its first page is a summary.

    Args:
        journey: the answers at every step of a picture's making, to stand after the others.
    """
    images = max((len(answer.scores) for answer in answers), default=0)
    measure = answers[0].measure if answers else "influence"
    measured = evidence(method)
    concepts = [answer.concept for answer in answers if answer.quoted]
    errors = any(answer.certainty is not None for answer in answers)
    page = Page(
        asked.pictures,
        asked.prompt,
        how_to_read(measure, errors=errors),
        {**provenance, **({} if journey is None else _along(journey, provenance))},
        does_not_say(measure, measured, images),
        does_not_say_in_short(measure),
    )
    return render_page(
        "answers.html",
        page,
        answers=answers,
        method=method,
        file=asked.file,
        images=images,
        measured=measured,
        prompt_parts=list(mark(asked.prompt, concepts)),
        journey=journey,
    )


def _along(journey: Journey, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a journey came from, as far as the answers beside it came from something else."""
    own = {k: v for k, v in journey.provenance.items() if provenance.get(k) != v}
    return {"journey": {"method": journey.method, **own, "query": journey.asked}}


def mark(prompt: str, concepts: Sequence[str]) -> Iterator[PromptPart]:
    """The prompt in pieces, each concept marked: as it stands, or else word by word.

    >>> [part.text for part in mark("a red Star, starlit", ["star"]) if part.marked]
    ['Star']
    """
    wanted: list[str] = []
    for concept in concepts:
        wanted += [concept] if concept.lower() in prompt.lower() else concept.split()
    choice = "|".join(map(_pattern, sorted(filter(None, wanted), key=len, reverse=True)))
    # Splitting at a group keeps what it matched, as every second part. "(?!)" matches nothing.
    parts = re.split(f"({choice or '(?!)'})", prompt, flags=re.IGNORECASE)
    return (PromptPart(text, i % 2 == 1) for i, text in enumerate(parts) if text)


def _pattern(words: str) -> str:
    """Matches the words where they are not part of a longer one."""
    return re.escape(words) if _UNSPACED.search(words) else rf"(?<!\w){re.escape(words)}(?!\w)"
