"""Studies of the smallest models, by few gradients: these tests are about what is written."""

from functools import partial

import pytest

from headwater.evaluation.retraining.outputs import NoiseSpec
from headwater.evaluation.studies import lds, method_indexes
from headwater.index.build import build_index
from headwater.methods.table import METHODS


@pytest.fixture(scope="module", autouse=True)
def _few_timesteps():
    """Of gradients, and of losses that they are held against."""

    def build(*args, method, **recipe):
        train = METHODS[method].train
        few = {"timesteps": 2, "dim": 64} if train is not None and train.gradient else {}
        return build_index(*args, method=method, **few | recipe)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method_indexes, "build_index", build)
        patch.setattr(lds, "Losses", partial(lds.Losses, noise=NoiseSpec(2, 2)))
        yield
