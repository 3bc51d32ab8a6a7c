"""Activation checkpointing: the same rows, where blocks are computed again."""

import pytest
import torch
from support.tiny import tiny_pipeline
from support.tiny_cross import pixart
from support.tiny_joint import flux, sd3

from headwater import Denoiser, build_index, load_dataset
from headwater.errors import ParameterError
from headwater.features.batch import Batch
from headwater.index.config import plan
from headwater.index.machines import gradient_extractor
from headwater.models.patches import recomputed

BUILDERS = {"unet": tiny_pipeline, "sd3": sd3, "flux": flux, "pixart": pixart}


@pytest.fixture(scope="module", params=BUILDERS)
def denoiser(request, tmp_path_factory):
    return Denoiser.load(
        BUILDERS[request.param](tmp_path_factory.mktemp("recomputed") / "model"), resolution=16
    )


def rows(denoiser, method):
    torch.manual_seed(0)
    recipe = plan(denoiser, method=method, parameters="all", timesteps=2)
    x0, words = torch.randn(2, *denoiser.latent_shape), denoiser.encode_captions(["a", "b"])
    return gradient_extractor(denoiser, recipe).train_rows(Batch(x0, words, ["a", "b"])).features


@pytest.mark.parametrize("method", ["concept-trak", "trak"])
def test_rows_are_the_same(denoiser, method):
    """Of `dps` too, which passes backward twice; and blocks are computed more than once."""
    network, passes = denoiser.network, []
    block = next(m for m in network.modules() if hasattr(m, "attn2") or hasattr(m, "attn"))
    # before, since what is computed again ends where no more of it is needed
    handle = block.register_forward_pre_hook(lambda *_: passes.append(1))
    plain, once = rows(denoiser, method), len(passes)
    with recomputed(network):
        again = rows(denoiser, method)
    handle.remove()
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6 * plain.abs().max().item())
    assert len(passes) - once > once
    assert not any(getattr(m, "gradient_checkpointing", False) for m in network.modules())


def test_an_index_is_the_same(tmp_path, tiny_model, tiny_images):
    data, model = load_dataset(tiny_images).first(3), Denoiser.load(tiny_model)
    options = {"method": "concept-trak-unguided", "timesteps": 2, "dim": 16}
    one, two = (
        build_index(model, data, tmp_path / str(more), recompute=more, **options)
        for more in (False, True)
    )
    torch.testing.assert_close(*(torch.cat(list(index.blocks())) for index in (one, two)))


def test_a_network_that_has_no_such_way():
    with pytest.raises(ParameterError, match="--recompute is for networks of diffusers, and this"):
        with recomputed(torch.nn.Linear(2, 2)):
            pass
