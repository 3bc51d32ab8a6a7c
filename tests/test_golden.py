"""Scores are what they were: those of `support/golden_scores.json`, made by commit 4ef4e86.

To a thousandth of the largest: processors of other kinds round otherwise, by up to 1.2e-4 of it.
Whoever moves them on purpose writes the file again (`python tests/support/golden.py FILE`) and says
in the same commit which numbers moved and why.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from support import golden

BEFORE = json.loads(Path(golden.__file__).with_name("golden_scores.json").read_text())


@pytest.mark.parametrize("built_for", golden.ASKED)
def test_scores_are_what_they_were(built_for, tmp_path):
    after = golden.golden_scores(built_for, tmp_path / "index")
    assert len(after) == len(golden.ASKED[built_for])
    for name, scores in after.items():
        largest = np.abs(BEFORE[name]).max()
        np.testing.assert_allclose(scores, BEFORE[name], rtol=0, atol=1e-3 * largest, err_msg=name)


def test_every_score_of_the_file_is_asked():
    asked = [
        f"{method}, {query.kind}" for pairs in golden.ASKED.values() for method, query in pairs
    ]
    assert sorted(asked) == sorted(BEFORE)
