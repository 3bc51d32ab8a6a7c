"""Flux.1 against the pipeline's own call: packed latents, places, and the guidance it reads."""

import pytest
import torch
from support.pipeline_calls import first_call
from support.tiny_joint import flux

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.models.families.flows import packed, unpacked
from headwater.models.families.joint.flux import GUIDANCE, Flux

PROMPT = "a red star"


@pytest.fixture(scope="module", params=[True, False], ids=["dev", "schnell"])
def denoiser(request, tmp_path_factory):
    folder = flux(tmp_path_factory.mktemp("flux") / "model", guided=request.param)
    return Denoiser.load(folder, resolution=16)


def test_its_output_is_that_of_the_pipelines_own_call(denoiser):
    assert isinstance(denoiser.family, Flux) and denoiser.latent_shape == (4, 8, 8)
    pipe = denoiser.pipe
    given, out = first_call(
        pipe, denoiser.network, PROMPT, height=16, width=16, guidance_scale=GUIDANCE
    )
    assert given["timestep"].tolist() == [1]
    xt = pipe._unpack_latents(given["hidden_states"], 16, 16, 2)
    with torch.no_grad():
        ours = denoiser.predict(xt, 999, denoiser.encode_captions([PROMPT]))
    torch.testing.assert_close(ours, pipe._unpack_latents(out, 16, 16, 2), rtol=1e-5, atol=1e-6)


def test_packing_is_the_pipelines_and_undone(denoiser):
    """Of a picture that is wider than high; each latent comes back to its own place."""
    xt, pipe = torch.randn(2, 4, 8, 6), denoiser.pipe
    tokens, places = packed(xt, 2)
    assert torch.equal(tokens, pipe._pack_latents(xt, 2, 4, 8, 6))
    assert torch.equal(places, pipe._prepare_latent_image_ids(2, 4, 3, xt.device, xt.dtype))
    assert torch.equal(unpacked(tokens, xt, 2), xt)


def test_the_guidance_it_reads_is_part_of_the_model(denoiser, monkeypatch):
    guided = denoiser.network.config.guidance_embeds
    assert denoiser.family.network_facts() == ({"guidance": GUIDANCE} if guided else {})
    before = Denoiser(denoiser.pipe, resolution=16).fingerprint()
    monkeypatch.setattr("headwater.models.families.joint.flux.GUIDANCE", 1.0)
    assert (Denoiser(denoiser.pipe, resolution=16).fingerprint() != before) == guided


def test_words_are_those_of_the_double_blocks(denoiser):
    """Single blocks read words and picture as one."""
    assert set(denoiser.layers()) == {f"transformer_blocks.0.attn.add_{x}_proj" for x in "kv"}
    assert any(name.startswith("single") for name in denoiser.layers("attention"))


def test_its_own_size_is_the_pipelines(denoiser):
    assert Denoiser(denoiser.pipe).image_size == (256, 256)  # 128 latents of two pixels


def test_it_is_told_another_guidance(denoiser):
    """As the pipeline tells it."""
    pipe = denoiser.pipe
    if not denoiser.network.config.guidance_embeds:
        with pytest.raises(
            ModelError, match=r"^--distilled-guidance 1.0 is for pipelines whose network"
        ):
            Denoiser(pipe, resolution=16, distilled_guidance=1)
        return
    told = Denoiser(pipe, resolution=16, distilled_guidance=1)
    given, out = first_call(pipe, told.network, PROMPT, height=16, width=16, guidance_scale=1.0)
    xt = pipe._unpack_latents(given["hidden_states"], 16, 16, 2)
    with torch.no_grad():
        ours = told.predict(xt, 999, told.encode_captions([PROMPT]))
        usual = denoiser.predict(xt, 999, told.encode_captions([PROMPT]))
    torch.testing.assert_close(ours, pipe._unpack_latents(out, 16, 16, 2), rtol=1e-5, atol=1e-6)
    assert (ours - usual).abs().max() > 1e-5
    assert (
        told.family.network_facts() == {"guidance": 1.0} and told.options["distilled_guidance"] == 1
    )
    assert told.fingerprint() != denoiser.fingerprint()
