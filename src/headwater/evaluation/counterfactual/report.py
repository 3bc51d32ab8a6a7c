"""The folder of a counterfactual: tables, plots, and sheets of before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image

from headwater.evaluation.counterfactual.compare import SHOWN, ending
from headwater.evaluation.counterfactual.effects import (
    AGAIN,
    by_share,
    comparisons,
    named,
    placed,
    rows,
)
from headwater.evaluation.counterfactual.plan import Setting
from headwater.evaluation.counterfactual.regenerate import Window, read_pictures
from headwater.evaluation.counterfactual.study import Outcome
from headwater.evaluation.ground_truth.oracles import KNOWN
from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.reporting.plots import bars, curves, points
from headwater.evaluation.reporting.results import write_results
from headwater.evaluation.retraining.retrain import devices
from headwater.report.contact_sheet import columns_sheet
from headwater.report.export import slug
from headwater.storage.files import read_tensors, write_image

# In plots, which tell four greys apart.
_GREY = (AGAIN, "random", *(known.name for known in KNOWN.values()))

TILE = 192  # of sheets: how wide a picture is (prompts stand above them)

_KNOWN = (
    "images that it is true of, by chance; where they are fewer than are taken out, all of them, "
    "and others by chance"
)
_SWAPPED = (
    "window: the timesteps A >= t > B at which the retrained model makes the picture; at all "
    "others the full one does"
)

_SHARES = (
    "gone: the share that was taken out of the images that show the concept and whose caption "
    "names it; drop: the mean of so many models, of all methods and concepts; least, most: of one"
)

# Plots: file -> (column of the table, what it says).
PLOTS = {
    "drop": ("drop", "drop of the concept's rate"),
    "others": ("others' drop", "drop of the other concepts' rate"),
    "l2": ("l2", "l2 to the full model's pictures"),
    "frechet": ("Frechet", "Frechet distance"),
}


def write(
    setting: Setting,
    outcomes: Mapping[str, Outcome],
    about: Mapping[str, Any],
    out: Path | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write tables, plots and sheets; the rows, and `results.json` of the folder.

    `compared/` holds each method against each baseline, `concepts/` the rows of each concept
    where there are several, `gone/` models by how much was gone of what shows and names the
    concept; `windows/` the same of the windows, if there are any.

    Args:
        out: the folder, if not the setting's.

    Raises:
        HeadwaterError: matplotlib is not there.
        StoreError: the folder cannot be written.
    """
    out = out or setting.out
    written = _write(setting, outcomes, about, out)
    if setting.windows:
        _write(setting, outcomes, about, out / "windows", setting.windows)
    for outcome in outcomes.values():
        path = out / "sheets" / f"{slug(outcome.ask.concept)}.png"
        write_image(path, sheet(setting, outcome))
    return written


