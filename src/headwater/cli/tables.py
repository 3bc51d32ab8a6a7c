"""What the command line shows: answers as tables, of 80 columns where they are piped.

rich measures (a Chinese character takes two columns) and knows the terminal: there, tables are as
wide as it is and headings bold. The layout is ours, so that what scripts read stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headwater.runtime.console import printable

if TYPE_CHECKING:
    from headwater.attribution.answer.result import Attribution

PIPED = 80  # columns where there is no terminal
NARROWEST = 60  # columns that a table needs


def table(attribution: Attribution, entries: Sequence[Mapping[str, Any]]) -> str:
    """The proponents: entries as the JSON answer has them.

    A score stands with its standard error, a caption with how many near-copies the image has.
    """
    from headwater.report.sheets.contact_sheet import format_error, format_score, said_copies

    query, columns = attribution.query, _columns()
    width = _id_width(entries)
    spread = 0 if attribution.certainty is None else 11
    room = columns - 4 - 2 - 9 - spread - 2 - width - 2
    lines = [
        "",
        _heading(_asked(*query.name(), query.prompt, query.kind)),
        *wrap(printable(f"{attribution.method}, asked {attribution.asked}"), columns),
        *_sure(attribution),
        *(line for remark in _remarks(attribution) for line in wrap(printable(remark), columns)),
        "",
        _heading(f"{'rank':>4}  {'score':>9}{'':<{spread}}  {'id':<{width}}  caption"),
    ]
    for entry in entries:
        error = "" if entry["error"] is None else f" ± {format_error(entry['error'])}"
        copies = said_copies(len(entry["near_copies"]))
        caption = _short(entry["caption"], room - len(copies) - bool(copies))
        lines.append(
            f"{entry['rank']:>4}  {format_score(entry['score']):>9}{error:<{spread}}  "
            f"{_padded(entry['id'], width)}  {f'{caption} {copies}' if copies else caption}"
        )
    return "\n".join([*lines, *_groups(attribution, len(entries))])


def _groups(attribution: Attribution, most: int) -> list[str]:
    """What groups scored together, the strongest first."""
    from headwater.report.sheets.contact_sheet import format_error, format_score

    groups, columns = attribution.groups, _columns()
    if not groups:
        return []
    spread = 0 if groups[0].error is None else 11
    room = columns - 4 - 2 - 9 - spread - 2 - 11 - 2 - 8 - 2 - 9 - 2
    by = attribution.provenance["grouped by"]
    shown = f", the first {most}" if len(groups) > most else ""
    lines = [
        "",
        _heading(f"by {by}: {len(groups):,} groups{shown}; a score is the sum over images"),
        "",
        _heading(
            f"{'rank':>4}  {'score':>9}{'':<{spread}}  {'share':>5}{'':<6}  {'images':>8}  "
            f"{'per image':>9}  group"
        ),
    ]
    for rank, group in enumerate(groups[:most], 1):
        error = "" if group.error is None else f" ± {format_error(group.error)}"
        share = "" if group.share_error is None else f" ± {group.share_error:.0%}"
        lines.append(
            f"{rank:>4}  {format_score(group.score):>9}{error:<{spread}}  {group.share:>5.0%}"
            f"{share:<6}  {group.images:>8,}  {format_score(group.per_image):>9}  "
            f"{_short(group.name, room)}"
        )
    return lines


def _asked(words: str, quoted: bool, prompt: str, kind: str) -> str:
    """What was asked for: 'star' in 'a red star', the picture of 'a red star'."""
    if not prompt:
        return words
    said = repr(words) if quoted else words
    return f"{said} {'in' if quoted or kind == 'concept' else 'of'} {prompt!r}"


def journey_table(answer: Mapping[str, Any]) -> str:
    """A journey: for each step its strongest proponent."""
    from headwater.report.sheets.contact_sheet import format_score

    steps = answer["steps"]
    firsts = [step["top"][0] for step in steps]
    width = _id_width(firsts)
    room = _columns() - 4 - 7 - 11 - 11 - 2 - width - 2
    lines = [
        "",
        _heading(f"the journey of {answer['prompt']!r}" if answer["prompt"] else "the journey"),
        f"{answer['method']}, the strongest proponent of each step",
        "",
        _heading(
            f"{'step':>4}  {'stays':>5}  {'as before':>9}  {'score':>9}  {'id':<{width}}  caption"
        ),
    ]
    for i, (step, first) in enumerate(zip(steps, firsts, strict=True)):
        sure = step["certainty"]
        stays = "-" if sure is None else f"{sure['stability']:.0%}"
        before = f"{answer['correlation'][i][i - 1]:.2f}" if i else "-"
        caption = _short(first["caption"], room)
        lines.append(
            f"{step['step']:>4}  {stays:>5}  {before:>9}  {format_score(first['score']):>9}  "
            f"{_padded(first['id'], width)}  {caption}"
        )
    lines.append("\nstays: of the top 10, in resamples; as before: correlation with the step above")
    return "\n".join(lines)


def _sure(attribution: Attribution) -> list[str]:
    """How much the draws matter, in a line."""
    sure = attribution.certainty
    if sure is None:
        return []
    return [
        f"{sure.draws} draws; an image of the top {sure.k} stays there in {sure.stability:.0%} of "
        "resamples"
    ]


def _remarks(attribution: Attribution) -> list[str]:
    """What else a reader must know, sentence by sentence."""
    from headwater.methods.choice import measure
    from headwater.report.export import remarks

    square = "The scores are squares: how strong an influence is, not which way."
    strength = measure(attribution.method) == "strength"
    return [*([square] if strength else []), *remarks(attribution)]


def audit_table(answer: Mapping[str, Any]) -> str:
    """An audit: captions that are doubted, and what captions leave out."""
    titles = {
        "wrong": "captions that say what the model does not see",
        "unsaid": "images that show what their caption does not say",
    }
    lines = [wrap(remark, _columns()) for remark in map(printable, answer["remarks"])]
    return "\n".join([
        *(line for name, title in titles.items() for line in _findings(answer, name, title)),
        "",
        "strength: 1 is as surely as the model sees what the median caption says",
        *(line for wrapped in lines for line in wrapped),
    ])  # fmt: skip


def _findings(answer: Mapping[str, Any], name: str, title: str) -> list[str]:
    entries, count = answer[name], answer["counts"][name]
    lines = ["", _heading(f"{title}: {count:,} of {answer['images']:,}")]
    if not entries:
        return lines
    width = _id_width(entries)
    says = [f"{entry['says'] or '-'} > {entry['sees']}" for entry in entries]
    room = min(24, max(cell_len(printable(each)) for each in (*says, "says > sees")))
    left = _columns() - 4 - 2 - 8 - 2 - room - 2 - width - 2
    lines += [
        "",
        _heading(
            f"{'rank':>4}  {'strength':>8}  {'says > sees':<{room}}  {'id':<{width}}  caption"
        ),
    ]
    for rank, (entry, words) in enumerate(zip(entries, says, strict=True), 1):
        lines.append(
            f"{rank:>4}  {entry['strength']:>8.2f}  {_padded(words, room)}  "
            f"{_padded(entry['id'], width)}  {_short(entry['caption'], left)}"
        )
    return lines


def _columns() -> int:
    """How wide a table may be."""
    console = Console()
    return max(NARROWEST, console.width) if console.is_terminal else PIPED


def _heading(line: str) -> str:
    """A line in bold on a terminal that has it, as it is anywhere else."""
    console = Console()
    with console.capture() as capture:
        console.print(Text(printable(line), style="bold"), soft_wrap=True, end="")
    return capture.get()


def _id_width(entries: Sequence[Mapping[str, Any]]) -> int:
    return min(24, max(cell_len(printable(entry["id"])) for entry in entries))


def _short(text: str, width: int) -> str:
    """`text` on one line of so many columns at most."""
    text = printable(" ".join(text.split()))  # a caption may have line breaks
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}…"


def _padded(text: str, width: int) -> str:
    """`text` on one line of exactly so many columns."""
    return set_cell_size(_short(text, width), width)


def methods_table(rows: Sequence[dict[str, Any]]) -> str:
    """The table of methods in 80 columns; under each what it asks of questions, and its paper."""
    from headwater.methods.row import QUESTIONS

    lines = [_heading(_method_line("method, questions", "guidance", "norm", "rule", "passes*"))]
    for row in rows:
        cost = row["units per image"] or "-"
        metric = "" if row["curvature"] == "none" else f", {row['curvature']}"
        facts = (row["name"], row["train"], row["normalise"], row["rule"] + metric, cost)
        lines.append(_heading(_method_line(*facts)))
        paper = row["paper"]
        for (guidance, cost), questions in _by_guidance(row["queries"]).items():
            asked = "any" if len(questions) == len(QUESTIONS) else ", ".join(questions)
            lines.append(f"  {asked:<22}{guidance:<26}{paper:<21}{cost:>9}")
            paper = ""
    lines.append(
        "\n* forward passes of the network at ten timesteps: for each training image, and\n"
        "for each question as draws x passes of one draw; n is the number of training\n"
        "images, v that of the values of a concept's kind, for all of which presence is\n"
        "paid once, u that of images whose caption names no value: 2,000 at most are\n"
        "looked at, under one value after the other until one explains an image, and\n"
        "eight more of each value; none where all captions name one. s is how often a\n"
        "recorded training showed an image. With checkpoints, for each. Not counted:\n"
        "making the picture that is asked about, the token of a local concept, 2,048\n"
        "before the first unlearning, the steps in which mucs forgets a query, and guda\n"
        "each group, once.\n"
        "A patch without a prompt is asked as an image. @: an inversion's guidance."
    )
    return "\n".join(lines)


def _method_line(name: str, guidance: str, normalise: str, rule: str, cost: Any) -> str:
    return f"{name:<24}{guidance:<22}{normalise:<10}{rule:<16}{cost:>8}"


def _by_guidance(queries: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Questions by what is asked of them and what that costs."""
    found: dict[tuple[str, str], list[str]] = {}
    for question, query in queries.items():
        found.setdefault((query["guidance"], query["cost"]), []).append(question)
    return found


def listed(value: Any) -> str:
    """One value, or several, in words."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, aligned; on a terminal, long values go on below where they began."""
    console = Console(highlight=False)
    shown = {name: printable(str(value)) for name, value in facts.items()}
    if console.is_terminal:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in shown.items():
            grid.add_row(Text(name, style="bold"), Text(value))
        console.print(grid)
        return
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:<{width}}  {value}")
