"""What people look at: one HTML file that answers the question, for readers who are no experts.

The frame is `headwater.page`; this module says an answer in words and pictures. The same answer as
one picture, a contact sheet, is made by `headwater.sheets`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from headwater.attribution.bootstrap import Certainty
from headwater.report.charts import distribution
from headwater.report.contact_sheet import Entry
from headwater.report.page import GRID_SIDE, page, picture, score, text
from headwater.report.wording import WORDING, reading

# An answer is firm from this share on, and only a sample of many like it below the second.
FIRM, LOOSE = 0.9, 0.6


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

    @property
    def name(self) -> str:
        """What was asked for, as it stands in a sentence."""
        return f"“{self.concept}”" if self.quoted else self.concept


def html_report(
    *,
    prompt: str,
    method: str,
    answers: Sequence[Answer],
    pictures: Sequence[tuple[str, Image.Image]],
    provenance: Mapping[str, Any],
    file: str = "",
) -> str:
    """The whole report as the text of one HTML file.

    `pictures` are what was asked about, each with a caption; `file` is where they came from, if
    the model did not make them.
    """
    images = max((len(answer.scores) for answer in answers), default=0)
    words = [answer.concept for answer in answers if answer.quoted]
    facts = {"File": text(file)} if file else {}
    if prompt or not file:
        facts["Prompt"] = _marked(prompt, words)
    return page(
        title=f"Which training images taught the model {_listed(answers, '{}')}?",
        question=f"Which training images taught the model {_listed(answers, '<em>{}</em>')}?",
        facts={**facts, "Method": text(method), "Training images": f"{images:,}"},
        pictures=pictures,
        prompt=prompt,
        sections=[_section(answer) for answer in answers],
        reading=reading(
            answers[0].measure if answers else "influence",
            any(answer.certainty is not None for answer in answers),
        ),
        provenance=provenance,
    )


def _listed(answers: Sequence[Answer], pattern: str) -> str:
    named = [_this(answer, pattern) for answer in answers] or ["this"]
    *others, last = named
    return f"{', '.join(others)} and {last}" if others else last


def _this(answer: Answer, pattern: str) -> str:
    """What was asked for, as it stands in the question."""
    if answer.quoted:
        return f"“{pattern.format(text(answer.concept))}”"
    return pattern.format(text(answer.concept.replace("the picture", "this picture")))


def _marked(prompt: str, concepts: Sequence[str]) -> str:
    """The prompt with each concept marked: as it stands, or else word by word."""
    wanted: list[str] = []
    for concept in concepts:
        wanted += [concept] if concept.lower() in prompt.lower() else concept.split()
    choice = "|".join(re.escape(word) for word in sorted(wanted, key=len, reverse=True) if word)
    # Splitting at a group keeps what it matched, as every second part. "(?!)" matches nothing.
    parts = re.split(rf"(?<!\w)({choice or '(?!)'})(?!\w)", prompt, flags=re.IGNORECASE)
    texts = map(text, parts)
    return "".join(f"<mark>{part}</mark>" if i % 2 else part for i, part in enumerate(texts))


def _section(answer: Answer) -> str:
    heading = answer.concept if answer.quoted else answer.concept[:1].upper() + answer.concept[1:]
    emphasised = f"<em>{text(heading)}</em>"
    words = WORDING[answer.measure]
    return f"""<section>
