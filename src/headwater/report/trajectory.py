"""A journey on disk: a sheet of every step, the scores of all steps, and a report to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
from jaxtyping import Float

from headwater.attribution.bootstrap import correlations
from headwater.attribution.pictures import making_of, write_picture
from headwater.attribution.resources import Resources
from headwater.attribution.result import Attribution
from headwater.attribution.trajectory import Judge, aims, likelihoods, overlaps
from headwater.errors import StoreError
from headwater.methods import measure
from headwater.queries.image import Image
from headwater.report.charts import curves
from headwater.report.contact_sheet import Entry, columns_sheet
from headwater.report.export import (
    Ends,
    candidate_column,
    ends,
    entries,
    remarks,
    shared_provenance,
    to_json,
)
from headwater.report.figures import draw_figures, name
from headwater.report.html import remarked, training_image
from headwater.report.page import GRID_SIDE, page, picture, score, text
from headwater.report.wording import WORDING, Wording, reading
from headwater.storage.files import write_image, write_table, write_text

# Entries at either end of a column.
SHOWN = 5


def write_journey(
    resources: Resources,
    query: Image,
    attributions: Sequence[Attribution],
    out: Path,
    top: int = 10,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Write the folder `out` and return the journey as one JSON-ready object.

    Holds `query.png`, `query.safetensors` (noise, latents), `journey.png`, `journey.json`,
    `scores.parquet` with a column for each step, and `report.html`. A `judge` of pictures, which
    returns a dict from the name of each feature to its probability in each picture, adds how
    likely each is in what each step aimed at: a curve in the report, numbers in the JSON.

    Raises:
        StoreError: `out` cannot be written.
        QueryError: the judge fails, or returns something else.
    """
    index = attributions[0].index
    made = resources.picture(query)
    likely = None if judge is None else likelihoods(resources, attributions, judge)
    write_picture(out, made)
    aimed = aims(resources, attributions)
    steps = [step for step, _ in aimed]
    both = [ends(attribution, top) for attribution in attributions]
    scores = np.stack([attribution.scores for attribution in attributions])
    competing = scores[:, attributions[0].competing]  # the same of every step
    compared: dict[str, Any] = {
        "correlation": correlations(scores).round(4).tolist(),
        "overlap of top": overlaps(competing, top).round(4).tolist(),
        "overlap of bottom": overlaps(competing, top, lowest=True).round(4).tolist(),
    }
    if likely is not None:
        compared["likelihood"] = likely
    provenance = shared_provenance(attributions[0], making_of(made, query))
    answer = {
        "index": str(index.path),
        "prompt": query.prompt,
        "seed": query.seed,
        "method": attributions[0].method,
        "steps": [
            {"step": step, **to_json(attribution, shown)}
            for step, attribution, shown in zip(steps, attributions, both, strict=True)
        ],
        **compared,
        "provenance": provenance,
        "out": str(out),
    }
    columns = [_column(*each) for each in zip(aimed, attributions, both, strict=True)]
    try:
        write_image(out / "journey.png", _sheet(query, attributions, columns))
        write_table(out / "scores.parquet", _scores(steps, attributions))
        write_text(out / "journey.json", json.dumps(answer, indent=1, ensure_ascii=False))
        write_text(
            out / "report.html",
            _html(resources, query, attributions, columns, compared, provenance),
        )
    except OSError as error:
        raise StoreError(f"cannot write to {out}: {error.strerror or error}") from None
    return answer


Column = tuple[int, PIL.Image.Image, Sequence[Entry], Sequence[Entry]]


def _column(aimed: tuple[int, PIL.Image.Image], attribution: Attribution, shown: Ends) -> Column:
    """Step, picture, proponents, opponents."""
    sure = attribution.certainty
    top, bottom = (entries(side[:SHOWN], sure) for side in (shown.top, shown.bottom))
    return (*aimed, top, bottom)


def _scores(steps: Sequence[int], attributions: Sequence[Attribution]) -> pa.Table:
    samples = attributions[0].index.samples
    return pa.table({
        "id": [s.id for s in samples],
        **{
            f"score at step {step}": attribution.scores
            for step, attribution in zip(steps, attributions, strict=True)
        },
        **candidate_column(attributions[0]),
        "caption": [s.caption for s in samples],
        "uri": [s.uri for s in samples],
    })  # fmt: skip


def _sheet(
    query: Image, attributions: Sequence[Attribution], columns: Sequence[Column]
) -> PIL.Image.Image:
    words = WORDING[measure(attributions[0].method)]
    of = f"“{query.prompt}”, seed {query.seed}" if query.prompt else f"seed {query.seed}"
    return columns_sheet(
        [f"step {step}" for step, *_ in columns],
        [
            ("Aimed at", [[image] for _, image, _, _ in columns]),
            (words.top, [[entry.image for entry in top] for _, _, top, _ in columns]),
            (words.bottom, [[entry.image for entry in bottom] for *_, bottom in columns]),
        ],
        title=f"The journey of {name(query)[0]}",
        subtitle=f"{attributions[0].method}, {of}, noisiest step first",
    )


# --- the report -----------------------------------------------------------------------------------


