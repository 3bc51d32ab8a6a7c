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
    GUIDANCE,
    STEPS,
    Asked,
    Pictures,
    Window,
    made,
    made_with,
    read_pictures,
)
from headwater.evaluation.ground_truth.classifiers import Judge
from headwater.evaluation.metrics.frechet import frechet_distance
from headwater.evaluation.retraining.retrain import Measured
from headwater.models.denoiser import Denoiser
from headwater.queries.prompts import contains
from headwater.storage.files import write_tensors

SHOWN = 6  # pictures of each retrained model that are kept, for sheets


def compared(judge: Judge, ask: Asked, now: Pictures, before: Pictures) -> Measured:
    """What the judge sees, and how far the pictures are from those of before.

    Returns lists, over prompts where nothing else is said:

    - `rate` of the concept, in prompts that name it;
    - `others`: the mean rate of the other concepts that a prompt names, over all prompts that name
      one;
    - `l2` between pictures from 0 to 1, a root of a sum over all pixels: prompts that name the
      concept; `l2 elsewhere`: those that do not;
    - `frechet`: one number, between the two sets of pictures whose prompts name the concept.
    """
    seen, old = judge(now.float() / 255), judge(before.float() / 255)
    own = judge.concepts.index(ask.concept)
    named = others_named(judge.concepts, ask)
    there = named.any(1)
    others = (seen.rates * named).sum(1)[there] / named.sum(1)[there]
    l2 = (now.float() - before.float()).div(255).flatten(1).norm(dim=1)
    n = ask.naming
    features = [each.features[:n].double().numpy() for each in (seen, old)]
    return {
        "rate": _short(seen.rates[:n, own]),
        "others": _short(others),
        "l2": _short(l2[:n]),
        "l2 elsewhere": _short(l2[n:]),
        "frechet": [frechet_distance(*features)] if n > 1 else [],
    }


def others_named(concepts: Sequence[str], ask: Asked) -> Bool[Tensor, "n q"]:
    """Which concepts each prompt names.

    Without the one that is asked for, and those whose words are within its own or hold them.
    """
    apart = [
        not contains(each, ask.concept) and not contains(ask.concept, each) for each in concepts
    ]
    return torch.tensor([
        [free and contains(prompt, each) for each, free in zip(concepts, apart, strict=True)]
        for prompt in ask.prompts
    ])  # fmt: skip


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]


@dataclass(frozen=True)
class Again:
    """A measure of a retrained model: the full model's pictures, made again.

    Attributes:
        before: file of the full model's pictures; see `kept`.
        full: folder of the full model, for the windows.
        shown: folder for the first pictures of each model.
    """

    ask: Asked
    judge: Judge
    before: Path
    full: Path
    shown: Path
    windows: tuple[Window, ...] = ()

    def __call__(self, denoiser: Denoiser) -> Measured:
        """What has changed; again, under longer names, for each window."""
        before, now = read_pictures(self.before), made(denoiser, self.ask)
        shown = {"whole": now[:SHOWN]}
        found = compared(self.judge, self.ask, now, before)
        full = Denoiser.load(self.full, denoiser.device) if self.windows else denoiser
        for window in self.windows:
            now = made_with(full, denoiser, window, self.ask)
            shown[str(window)] = now[:SHOWN]
            found |= inside(window, compared(self.judge, self.ask, now, before))
        write_tensors(self.shown / f"{denoiser.source}.safetensors", shown, {})
        return found

    def facts(self) -> dict[str, Any]:
        """For the key of a study. The file's name says what it holds."""
        return {
            **vars(self.ask),
            "steps": STEPS,
            "guidance": GUIDANCE,
            "judge": self.judge.facts(),
            "before": self.before.name,
            "window": ",".join(map(str, self.windows)) or None,
        }


def inside(window: Window, measured: Measured) -> Measured:
    """The same under the names that it has for a window."""
    return {f"{name}{ending(window)}": values for name, values in measured.items()}


def ending(window: Window) -> str:
    """Of a measure's name: in which window a retrained model made pictures."""
    return f" in {window}"


def mean_over(models: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Each list's mean over models that differ in their seed alone."""
    return {name: np.mean([each[name] for each in models], axis=0) for name in models[0]}
