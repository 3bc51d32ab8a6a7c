"""What became of a concept: the share of what was taken out that shows it."""

import numpy as np
import pytest

from headwater.evaluation.counterfactual.study import share_showing
from headwater.evaluation.ground_truth.concepts import Truth


def test_ambiguous_images_are_in_no_share():
    shows, ambiguous = np.arange(30) % 3 == 0, np.arange(30) % 3 == 1
    truth = Truth("cat", "a cat", shows, ambiguous, shows, {})
    assert share_showing(truth, np.array([0, 1, 2, 4, 5, 7])) == pytest.approx(1 / 3)
    assert share_showing(truth, np.array([1, 4])) is None
