"""Take out the images that a method names, train again: has the model forgotten the concept?

The model of everything is trained and attributed; for each method, concept and k another is trained
without the method's k highest images, and makes the same pictures again (das.txt Fig. 1,
journey-trak.txt 5.3 and 5.5). A second model of everything, with another seed, says how much
trainings differ when nothing is taken out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from headwater.errors import QueryError
from headwater.evaluation.counterfactual.compare import Again, compared, inside, mean_over
from headwater.evaluation.counterfactual.plan import Setting, check, removals
from headwater.evaluation.counterfactual.regenerate import (
    Asked,
    asked,
    kept,
    read_pictures,
    require_step,
)
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.ground_truth.oracles import KNOWN, shuffled
from headwater.evaluation.metrics.retrieval import best, recall_at
from headwater.evaluation.retraining.models import new_pipeline
from headwater.evaluation.retraining.retrain import (
    Measured,
    Study,
    Task,
    all_retrained,
    retrained,
    study_of,
)
from headwater.evaluation.studies.lds import NO_PROMPTS
from headwater.evaluation.studies.method_indexes import indexes_of, of_gradients
from headwater.evaluation.studies.method_scores import scores
from headwater.index.index import Index
from headwater.methods import Method
from headwater.models.denoiser import Denoiser

# What was measured of the models of one concept, means over seeds: name -> values.
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """What became of one concept.

    Attributes:
        before: file of the full model's pictures.
        full: of the full model, `again` of the other one; `removed` by (method, k).
        share: by (method, k), the share of the removed images that show the concept; ambiguous ones
            are left out, and where nothing else was removed there is no share.
        gone: the share of the images that show it which are removed.
        gone_named: of those whose caption names it too; None where there are none.
        tasks: the models that were retrained.
    """

    ask: Asked
    before: Path
    full: Values
    again: Values
    removed: Mapping[tuple[str, int], Values]
    share: Mapping[tuple[str, int], float | None]
    gone: Mapping[tuple[str, int], float]
    gone_named: Mapping[tuple[str, int], float | None]
    tasks: Mapping[tuple[str, int], Sequence[Task]]


# --- models and what is measured of them ----------------------------------------------------------


def nothing(denoiser: Denoiser) -> Measured:
    """The full models' pictures are made when it is known of what."""
    return {}


def outcomes(setting: Setting) -> dict[str, Outcome]:
    """Train what is missing; what became of each concept.

    Raises:
        MethodError, ParameterError, QueryError: see `check`.
        ModelError: the model reads no prompts.
        MismatchError: the folder holds models of something else.
    """
    check(setting)
    base = Denoiser(new_pipeline(setting.config, 0), "", "cpu")
    if not base.conditional:
        raise QueryError(NO_PROMPTS)
    for name in of_gradients(setting.methods):  # refused before anything is trained
        base.layers(setting.parameters.get(name))
    for window in setting.windows:
        require_step(window, len(base.alpha_bar))
    of_all = study_of(setting.out, setting.config, setting.data, base, nothing, {}, setting.device)
    retrained(of_all, setting.full, setting.engine)
    full, again = (Denoiser.load(of_all.model(task), setting.device) for task in setting.full)
    found = every_score(setting, full)
    bar = tqdm(setting.truths, desc="concepts", unit="concept", delay=2)
    plans = [
        _planned(
            setting, of_all, full, again, truth, {name: rows[i] for name, rows in found.items()}
        )
        for i, truth in enumerate(bar)
    ]
    measured = all_retrained([(plan.study, plan.models()) for plan in plans], setting.engine)
    return {
        plan.truth.concept: _outcome(plan, each) for plan, each in zip(plans, measured, strict=True)
    }


@dataclass(frozen=True)
class _Planned:
    """One concept before anything is taken out: see `Outcome`, and what is to be trained."""

    truth: Truth
    found: Mapping[str, Float[np.ndarray, " n"]]
    ask: Asked
    before: Path
    full: Values
    again: Values
    study: Study
    tasks: Mapping[tuple[str, int], Sequence[Task]]

    def models(self) -> list[Task]:
        return [task for each in self.tasks.values() for task in each]


def _planned(
    setting: Setting,
    study: Study,
    full: Denoiser,
    again: Denoiser,
    truth: Truth,
    found: Mapping[str, Float[np.ndarray, " n"]],
) -> _Planned:
    captions = [sample.caption for sample in setting.data.samples]
    ask = asked(truth.concept, truth.prompt, captions, setting.samples, setting.asking.seed)
    before = kept(setting.out / "pictures", ask, full)
    measure = Again(
        ask, setting.judge, before, Path(full.source), setting.out / "shown", tuple(setting.windows)
    )
    return _Planned(
        truth,
        found,
        ask,
        before,
        *_undisturbed(setting, ask, before, full, again),
        replace(study, measure=measure, measured=measure.facts()),
        removals(truth.concept, found, setting.remove, setting.seeds),
    )


def _undisturbed(
    setting: Setting, ask: Asked, before: Path, full: Denoiser, again: Denoiser
) -> tuple[Values, Values]:
    """The same measures of the two models of everything."""
    folder, old = setting.out / "pictures", read_pictures(before)
    nothing_changed = compared(setting.judge, ask, old, old)
    own = dict(nothing_changed)
    other = compared(setting.judge, ask, read_pictures(kept(folder, ask, again)), old)
    for window in setting.windows:
        mixed = read_pictures(kept(folder, ask, full, again, window))
        other |= inside(window, compared(setting.judge, ask, mixed, old))
        own |= inside(window, nothing_changed)
    return mean_over([own]), mean_over([other])


def _outcome(plan: _Planned, measured: Sequence[Measured]) -> Outcome:
    truth, tasks, found, each = plan.truth, plan.tasks, plan.found, iter(measured)
    named = truth.shows & truth.names
    return Outcome(
        plan.ask,
        plan.before,
        plan.full,
        plan.again,
        {key: mean_over([next(each) for _ in models]) for key, models in tasks.items()},
        {(m, k): _share(truth, best(found[m], k)) for m, k in tasks},
        {(m, k): recall_at(found[m], truth.shows, k) for m, k in tasks},
        {(m, k): recall_at(found[m], named, k) if named.any() else None for m, k in tasks},
        tasks,
    )


def _share(truth: Truth, removed: Int[np.ndarray, " k"]) -> float | None:
    known = removed[~truth.ambiguous[removed]]
    return float(truth.shows[known].mean()) if len(known) else None


# --- scores ---------------------------------------------------------------------------------------


def every_score(setting: Setting, full: Denoiser) -> dict[str, Float[np.ndarray, "q n"]]:
    """What each method scores every image for every concept; asked of indexes of the full model."""
    truths = list(setting.truths)
    names = [name for name in setting.methods if name not in KNOWN]
    folder, given = setting.out / "indexes", setting.parameters
    indexes: dict[Method, Index] = {}
    for name in names:
        recipe = {"parameters": given[name]} if name in given else {}
        indexes |= indexes_of(full, setting.data, folder, [name], clip=setting.clip, **recipe)
    found = scores(indexes, truths, setting.asking, setting.out / "scores") if names else {}
    for name, known in KNOWN.items():
        found[name] = shuffled(known.scores(truths), setting.asking.seed)
    return {name: found[name] for name in setting.methods}
