"""What every question ends in: the folder of its answer, and a table or JSON on stdout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cli.tables import journey_table, table
from headwater.errors import ParameterError
from headwater.runtime.console import json_line, printable, say

if TYPE_CHECKING:
    from headwater.attribution.result import Attribution
    from headwater.attribution.trajectory import Judge
    from headwater.index.index import Index
    from headwater.models.sampling import Picture
    from headwater.queries.image import Image
    from headwater.queries.query import Question


# What a command line says of how an answer is computed and shown, not of what is asked.
_ASIDE = ("out", "top", "as_json", "fresh", "device", "judge")
# Letters of the words in a folder's name.
LONGEST = 48


def default_folder(queries: Sequence[Question], given: Mapping[str, Any]) -> Path:
    """Where an answer goes that was given no folder: always the same, and to no other question's.

    Its name says the question in a few words; what they leave out, a digest tells apart.

    Args:
        queries: the question, of several concepts one for each.
        given: the command's parameters by name.
    """
    from headwater.report.export import slug

    asked = sorted((name, str(value)) for name, value in given.items() if name not in _ASIDE)
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:6]
    words = slug(_words(queries, given))
    if len(words) > LONGEST:
        words = words[: LONGEST + 1].rpartition("-")[0] or words[:LONGEST]
    return Path("headwater-answers") / f"{words}-{queries[0].seed}-{digest}"


def _words(queries: Sequence[Question], given: Mapping[str, Any]) -> str:
    """The question in a few words, its kind first; a file goes by its stem."""
    first = queries[0]
    file = getattr(first, "file", None)
    about = Path(file).stem if file else first.prompt
    match first.kind:
        case "preference":
            return first.title
        case "step":
            return f"step {given['step']} {about}"
        case "image" | "patch" as kind:
            return f"{'journey' if given['journey'] else kind} {about}"
        case kind:
            return f"{kind} {' '.join(query.title for query in queries)} in {about}"


def answer(
    index: Index,
    queries: Sequence[Question],
    out: Path,
    *,
    guidance: float = 5.0,
    top: int = 10,
    as_json: bool = False,
    **asking: Any,
) -> None:
    """Ask each question, write the folder, print a table or JSON."""
    from headwater.report.export import write_answers

    _require_some(top)
    attributions = [index.attribute(query, note=say, **asking) for query in queries]
    written = write_answers(out, attributions, _shown(index, queries[0], guidance), top)
    _save_tokens(index, attributions, out)
    tables = [
        table(attribution, result["top"])
        for attribution, result in zip(attributions, written["results"], strict=True)
    ]
    _print(written, tables, as_json)


def answer_journey(
    index: Index,
    query: Image,
    out: Path,
    *,
    judge: Judge | None,
    top: int,
    as_json: bool,
    **asking: Any,
) -> None:
    """Ask of every step, write the folder, print a line for each step or JSON."""
    from headwater.attribution.trajectory import journey
    from headwater.report.trajectory import write_journey

    _require_some(top)
    written = write_journey(out, query, journey(index, query, note=say, **asking), top, judge)
    _print(written, [journey_table(written)], as_json)


def _require_some(top: int) -> None:
    if top < 1:
        raise ParameterError(f"--top {top} must be at least 1")


def _print(answer: Mapping[str, Any], tables: Sequence[str], as_json: bool) -> None:
    if as_json:
        print(json_line(answer))
    else:
        report = printable(str(Path(answer["out"]) / "report.html"))
        print(*tables, f"\nReport: {report}", sep="\n")


def _save_tokens(index: Index, attributions: Sequence[Attribution], out: Path) -> None:
    """Beside the answers, the tokens that were learned for them."""
    from headwater.models.textual_inversion import save_token
    from headwater.queries.local_concept import Local
    from headwater.report.export import folders

    for attribution, folder in zip(attributions, folders(attributions), strict=True):
        query = attribution.query
        if isinstance(query, Local) and "learned" in attribution.provenance["query"]:
            token = query.at(index).token(index.denoiser)
            save_token(out / folder / "token.safetensors", token)


def _shown(index: Index, query: Question, guidance: float) -> Picture:
    """The picture that stands for a question: its own, or one that the model makes."""
    from headwater.queries.image import Image
    from headwater.queries.local_concept import Local
    from headwater.queries.preference import Preference

    if isinstance(query, Preference | Local):
        return query.picture(index.denoiser)
    if not isinstance(query, Image):
        query = Image(query.prompt, None, seed=query.seed, guidance=guidance)
    return index.picture(query)
