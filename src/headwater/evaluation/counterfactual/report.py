"""The folder of a counterfactual: tables, plots, and sheets of before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from headwater.evaluation.counterfactual.compare import SHEET_PICTURES, window_suffix
from headwater.evaluation.counterfactual.effects import (
    AGAIN,
    comparison_rows,
    effect_rows,
    share_rows,
)
from headwater.evaluation.counterfactual.plan import RemovalPlan
from headwater.evaluation.counterfactual.plots import plot_gone, plot_removals, plot_windows
from headwater.evaluation.counterfactual.regenerate import Window
from headwater.evaluation.counterfactual.study import Outcome
from headwater.evaluation.ground_truth.oracles import ORACLES
from headwater.evaluation.reporting.results import write_results
from headwater.evaluation.retraining.retrain import device_notes
from headwater.evaluation.studies.method_indexes import gradient_methods, methods_in
from headwater.queries.outputs.output import OUTPUTS
from headwater.report.sheets.contact_sheet import columns_sheet
from headwater.storage.files import read_tensors, remove_abandoned, slug, write_image

TILE = 192  # of sheets: how wide a picture is (prompts stand above them)

_ORACLE = (
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


def write_report(
    plan: RemovalPlan,
    outcomes: Mapping[str, Outcome],
    about: Mapping[str, Any],
    out: Path | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write tables, plots and sheets; the rows, and `results.json` of the folder.

    `compared/` holds each method against each baseline, `concepts/` the rows of each concept
    where there are several, `gone/` models by how much was gone of what shows and names the
    concept; `windows/` the same of the windows, if there are any.

    Args:
        out: the folder, if not the plan's.

    Raises:
        HeadwaterError: matplotlib is not there.
        StoreError: the folder cannot be written.
    """
    out = out or plan.out
    whole = Chapter(plan, outcomes, about, out)
    written = whole.write()
    whole.write_shares()
    if plan.windows:
        Chapter(plan, outcomes, about, out / "windows", plan.windows).write()
    for outcome in outcomes.values():
        path = out / "sheets" / f"{slug(outcome.prompts.concept)}.png"
        write_image(path, draw_sheet(plan, outcome))
    remove_abandoned(out / "sheets", plan.out / "shown")
    return written