def _html(
    resources: Resources,
    query: Image,
    attributions: Sequence[Attribution],
    columns: Sequence[Column],
    compared: dict[str, Any],
    provenance: dict[str, Any],
) -> str:
    index = attributions[0].index
    steps = [step for step, *_ in columns]
    asked = name(query)[0].replace("the picture", "this picture")
    words = WORDING[measure(attributions[0].method)]
    asked_for = {k: v for k, v in attributions[0].provenance["query"].items() if k != "step"}
    question = "Which training images taught the model {} at each step of its making?"
    return page(
        title=question.format(text(asked)),
        question=question.format(f"<em>{text(asked)}</em>"),
        facts={
            "Prompt": text(query.prompt),
            "Method": text(attributions[0].method),
            "Training images": f"{len(index):,}",
            "Steps": f"{len(steps)}, from {steps[0]} (noise) to {steps[-1]}",
        },
        pictures=draw_figures(resources, query, attributions[0].method),
        prompt=query.prompt,
        sections=[_steps(columns, attributions), _comparison(steps, compared, words)],
        reading=reading(
            measure(attributions[0].method),
            any(attribution.certainty is not None for attribution in attributions),
        ),
        provenance={**provenance, "query": asked_for},
    )


def _steps(columns: Sequence[Column], attributions: Sequence[Attribution]) -> str:
    heads = "".join(f'<th scope="col">Step {step}</th>' for step, *_ in columns)
    aimed = "".join(
        f"<td>{picture(image, f'What the model aimed at, at step {step}', GRID_SIDE)}</td>"
        for step, image, _, _ in columns
    )
    firm = "".join(f"<td>{_stability(attribution)}</td>" for attribution in attributions)
    words = WORDING[measure(attributions[0].method)]
    highest = _entries([top for _, _, top, _ in columns], words.top.removesuffix("s"))
    lowest = _entries([bottom for *_, bottom in columns], words.bottom.removesuffix("s"))
    below = f"those with the highest scores, then those with the lowest. {words.top_means}"
    if words is WORDING["influence"]:
        below = "those that pushed it there, the strongest first, then those that pushed it away."
    return f"""<section>
<h2>Step by step</h2>
<p class="muted">From left to right the picture is made. In the first row stands what the model
aimed at; below it training images: {text(below)} Scores compare within one step only.</p>
{remarked(remarks(attributions[0]))}
<div class="scroll"><table class="journey" style="min-width: {5.8 * len(columns) + 6:.1f}rem">
<thead><tr><td></td>{heads}</tr></thead>
<tbody>
<tr><th scope="row">Aimed at</th>{aimed}</tr>
<tr><th scope="row">Top {_k(attributions)} stays in resamples</th>{firm}</tr>
{highest}
{lowest}
</tbody></table></div>
</section>"""


def _stability(attribution: Attribution) -> str:
    sure = attribution.certainty
    return "—" if sure is None else f"{sure.stability:.0%}"


def _k(attributions: Sequence[Attribution]) -> int:
    """How many images the top has that a certainty is of."""
    return max((a.certainty.k for a in attributions if a.certainty is not None), default=10)


def _entries(columns: Sequence[Sequence[Entry]], called: str) -> str:
    deep = max(map(len, columns), default=0)
    rows = []
    for i in range(deep):
        cells = "".join(f"<td>{_cell(side[i]) if i < len(side) else ''}</td>" for side in columns)
        rows.append(f'<tr><th scope="row">{called} {i + 1}</th>{cells}</tr>')
    return "\n".join(rows)


def _cell(entry: Entry) -> str:
    near = f'<span class="note copies">{entry.near}</span>' if entry.near else ""
    return (
        f"{picture(entry.image, training_image(entry), GRID_SIDE)}"
        f'<span class="note" title="{text(entry.caption)}">{score(entry.score, entry.error)}</span>'
        f"{near}"
    )


def _comparison(steps: Sequence[int], compared: dict[str, Any], words: Wording) -> str:
    likelihood = ""
    if "likelihood" in compared:
        meaning = "How likely a judge finds each feature in what each step aimed at"
        likelihood = f"""<section>
<h2>When does each feature appear?</h2>
<p class="muted">{meaning}: from left to right the picture is made.</p>
{curves(steps, compared["likelihood"], meaning)}
</section>"""
    return f"""{likelihood}<section>
<h2>How alike are the steps?</h2>
<h3>Rank correlation of the scores</h3>
<p class="muted">1: two steps rank all training images alike. 0: they have nothing in common.</p>
{_matrix(steps, steps, np.asarray(compared["correlation"]))}
<h3>{words.top}: share in common</h3>
{_matrix(steps, steps, np.asarray(compared["overlap of top"]))}
<h3>{words.bottom}: share in common</h3>
{_matrix(steps, steps, np.asarray(compared["overlap of bottom"]))}
</section>"""


def _matrix(rows: Sequence[int], columns: Sequence[int], values: Float[np.ndarray, "r c"]) -> str:
    """A table of numbers from -1 to 1, tinted by their size."""
    heads = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{row}</th>{"".join(map(_tinted, line))}</tr>'
        for row, line in zip(rows, values.tolist(), strict=True)
    )
    return f"""<div class="scroll"><table class="matrix">
<thead><tr><td></td>{heads}</tr></thead>
<tbody>
{body}
</tbody></table></div>"""


def _tinted(value: float) -> str:
    said = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    return f'<td style="--share: {100 * abs(value):.0f}%">{said}</td>'