<h2>{f"“{emphasised}”" if answer.quoted else emphasised}</h2>
<p class="muted">{_comparison(answer)}</p>
{trust(answer.certainty)}
{remarked(answer.remarks)}
<h3>{words.top}</h3>
<p class="muted">{_lead(answer)} The highest score comes first.</p>
{_grid(answer.top, "images")}
{_opponents(answer)}
{_listing([*answer.top, *answer.bottom])}
{_distribution(answer)}
</section>"""


def _lead(answer: Answer) -> str:
    """What it says that images stand at the top; of few candidates, some may be opponents."""
    lead = WORDING[answer.measure].top_means
    if answer.measure == "influence" and any(entry.score <= 0 for entry in answer.top):
        lead = lead.replace("these images", "those of these images with a positive score")
    return text(lead.format(name=answer.name))


def remarked(remarks: Sequence[str]) -> str:
    """Each in a paragraph of its own."""
    return "\n".join(f'<p class="trust">{text(remark)}</p>' for remark in remarks)


def _distribution(answer: Answer) -> str:
    """The histogram, of those that competed."""
    if answer.competing is None:
        return distribution(answer.scores)
    return distribution([answer.scores[row] for row in answer.competing], "candidates")


def _comparison(answer: Answer) -> str:
    """One sentence on what was compared; a method that compares nothing has its context alone."""
    if not answer.plus and not answer.minus:
        return text(answer.context)
    plus, minus = (
        f"“{text(side)}”" if side else "no words" for side in (answer.plus, answer.minus)
    )
    context = f", {text(answer.context)}" if answer.context else ""
    return f"What the model makes of {plus} was compared with what it makes of {minus}{context}."


def trust(sure: Certainty | None) -> str:
    """How much the draws matter, and what follows from that."""
    if sure is None:
        return ""
    meaning = f"other draws would show other images; take these {sure.k} as examples of many"
    if sure.stability >= LOOSE:
        meaning = f"other draws would show most of these {sure.k} again, in another order"
    if sure.stability >= FIRM:
        meaning = f"other draws would show nearly the same {sure.k}"
    return f"""<p class="trust">The question was put with {sure.draws} random draws. When they are
resampled, an image of the top {sure.k} stays there {sure.stability:.0%} of the time on average, and
the scores from either half of the draws agree at a rank correlation of {_correlation(sure)}:
{meaning}. This says how firm the answer is, not that the method is right.</p>"""


def _correlation(sure: Certainty) -> str:
    return f"{sure.halves:.2f}".replace("-", "\N{MINUS SIGN}")


def _opponents(answer: Answer) -> str:
    if not answer.bottom:
        return ""
    words = WORDING[answer.measure]
    lead = text(words.bottom_means.format(name=answer.name))
    if answer.measure == "influence" and all(entry.score >= 0 for entry in answer.bottom):
        lead = "These are the lowest scores, but none is negative: no image is an opponent."
    return f"""<details>
<summary>{words.bottom} ({len(answer.bottom)})</summary>
<p class="muted">{lead}</p>
{_grid(answer.bottom, "small images")}
</details>"""


def _grid(entries: Sequence[Entry], style: str) -> str:
    if not entries:
        return '<p class="muted">There are none.</p>'
    items = "\n".join(f"<li>{_figure(entry)}</li>" for entry in entries)
    return f'<ol class="{style}">\n{items}\n</ol>'


def _figure(entry: Entry) -> str:
    return f"""<figure>{picture(entry.image, training_image(entry), GRID_SIDE)}
<figcaption>
<span class="numbers"><b>{entry.rank}</b> <span>{score(entry.score, entry.error)}</span></span>
{_note("stays", _stays(entry))}<span class="caption" dir="auto">{text(entry.caption)}</span>
{_note("copies", entry.near)}<span class="id">{text(entry.id)}</span>
</figcaption></figure>"""


def training_image(entry: Entry) -> str:
    """What a picture of an entry is called for those who do not see it."""
    return f"Training image {entry.id}" + (f": {entry.caption}" if entry.caption else "")


def _stays(entry: Entry) -> str:
    if entry.stays is None:
        return ""
    return f"stays in the top {entry.k} in {entry.stays:.0%} of resamples"


def _note(style: str, said: str) -> str:
    return f'<span class="note {style}">{text(said)}</span>\n' if said else ""


def _listing(entries: Sequence[Entry]) -> str:
    """The images once more as a table: whole captions, and the sources a grid has no room for."""
    rows = "\n".join(_row(entry) for entry in entries)
    return f"""<details>
<summary>List with sources</summary>
<div class="scroll"><table class="listing">
<thead><tr><th>Rank</th><th>Score</th><th>Id</th><th>Caption</th><th>Source</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
</details>"""


def _row(entry: Entry) -> str:
    near = f'<span class="note">{entry.near}: {text(", ".join(entry.copies))}</span>'
    return (
        f"<tr><td>{entry.rank}</td><td>{score(entry.score, entry.error)}</td>"
        f"<td>{text(entry.id)}{near if entry.copies else ''}</td>"
        f'<td dir="auto">{text(entry.caption)}</td><td>{text(entry.uri)}</td></tr>'
    )