def _write(
    setting: Setting,
    outcomes: Mapping[str, Outcome],
    about: Mapping[str, Any],
    out: Path,
    windows: Sequence[Window] = (),
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found = list(outcomes.values())
    what = _counted(outcomes)
    swapped = ", swapped for some steps" if windows else ""
    title = f"Counterfactual: {what}, {len(setting.data)} images{swapped}"
    of_windows = [_SWAPPED] if windows else []
    where = devices(setting.out, [t for o in found for each in o.tasks.values() for t in each])
    lines = [*of_windows, *notes(setting, len(found)), *where]
    table, against = (_each(windows, partial(of, found)) for of in (rows, comparisons))
    prompts = {concept: outcome.ask.prompts for concept, outcome in outcomes.items()}
    written = write_results(out, title, about, table, lines, prompts=prompts)
    if len(found) > 1:
        own = [
            {"concept": concept, **row}
            for concept, outcome in outcomes.items()
            for row in _each(windows, partial(rows, [outcome]))
        ]
        lines_of_one = [*of_windows, *notes(setting, 1), *where]
        write_results(out / "concepts", f"{title}, one by one", about, own, lines_of_one)
    if against:
        differs = "each number: the first method's less the other's, of the same pictures"
        heading = f"{title}: against baselines"
        write_results(out / "compared", heading, about, against, [differs, *lines])
    if len(windows) > 1:
        _plot_windows(out, table, windows, max(setting.remove), what)
    else:
        _plot(out, table, setting.remove, what)
    shares = [] if windows else by_share(found)
    if shares:
        heading = f"{title}: by how much was gone"
        write_results(out / "gone", heading, about, shares, [_SHARES, *where])
        _plot_gone(out / "gone.png", found, what)
    return table, written


def _each(
    windows: Sequence[Window], rows_of: Callable[[str], Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Rows of whole pictures, or for each window, which they name."""
    if not windows:
        return [dict(row) for row in rows_of("")]
    return [{"window": str(window), **row} for window in windows for row in rows_of(ending(window))]


def _plot(out: Path, table: Sequence[Mapping[str, Any]], remove: Sequence[int], what: str) -> None:
    for name, (column, y) in PLOTS.items():
        path, drawn = out / f"{name}.png", _lines(table, column, remove)
        if len(remove) == 1:  # a curve of one point shows nothing
            title = f"{what}, {remove[0]} images taken out"
            bars(path, [{**row, y: row.get(column)} for row in table], y, title=title)
        elif drawn:
            _curves(path, drawn, "images taken out", y, what)


def _plot_gone(path: Path, found: Sequence[Outcome], what: str) -> None:
    """Each retrained model: how much of what taught the concept was gone, and what that did."""
    places: dict[str, list[tuple[float, float]]] = {}
    for method, gone, drop in placed(found):
        places.setdefault(named(method), []).append((gone, drop))
    x, y = "gone, of the images that show and name the concept", PLOTS["drop"][1]
    points(path, places, x=x, y=y, title=what, baselines=_grey_of(places))


def _plot_windows(
    out: Path,
    table: Sequence[Mapping[str, Any]],
    windows: Sequence[Window],
    k: int,
    what: str,
) -> None:
    """Effects window by window, for the most images taken out."""
    places = {str(window): place for place, window in enumerate(windows)}
    ticks = {place: window for window, place in places.items()}
    x = f"timesteps of the other model's turn; images taken out: {k}"
    for name, (column, y) in PLOTS.items():
        drawn: dict[str, dict[int, Interval]] = {}
        for row in table:
            if row["removed"] in (0, k) and isinstance(row.get(column), Interval):
                drawn.setdefault(row["method"], {})[places[row["window"]]] = row[column]
        if drawn:
            _curves(out / f"{name}.png", drawn, x, y, what, ticks)


def _curves(
    path: Path,
    drawn: Mapping[str, dict[int, Interval]],
    x: str,
    y: str,
    what: str,
    ticks: Mapping[int, str] | None = None,
) -> None:
    curves(path, drawn, x=x, y=y, title=what, baselines=_grey_of(drawn), ticks=ticks)


def _grey_of(drawn: Iterable[str]) -> list[str]:
    return [each for each in _GREY if each in drawn]


def _counted(outcomes: Mapping[str, Outcome]) -> str:
    first, *more = outcomes
    return f"{len(outcomes)} concepts" if more else f"“{first}”"


def _lines(
    table: Iterable[Mapping[str, Any]], column: str, remove: Sequence[int]
) -> dict[str, dict[int, Interval]]:
    """Method -> k -> effect; what nothing was taken out for is the same at every k."""
    found: dict[str, dict[int, Interval]] = {}
    for row in table:
        effect = row.get(column)
        if isinstance(effect, Interval):
            for k in remove if row["removed"] == 0 else [row["removed"]]:
                found.setdefault(row["method"], {})[k] = effect
    return found


def notes(setting: Setting, concepts: int) -> list[str]:
    """What a reader of the tables must know."""
    of = "concepts" if concepts > 1 else "prompts"
    beside = ": hold their l2 and Frechet distance against `random`"
    models = "one model" if setting.seeds == 1 else f"the mean of {setting.seeds} models"
    return [
        "of them show it: of the images taken out the share that show the concept; of all that "
        "show it, of all that show and name it: of the images that show it, and of those of them "
        "whose caption names it, the share that was taken out",
        f"rate: how sure the judge is that a picture shows the concept, over {setting.samples} "
        "prompts for each that name it; drop: the full model's rate less this one's, of the same "
        "prompts and seeds",
        "others' drop: the same of the other concepts that a prompt names, over these prompts and "
        "as many that do not name the concept",
        "l2: root of the sum of squared differences of a picture's pixels (0 to 1) from the full "
        "model's; elsewhere: for prompts that do not name the concept",
        f"Frechet: distance to the full model's pictures in {setting.judge.space}; small samples "
        "lie further apart than their distributions do, so compare rows only",
        f"{AGAIN}: a model of all images from other first weights; a drop no larger than its own "
        "is no effect. Models with images taken out begin as the full one does"
        + (beside if "random" in setting.methods else ""),
        f"each number is of {models}; intervals: 95%, over {of}",
        *(f"{KNOWN[m].name}: {_KNOWN}" for m in setting.methods if m in KNOWN),
        *(f"gradients of {name} are of {what}" for name, what in setting.parameters.items()),
        *_begun(setting),
    ]


def _begun(setting: Setting) -> Iterator[str]:
    """What retrained models know from elsewhere."""
    parts = {
        "network begins as": setting.config.unet,
        "text encoder is": setting.config.text_encoder,
    }
    for part, changed in parts.items():
        if changed is None:
            yield (
                f"the {part} that of the base, {setting.config.base!r}: what it learned there, be "
                "it from the same images, is not taken out"
            )


# --- sheets ---------------------------------------------------------------------------------------


def sheet(setting: Setting, outcome: Outcome) -> PIL.Image.Image:
    """Before and after: the full model's pictures, below them those of the models without.

    Of each method the model with most images taken out, of the first seed.
    """
    k, concept = max(setting.remove), outcome.ask.concept
    before = read_pictures(outcome.before)[:SHOWN]
    bands: list[tuple[str, Any]] = [
        (f"The full model: rate {outcome.full['rate'].mean():.2f}", before)
    ]
    for method in setting.methods:
        task = outcome.tasks[method, k][0]
        shown = read_tensors(setting.out / "shown" / f"{task.name}.safetensors") or {}
        rate = outcome.removed[method, k]["rate"].mean()
        bands.append((f"Without {k} images {_chosen(method)}: rate {rate:.2f}", shown.get("whole")))
    count = min(SHOWN, outcome.ask.naming)
    return columns_sheet(
        outcome.ask.prompts[:count],
        [(band, [[_image(pictures, i)] for i in range(count)]) for band, pictures in bands],
        title=f"Has the model forgotten “{concept}”?",
        subtitle="the same prompts and seeds in every row; rate: how sure the judge is that it "
        f"sees the concept, over {outcome.ask.naming} prompts",
        tile=TILE,
    )


def _chosen(method: str) -> str:
    if method in KNOWN:
        return KNOWN[method].chosen
    return "at random" if method == "random" else f"that {method} ranks highest"


def _image(pictures: Any, i: int) -> PIL.Image.Image | None:
    return None if pictures is None else PIL.Image.fromarray(pictures[i].permute(1, 2, 0).numpy())
