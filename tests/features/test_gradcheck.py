"""The self-check passes on sound models, and names what is wrong with others."""

import pytest
import torch
from support.tiny_joint import z_image
from torch import nn

from headwater import Denoiser, build_index, load_dataset
from headwater.errors import SelfCheckError
from headwater.features import gradcheck
from headwater.features.gradcheck import self_check
from headwater.gradients.parameters import left_out

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
WORDS = ["a red star", "a fish"]


def checked(denoiser, parameters="attn2"):
    x0 = torch.randn(2, *denoiser.latent_shape)
    condition = denoiser.encode_captions(WORDS)
    return self_check(denoiser, denoiser.layers(parameters), x0, condition)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parameters", ["attn2", "all"])
def test_a_good_model_passes_and_is_left_as_it_was(tiny_model, parameters, dtype):
    denoiser = Denoiser.load(tiny_model, dtype=dtype)
    before = denoiser.fingerprint()
    said = checked(denoiser, parameters)
    assert said.startswith(f"self-check: {len(denoiser.layers(parameters))} layers exact")
    assert all(p.requires_grad and p.dtype == dtype for p in denoiser.network.parameters())
    denoiser._fingerprint = None
    assert denoiser.fingerprint() == before


class Doubled(nn.Linear):
    """Uses its weight once more than it is called."""

    def forward(self, x):
        return super().forward(x) + x @ self.weight.T


def test_a_layer_that_is_not_what_it_seems_is_named(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    layer = denoiser.network.get_submodule(LAYER)
    layer.__class__ = Doubled
    with pytest.raises(SelfCheckError, match=f"layer {LAYER} is not what autograd finds"):
        checked(denoiser)


def test_samples_that_see_each_other_are_noticed(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    block = denoiser.network.mid_block

    def mixed(module, args, out):
        return out + out.mean(0, keepdim=True)

    block.register_forward_hook(mixed)
    with pytest.raises(SelfCheckError, match="not what autograd finds"):
        checked(denoiser)


def test_a_precision_that_is_too_low_is_named(tiny_model):
    denoiser = Denoiser.load(tiny_model, dtype=torch.float16)

    def coarse(module, args, out):  # what two bits would hold
        return out.sign() * out.abs().detach().ceil() if out.dtype == torch.float16 else out

    denoiser.network.conv_in.register_forward_hook(coarse)
    with pytest.raises(SelfCheckError, match=r"in float16 are off by .* --dtype float32"):
        checked(denoiser)


def test_it_runs_before_a_long_run_only(tmp_path, tiny_model, tiny_images, monkeypatch):
    from headwater.index.building import one_model

    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images)
    options = {"method": "trak", "timesteps": 2, "dim": 64}
    monkeypatch.setattr(one_model, "WORTH_IT", 40)
    denoiser.network.get_submodule(LAYER).__class__ = Doubled
    build_index(denoiser, data.first(19), tmp_path / "short", **options)
    build_index(denoiser, data, tmp_path / "off", self_check=False, **options)
    with pytest.raises(SelfCheckError):
        build_index(denoiser, data, tmp_path / "long", **options)
    assert not (tmp_path / "long").exists()


def test_what_no_layer_attributes_is_said_with_its_share(tmp_path):
    """Of the gradients' norm, here by autograd to every parameter at once."""
    denoiser = Denoiser.load(z_image(tmp_path), torch.device("cpu"), torch.float64, resolution=16)
    torch.manual_seed(0)
    said = checked(denoiser, "all")
    torch.manual_seed(0)
    x0 = torch.randn(2, *denoiser.latent_shape)
    xt, t, c, delta = gradcheck._asked(denoiser, x0, denoiser.encode_captions(WORDS))
    assert c is not None
    lost = {part.name for part in left_out(denoiser.network, mixed=denoiser.family.mixed)}
    squares = {True: 0.0, False: 0.0}
    weights = dict(denoiser.network.named_parameters())
    for i in range(2):
        out = denoiser.predict(xt[[i]], t, c[[i]])
        found = torch.autograd.grad(out, list(weights.values()), delta[[i]], allow_unused=True)
        for name, gradient in zip(weights, found, strict=True):
            if gradient is not None:
                among = name in lost or name.rpartition(".")[0] in lost
                squares[among] += gradient.square().sum().item()
    share = (squares[True] / sum(squares.values())) ** 0.5
    assert 0.01 < share < 0.99
    named = "left out: 592 numbers (x_pad_token, cap_pad_token, ...)"
    assert said.endswith(f"; {named}, {share:.1%} of the gradient's norm")
    assert "left out" not in checked(denoiser, "attention")


def test_a_layer_without_gradients_is_named(tiny_model, monkeypatch):
    """As experts are, in networks that route without gradients."""
    denoiser = Denoiser.load(tiny_model)
    inner = LAYER.rpartition(".")[0]
    kind = type(denoiser.network.get_submodule(inner))
    monkeypatch.setattr(kind, "forward", torch.no_grad()(kind.forward))
    with pytest.raises(SelfCheckError, match=r"computes layer .*\.to_\w+ under torch\.no_grad"):
        checked(denoiser)
