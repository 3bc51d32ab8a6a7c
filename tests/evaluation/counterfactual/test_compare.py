"""What has changed between two models' pictures, by hand."""

import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from headwater.evaluation.counterfactual.compare import (
    PictureChange,
    compare_pictures,
    others_named,
)
from headwater.evaluation.counterfactual.regenerate import ConceptPrompts, PictureFile, Window
from headwater.evaluation.ground_truth.classifiers import (
    ClipClassifier,
    Prediction,
    ScenesClassifier,
)


def test_a_measure_goes_to_other_processes(tmp_path):
    for classifier in (ScenesClassifier(), ClipClassifier("clip", ("star",))):
        ask = ConceptPrompts("star", ("a star",), 1, (0,))
        before = PictureFile(tmp_path, (["ab12"], "None"), "star")
        measure = PictureChange(ask, classifier, before, tmp_path, tmp_path, (Window(400, 300),))
        assert pickle.loads(pickle.dumps(measure)) == measure


@dataclass(frozen=True)
class Reds:
    """A classifier that sees the means of red, green and blue."""

    concepts: tuple[str, ...] = ("red", "green", "dark green")
    space: str = "means"
    made: dict = field(default_factory=dict)

    def facts(self):
        return {"judge": "reds"}

    def __call__(self, pictures) -> Prediction:
        means = pictures.mean((2, 3))
        return Prediction(means, means)


ASK = ConceptPrompts(
    "red", ("red", "a red and green thing", "a thing", "dark green", "green"), 2, (0,) * 5
)


def test_others_are_what_else_a_prompt_names():
    assert others_named(Reds().concepts, ASK).tolist() == [
        [False, False, False],
        [False, True, False],
        [False, False, False],
        [False, True, True],
        [False, True, False],
    ]
    within = others_named(
        ("green", "dark green", "red"), ConceptPrompts("dark green", ("dark green red",), 1, (0,))
    )
    assert within.tolist() == [[False, False, True]]
    holding = others_named(
        ("green", "dark green"), ConceptPrompts("green", ("dark green",), 1, (0,))
    )
    assert holding.tolist() == [[False, False]]


def test_changes_by_hand():
    shape = (2, 5, 3, 4, 4)
    now, before = torch.randint(256, shape, dtype=torch.uint8).unbind()
    found = compare_pictures(Reds(), ASK, now, before)
    a, b = (each.double().numpy() / 255 for each in (now, before))
    assert found["rate"] == pytest.approx([a[0, 0].mean(), a[1, 0].mean()], rel=1e-5)
    green, blue = a[:, 1].mean((1, 2)), a[:, 2].mean((1, 2))
    assert found["others"] == pytest.approx(
        [green[1], (green[3] + blue[3]) / 2, green[4]], rel=1e-5
    )
    l2 = [np.sqrt(((a[i] - b[i]) ** 2).sum()) for i in range(5)]
    assert found["l2"] == pytest.approx(l2[:2], rel=1e-5)
    assert found["l2 elsewhere"] == pytest.approx(l2[2:], rel=1e-5)
    # two pictures each: covariances of rank one, d d^T with d half the difference, times two
    x, y = (each[:2].mean((2, 3)) for each in (a, b))
    d, e = (each[0] - each[1] for each in (x, y))
    spread = (d @ d + e @ e - 2 * abs(d @ e)) / 2
    exact = np.square(x.mean(0) - y.mean(0)).sum() + spread
    assert found["frechet"] == pytest.approx([exact], rel=1e-4)
    same = compare_pictures(Reds(), ASK, now, now)
    assert same["l2"] == [0, 0] and same["frechet"] == pytest.approx([0], abs=1e-9)
