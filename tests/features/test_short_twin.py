"""Copies of large networks: shorter, by the same names, and checked as the whole would be."""

import copy
from functools import partial

import pytest
import torch
from support.tiny import tiny_pipeline
from support.tiny_cross import pixart
from support.tiny_joint import sd3, z_image
from support.tiny_unets import sdxl
from torch import nn

from headwater import Denoiser
from headwater.errors import SelfCheckError
from headwater.features import gradcheck
from headwater.features.short_twin import short_twin
from headwater.gradients.layers import attributable

BUILDERS = {
    "sd3": partial(sd3, layers=4),
    "z-image": z_image,
    "pixart": pixart,
    "sdxl": sdxl,
    "unet": tiny_pipeline,
}


@pytest.fixture
def short(monkeypatch):
    """The check takes every network for a large one."""
    monkeypatch.setattr(gradcheck, "short_twin", partial(short_twin, large=0))


def checked(denoiser, layers):
    x0 = torch.randn(2, *denoiser.latent_shape)
    condition = denoiser.encode_captions(["a red star", "a fish"])
    return gradcheck.self_check(denoiser, layers, x0, condition)


def test_a_small_network_is_copied_whole():
    network = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    twin = short_twin(network)
    assert len(twin) == 2 and twin[0].weight is not network[0].weight


def test_lists_that_are_walked_side_by_side_stay():
    lists = {"resnets": 2, "attentions": 2, "transformer_blocks": 1, "down_blocks": 2}
    network = nn.ModuleDict({
        name: nn.ModuleList([nn.Linear(2, 3 if name == "down_blocks" and i else 2) for i in (0, 1)])
        for name in lists
    })  # fmt: skip
    twin = short_twin(network, 0)
    assert {name: len(part) for name, part in twin.items()} == lists
    assert all(len(part) == 2 for part in network.values())  # itself it leaves alone


@pytest.mark.parametrize("name", BUILDERS)
def test_the_check_passes_on_one(name, short, tmp_path):
    denoiser = Denoiser.load(BUILDERS[name](tmp_path / "model"), resolution=16)
    layers = denoiser.layers("all")
    twin = short_twin(denoiser.network, 0)
    there = dict(attributable(twin)).keys() & layers.keys()
    said = checked(denoiser, layers)
    assert said.startswith(f"self-check: {len(there)} layers exact")
    if name == "sd3":
        assert {each.split(".")[1] for each in there if each.startswith("transformer_b")} == set(
            "03"
        )


def test_the_share_of_what_is_left_out_is_that_of_these_blocks(short, tmp_path):
    denoiser = Denoiser.load(z_image(tmp_path / "model"), resolution=16)
    denoiser.network.layers.append(copy.deepcopy(denoiser.network.layers[0]))
    assert checked(denoiser, denoiser.layers("all")).endswith("in the first block of each kind")


def test_a_layer_that_is_wrong_in_every_block_is_named(short, tmp_path):
    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(x) + x @ self.weight.T

    denoiser = Denoiser.load(sd3(tmp_path / "model"))
    for block in denoiser.network.transformer_blocks:
        block.attn.to_q.__class__ = Doubled
    with pytest.raises(SelfCheckError, match=r"layer transformer_blocks\.0\.attn\.to_q is not"):
        checked(denoiser, denoiser.layers("attention"))


def test_layers_of_later_blocks_alone(short, tmp_path):
    denoiser = Denoiser.load(sd3(tmp_path / "model", layers=3))
    layers = denoiser.layers(r"^transformer_blocks\.1\.")
    assert checked(denoiser, layers).startswith("self-check left out: none of these layers")
