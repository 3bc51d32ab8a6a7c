"""Two models' pictures of the same prompts and seeds: what has changed?

A retrained model is measured against the full one by pictures that both made of the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from headwater.evaluation.counterfactual.regenerate import (
    ConceptPrompts,
    PictureFile,
    Pictures,
    Swap,
    Window,
    make_pictures,
)
from headwater.evaluation.ground_truth.classifiers import Classifier
from headwater.evaluation.metrics.frechet import frechet_distance
from headwater.evaluation.retraining.outputs import SAMPLER
from headwater.evaluation.retraining.retrain import Measured
from headwater.models.denoiser import Denoiser
from headwater.queries.prompts import contains
from headwater.storage.files import write_tensors

SHEET_PICTURES = 6  # of each retrained model that are kept, for sheets


def compare_pictures(
    classifier: Classifier, prompts: ConceptPrompts, now: Pictures, before: Pictures
) -> Measured:
    """What the classifier sees, and how far the pictures are from those of before.

    Returns lists, over prompts where nothing else is said:

    - `rate` of the concept, in prompts that name it;
    - `others`: the mean rate of the other concepts that a prompt names, over all prompts that name
      one;
    - `l2` between pictures from 0 to 1, a root of a sum over all pixels: prompts that name the
      concept; `l2 elsewhere`: those that do not;
    - `frechet`: one number, between the two sets of pictures whose prompts name the concept.
    """
    new, old = classifier(now.float() / 255), classifier(before.float() / 255)
    own = classifier.concepts.index(prompts.concept)
    named = others_named(classifier.concepts, prompts)
    some = named.any(1)
    others = (new.rates * named).sum(1)[some] / named.sum(1)[some]
    l2 = (now.float() - before.float()).div(255).flatten(1).norm(dim=1)
    n = prompts.naming
    features = [prediction.features[:n].double().numpy() for prediction in (new, old)]
    return {
        "rate": _short(new.rates[:n, own]),
        "others": _short(others),
        "l2": _short(l2[:n]),
        "l2 elsewhere": _short(l2[n:]),
        "frechet": [frechet_distance(*features)] if n > 1 else [],
    }


def others_named(concepts: Sequence[str], prompts: ConceptPrompts) -> Bool[Tensor, "n q"]:
    """Which concepts each prompt names.

    Without the one that is asked for, and those whose words are within its own or hold them.
    """
    own = prompts.concept
    apart = [not contains(other, own) and not contains(own, other) for other in concepts]
    return torch.tensor([
        [free and contains(prompt, other) for other, free in zip(concepts, apart, strict=True)]
        for prompt in prompts.prompts
    ])  # fmt: skip


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]


@dataclass(frozen=True)
class PictureChange:
    """A measure of a retrained model: how its pictures differ from the full model's.

    Attributes:
        before: the full model's pictures.
        full: folder of the full model, for the windows.
        sheets: folder for the first pictures of each model.
    """

    prompts: ConceptPrompts
    classifier: Classifier
    before: PictureFile
    full: Path
    sheets: Path
    windows: tuple[Window, ...] = ()

    def __call__(self, denoiser: Denoiser) -> Measured:
        """What has changed; again, under longer names, for each window."""
        before, now = self.before.read(), make_pictures(denoiser, self.prompts)
        first = {"whole": now[:SHEET_PICTURES]}
        changes = compare_pictures(self.classifier, self.prompts, now, before)
        full = Denoiser.load(self.full, denoiser.device) if self.windows else denoiser
        for window in self.windows:
            now = make_pictures(Swap(full, denoiser, window), self.prompts)
            first[str(window)] = now[:SHEET_PICTURES]
            of_window = compare_pictures(self.classifier, self.prompts, now, before)
            changes |= rename_for_window(window, of_window)
        write_tensors(self.sheets / f"{denoiser.source}.safetensors", first, {})
        return changes

    def facts(self) -> dict[str, Any]:
        """For the key of a study. The name of the pictures says what they are of."""
        return {
            **self.prompts.facts(),
            "steps": SAMPLER.steps,
            "guidance": SAMPLER.guidance,
            "judge": self.classifier.facts(),
            "before": self.before.name,
            "window": ",".join(map(str, self.windows)) or None,
        }


def rename_for_window(window: Window, measured: Measured) -> Measured:
    """The same under the names that it has for a window."""
    return {f"{name}{window_suffix(window)}": values for name, values in measured.items()}


def window_suffix(window: Window) -> str:
    """Of a measure's name: in which window a retrained model made pictures."""
    return f" in {window}"


def average_models(models: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Each list's mean over models that differ in their seed alone."""
    return {name: np.mean([m[name] for m in models], axis=0) for name in models[0]}