@dataclass(frozen=True)
class Chapter:
    """One folder of the report: of whole pictures, or of windows of their making."""

    plan: RemovalPlan
    outcomes: Mapping[str, Outcome]
    about: Mapping[str, Any]
    out: Path
    windows: Sequence[Window] = ()

    @property
    def subject(self) -> str:
        """What it is about: the concept, or how many."""
        first, *more = self.outcomes
        return f"{len(self.outcomes)} concepts" if more else f"“{first}”"

    @property
    def title(self) -> str:
        """Of all its tables."""
        swapped = ", swapped for some steps" if self.windows else ""
        return f"Counterfactual: {self.subject}, {len(self.plan.data)} images{swapped}"

    def device_notes(self) -> list[str]:
        """Where the models were trained, if not all on one device."""
        removals = [r for outcome in self.outcomes.values() for r in outcome.removals.values()]
        return device_notes(self.plan.out, [task for r in removals for task in r.tasks])

    def notes(self, concepts: int) -> list[str]:
        """What a reader of the tables must know."""
        of_windows = [_SWAPPED] if self.windows else []
        return [*of_windows, *notes(self.plan, concepts), *self.device_notes()]

    def rows(
        self, rows_of: Callable[[Sequence[Outcome], str], Sequence[Mapping[str, Any]]], *of: Outcome
    ) -> list[dict[str, Any]]:
        """Rows of whole pictures, or for each window, which they name; of all concepts, or some."""
        outcomes = of or tuple(self.outcomes.values())
        if not self.windows:
            return [dict(row) for row in rows_of(outcomes, "")]
        return [
            {"window": str(window), **row}
            for window in self.windows
            for row in rows_of(outcomes, window_suffix(window))
        ]

    def write(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Tables and plots; the rows of the first table, and its `results.json`."""
        lines = self.notes(len(self.outcomes))
        table, against = self.rows(effect_rows), self.rows(comparison_rows)
        prompts = {concept: o.prompts.prompts for concept, o in self.outcomes.items()}
        written = write_results(self.out, self.title, self.about, table, lines, prompts=prompts)
        if len(self.outcomes) > 1:
            own = [
                {"concept": concept, **row}
                for concept, outcome in self.outcomes.items()
                for row in self.rows(effect_rows, outcome)
            ]
            heading = f"{self.title}, one by one"
            write_results(self.out / "concepts", heading, self.about, own, self.notes(1))
        if against:
            differs = "each number: the first method's less the other's, of the same pictures"
            heading = f"{self.title}: against baselines"
            write_results(self.out / "compared", heading, self.about, against, [differs, *lines])
        if len(self.windows) > 1:
            plot_windows(self.out, table, self.windows, max(self.plan.remove), self.subject)
        else:
            plot_removals(self.out, table, self.plan.remove, self.subject)
        return table, written

    def write_shares(self) -> None:
        """Models by how much was gone of what shows and names the concept."""
        outcomes = list(self.outcomes.values())
        shares = share_rows(outcomes)
        if shares:
            heading = f"{self.title}: by how much was gone"
            lines = [_SHARES, *self.device_notes()]
            write_results(self.out / "gone", heading, self.about, shares, lines)
            plot_gone(self.out / "gone.png", outcomes, self.subject)


# --- notes ----------------------------------------------------------------------------------------


def notes(plan: RemovalPlan, concepts: int) -> list[str]:
    """What a reader of the tables must know."""
    of = "concepts" if concepts > 1 else "prompts"
    beside = ": hold their l2 and Frechet distance against `random`"
    models = "one model" if plan.seeds == 1 else f"the mean of {plan.seeds} models"
    return [
        "of them show it: of the images taken out the share that show the concept; of all that "
        "show it, of all that show and name it: of the images that show it, and of those of them "
        "whose caption names it, the share that was taken out",
        f"rate: how sure the judge is that a picture shows the concept, over {plan.samples} "
        "prompts for each that name it; drop: the full model's rate less this one's, of the same "
        "prompts and seeds",
        "others' drop: the same of the other concepts that a prompt names, over these prompts and "
        "as many that do not name the concept",
        "l2: root of the sum of squared differences of a picture's pixels (0 to 1) from the full "
        "model's; elsewhere: for prompts that do not name the concept",
        f"Frechet: distance to the full model's pictures in {plan.classifier.space}; small samples "
        "lie further apart than their distributions do, so compare rows only",
        f"{AGAIN}: a model of all images from other first weights; a drop no larger than its own "
        "is no effect. Models with images taken out begin as the full one does"
        + (beside if "random" in plan.methods else ""),
        f"each number is of {models}; intervals: 95%, over {of}",
        *(f"{ORACLES[m].name}: {_ORACLE}" for m in plan.methods if m in ORACLES),
        *_gradient_notes(plan),
        *_base_notes(plan),
    ]


def _gradient_notes(plan: RemovalPlan) -> Iterator[str]:
    """What is asked, of which parameters gradients are, what else their indexes were given."""
    if plan.options.ask in OUTPUTS:
        asked = [m.name for m in methods_in(plan.methods) if plan.options.ask in m.takes]
        if asked:
            yield f"{', '.join(asked)}: asked for the {plan.options.ask}"
    for name, options in plan.recipes.items():
        if "parameters" in options:
            yield f"gradients of {name} are of {options['parameters']}"
        if more := [f"{key} {value}" for key, value in options.items() if key != "parameters"]:
            yield f"index of {name}: {', '.join(more)}"
    gradients = gradient_methods(plan.methods)
    usual = [name for name in gradients if "parameters" not in plan.recipes.get(name, {})]
    if usual:
        yield (
            f"gradients of {', '.join(usual)} are of what suits the model (the default of "
            "--parameters): its cross-attention, where it has any"
        )


def _base_notes(plan: RemovalPlan) -> Iterator[str]:
    """What retrained models know from elsewhere."""
    parts = {
        "network begins as": plan.config.network,
        "text encoder is": plan.config.text_encoder,
    }
    for part, changed in parts.items():
        if changed is None:
            yield (
                f"the {part} that of the base, {plan.config.base!r}: what it learned there, be "
                "it from the same images, is not taken out"
            )


# --- sheets ---------------------------------------------------------------------------------------


def draw_sheet(plan: RemovalPlan, outcome: Outcome) -> PIL.Image.Image:
    """Before and after: the full model's pictures, below them those of the models without.

    Of each method the model with most images taken out, of the first seed.
    """
    k, prompts = max(plan.remove), outcome.prompts
    before = outcome.before.read()[:SHEET_PICTURES]
    bands: list[tuple[str, Any]] = [
        (f"The full model: rate {outcome.full['rate'].mean():.2f}", before)
    ]
    for method in plan.methods:
        removal = outcome.removals[method, k]
        path = plan.out / "shown" / f"{removal.tasks[0].name}.safetensors"
        first = (read_tensors(path) or {}).get("whole")
        rate = removal.values["rate"].mean()
        bands.append((f"Without {k} images {_describe_choice(method)}: rate {rate:.2f}", first))
    count = min(SHEET_PICTURES, prompts.naming)
    return columns_sheet(
        prompts.prompts[:count],
        [(band, [[_image(pictures, i)] for i in range(count)]) for band, pictures in bands],
        title=f"Has the model forgotten “{prompts.concept}”?",
        subtitle="the same prompts and seeds in every row; rate: how sure the judge is that it "
        f"sees the concept, over {prompts.naming} prompts",
        tile=TILE,
    )


def _describe_choice(method: str) -> str:
    """By what the images were chosen that are gone."""
    if method in ORACLES:
        return ORACLES[method].chosen
    return "at random" if method == "random" else f"that {method} ranks highest"


def _image(pictures: Any, i: int) -> PIL.Image.Image | None:
    return None if pictures is None else PIL.Image.fromarray(pictures[i].permute(1, 2, 0).numpy())
