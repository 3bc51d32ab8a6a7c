"""Effects with their intervals, by hand."""

from pathlib import Path

import numpy as np
import pytest

from headwater.evaluation.counterfactual.compare import average_models
from headwater.evaluation.counterfactual.effects import (
    comparison_rows,
    effect_rows,
    pooled_interval,
    share_rows,
)
from headwater.evaluation.counterfactual.regenerate import ConceptPrompts, PictureFile
from headwater.evaluation.counterfactual.study import Outcome, Removal
from headwater.evaluation.metrics.intervals import Interval


def measured(rate, others, l2=0.0):
    return average_models([{
        "rate": rate, "others": others, "l2": [l2] * len(rate), "l2 elsewhere": [l2 / 2],
        "frechet": [l2 * 10],
    }])  # fmt: skip


def outcome(full, method, random, other=None, named=0.2):
    others = [0.5, 0.6, 0.7]
    prompts = ConceptPrompts("red", ("red",) * len(full), len(full), tuple(range(len(full))))
    return Outcome(
        prompts,
        PictureFile(Path("no file is read"), (), "red"),
        measured(full, others),
        measured(full, others, 0.1),
        {
            ("das", 5): Removal((), measured(method, other or others, 3.0), 0.75, 0.5, 0.6),
            ("random", 5): Removal((), measured(random, others), 0.25, 0.1, named),
        },
    )


def test_effects_of_several_concepts_have_intervals_over_concepts():
    found = [
        outcome([0.9, 0.8], [0.1, 0.2], [0.9, 0.6], [0.4, 0.4, 0.4]),
        outcome([0.6, 1.0], [0.5, 0.5], [0.6, 1.0], named=None),  # no caption names it
    ]
    table = effect_rows(found)
    assert [row["method"] for row in table] == ["the full model", "another seed", "das", "random"]
    full, again, das, random = table
    assert full["rate"].mean == pytest.approx((0.85 + 0.8) / 2) and full["rate"].n == 2
    assert again["drop"][:3] == pytest.approx((0, 0, 0)) and again["l2"].mean == pytest.approx(0.1)
    assert das["drop"].mean == pytest.approx((0.7 + 0.3) / 2)
    half = 12.706 * 0.2  # Student's t with one degree of freedom; drops of 0.3 and 0.7
    assert (das["drop"].low, das["drop"].high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-3)
    assert das["others' drop"].mean == pytest.approx(0.2 / 2)
    assert (das["of them show it"], das["of all that show it"]) == (0.75, 0.5)
    column = "of all that show and name it"
    assert (das[column], random[column], full[column]) == (0.6, 0.2, None)
    assert effect_rows(found[1:])[3][column] is None
    few, most = share_rows(found)  # 0.2 of the first concept; 0.6 twice, of das
    assert (few["gone"], few["models"]) == ("0 to 0.25", 1)
    assert few["drop"] == few["least"] == few["most"] == pytest.approx(0.1)
    assert (most["gone"], most["models"]) == ("0.5 to 0.75", 2)
    assert [most[name] for name in ("drop", "least", "most")] == pytest.approx([0.5, 0.3, 0.7])
    assert share_rows([outcome([1.0], [0.2], [0.9], named=1.0)])[1]["gone"] == "0.9 to 1"
    assert das["Frechet"].mean == pytest.approx(30)
    assert random["drop"].mean == pytest.approx(0.05)
    (more,) = comparison_rows(found)
    assert (more["method"], more["more than"], more["removed"]) == ("das", "random", 5)
    assert more["drop"].mean == pytest.approx((0.6 + 0.3) / 2)


def test_effects_of_one_concept_have_intervals_over_prompts():
    found = [outcome([0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.3, 0.2], [0.8, 0.7, 0.6, 0.5])]
    das = effect_rows(found)[2]
    assert das["rate"].mean == pytest.approx(0.35) and das["rate"].low < 0.35 < das["rate"].high
    # rates differ from prompt to prompt, the drop does not: it is paired
    assert das["drop"] == pytest.approx((0.4, 0.4, 0.4, 4)) and das["drop"].n == 4
    assert das["Frechet"] == pytest.approx(30) and not isinstance(das["Frechet"], Interval)
    assert comparison_rows(found)[0]["drop"].mean == pytest.approx(0.3)
    assert pooled_interval([np.array([])]) is None
