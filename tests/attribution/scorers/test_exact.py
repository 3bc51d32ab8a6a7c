"""Influence without a projection: what rows that keep every number answer, model by model."""

import numpy as np
import pytest
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Denoiser, Image, Session, build_index, load_dataset
from headwater.queries.image import PictureDrawer

# each has its own trial, whose work must not count
pytestmark = pytest.mark.usefixtures("memory_is_tried")

DAMPINGS = [0.01, 1.0]
OPTIONS = dict(parameters=r"attn2\.to_v", projection="identity", timesteps=2)


@pytest.mark.parametrize("several", [False, True], ids=["one model", "two checkpoints"])
def test_it_is_the_dot_product_of_rows_that_keep_every_number(tmp_path, tiny_model, several):
    """To the precision of rows in float16, at each damping; of checkpoints the mean."""
    images = tiny_folder(tmp_path / "images", 6)
    other = [tiny_pipeline(tmp_path / "other", seed=1)] if several else []
    index = build_index(
        Denoiser.load(tiny_model), load_dataset(images), tmp_path / "index",
        method="ekfac", checkpoints=other, **OPTIONS,
    )  # fmt: skip
    session, query = Session(index), Image("a red star", images / "train-00003.png", draws=3)
    kept = session.attribute(query, method="ekfac", damping=DAMPINGS).sweep
    exact = session.attribute(query, method="ekfac-exact", damping=DAMPINGS).sweep
    for ratio in DAMPINGS:
        scale = np.abs(kept[ratio]).max()
        np.testing.assert_allclose(exact[ratio], kept[ratio], atol=3e-3 * scale, rtol=0)
        assert kept[ratio].std() > 0.05 * scale


@pytest.mark.parametrize("method", ["ekfac", "ekfac-exact"])
def test_several_dampings_are_one_pass_of_a_question(tmp_path, tiny_model, monkeypatch, method):
    """Each as it is alone; those that are kept are not made again."""
    images = tiny_folder(tmp_path / "images", 6)
    model, query = (
        Denoiser.load(tiny_model),
        Image("a red star", images / "train-00003.png", draws=3),
    )
    index = build_index(model, load_dataset(images), tmp_path / "index", method="ekfac", **OPTIONS)
    asked = []
    objectives = PictureDrawer.objectives

    def counted(drawer, extractor, draws):
        asked.append(list(draws))
        return objectives(drawer, extractor, draws)

    monkeypatch.setattr(PictureDrawer, "objectives", counted)
    Session(index).attribute(query, method=method, damping=[0.01])
    alone = list(asked)
    together = Session(index).attribute(query, method=method, damping=[0.01, 0.1, 1.0]).sweep
    assert asked[len(alone) :] == alone
    for ratio in (0.01, 0.1, 1.0):
        once = Session(index).attribute(query, method=method, damping=ratio, fresh=True).scores
        np.testing.assert_allclose(together[ratio], once, rtol=1e-5)
    assert abs(np.corrcoef(together[0.01], together[1.0])[0, 1]) < 0.9999
