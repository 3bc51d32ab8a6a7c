"""What scores are worth against a truth, by hand."""

import numpy as np
import pytest

from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.studies.retrieval import isolation_metrics, retrieval_metrics


def mask(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


#                    rank: 0123456789
TOY = Truth(
    "cat", "a cat, inked",
    shows=mask(          "x..x.x...."),
    ambiguous=mask(      ".x......x."),
    names=mask(          "xx.....x.."),
    others={"inked": mask("xxx......."), "small": mask("..........")},
)  # fmt: skip


def test_measures_by_hand():
    """Without the two ambiguous images: x . x . x . . . are shown, x and one false are named."""
    found = retrieval_metrics(TOY, -np.arange(10.0), k=4)
    assert found == pytest.approx({
        "precision@4": 2 / 4,  # ranks 0 2 3 4
        "precision@50": 3 / 8,
        "recall@4": 2 / 3,
        "capped recall@4": 2 / 3,
        "average precision": (1 / 1 + 2 / 3 + 3 / 5) / 3,
        "isolation": 2 / 4 - (2 / 4 + 0) / 2,
        "unnamed precision@4": 2 / 4,  # ranks 2 3 4 5
        "falsely named@4": 0,
    })  # fmt: skip
    assert retrieval_metrics(TOY, np.arange(10.0), k=3)["falsely named@3"] == 1 / 3
    assert isolation_metrics(TOY, -np.arange(10.0), k=4) == pytest.approx(
        {"precision@4": 1 / 2, "others@4": 1 / 4, "isolation": 1 / 4}
    )


def test_what_cannot_be_counted_is_none():
    alone = Truth("cat", "a cat", TOY.shows, TOY.ambiguous, TOY.shows, {})
    found = retrieval_metrics(alone, np.zeros(10), k=2)
    none = {name for name, value in found.items() if value is None}
    assert none == {"isolation", "unnamed precision@2", "falsely named@2"}
    assert isolation_metrics(alone, np.zeros(10), k=2)["isolation"] is None
