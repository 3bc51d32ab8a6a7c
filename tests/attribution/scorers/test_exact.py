"""Influence without a projection: what rows that keep every number answer, model by model."""

import numpy as np
import pytest
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Denoiser, Image, Session, build_index, load_dataset

DAMPINGS = [0.01, 1.0]


@pytest.mark.parametrize("several", [False, True], ids=["one model", "two checkpoints"])
def test_it_is_the_dot_product_of_rows_that_keep_every_number(tmp_path, tiny_model, several):
    """To the precision of rows in float16, at each damping; of checkpoints the mean."""
    images = tiny_folder(tmp_path / "images", 6)
    other = [tiny_pipeline(tmp_path / "other", seed=1)] if several else []
    options = dict(parameters=r"attn2\.to_v", projection="identity", timesteps=2)
    index = build_index(
        Denoiser.load(tiny_model), load_dataset(images), tmp_path / "index",
        method="ekfac", checkpoints=other, **options,
    )  # fmt: skip
    session, query = Session(index), Image("a red star", images / "train-00003.png", draws=3)
    kept = session.attribute(query, method="ekfac", damping=DAMPINGS).sweep
    exact = session.attribute(query, method="ekfac-exact", damping=DAMPINGS).sweep
    for ratio in DAMPINGS:
        scale = np.abs(kept[ratio]).max()
        np.testing.assert_allclose(exact[ratio], kept[ratio], atol=3e-3 * scale, rtol=0)
        assert kept[ratio].std() > 0.05 * scale
