"""Wan against the pipeline's own call, of pictures and of videos."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from support.exact_gradients import layer_errors
from support.pipeline_calls import first_call
from support.tiny_cross import wan, wan_of_two

from headwater import Concept, Denoiser, build_index, load_dataset
from headwater.errors import ModelError
from headwater.features.batch import Batch
from headwater.features.objectives import image_objectives, prompt_objectives
from headwater.features.probes import ProbeSpec
from headwater.features.spec import Side
from headwater.models.families.cross.wan import Wan
from headwater.models.sampling import sample

PROMPT = "a red star"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return wan(tmp_path_factory.mktemp("wan") / "model")


@pytest.fixture(scope="module")
def denoiser(folder):
    return Denoiser.load(folder, resolution=16)


@pytest.mark.parametrize("frames, expand", [(1, False), (5, False), (5, True)])
@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_its_output_is_that_of_the_pipelines_own_call(tmp_path, frames, expand, prompt):
    """With a scheduler that does not round timesteps; 2.2 writes them out for each token."""
    denoiser = Denoiser.load(wan(tmp_path, expand_timesteps=expand), resolution=16)
    assert isinstance(denoiser.family, Wan) and denoiser.latent_shape == (4, 1, 8, 8)
    denoiser.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    size = {"height": 16, "width": 16, "num_frames": frames}
    given, out = first_call(denoiser.pipe, denoiser.network, prompt, guidance_scale=1.0, **size)
    assert set(given["timestep"].flatten().tolist()) == {1000}
    assert given["hidden_states"].shape == (1, 4, 1 + frames // 2, 8, 8)
    with torch.no_grad():
        ours = denoiser.predict(given["hidden_states"], 999, denoiser.encode_captions([prompt]))
    torch.testing.assert_close(ours, out, rtol=1e-5, atol=1e-6)


def test_a_prompt_makes_a_difference(denoiser):
    with torch.no_grad():
        xt = torch.randn(1, *denoiser.latent_shape).expand(2, -1, -1, -1, -1)
        with_words, without = denoiser.predict(xt, 499, denoiser.encode_captions([PROMPT, ""]))
    assert (with_words - without).abs().max() > 1e-3


def test_its_schedule_is_that_of_its_scheduler(denoiser):
    """UniPC's sigmas with their shift, of which the last but the first is left out."""
    scheduler = denoiser.pipe.scheduler
    scheduler.set_timesteps(999)
    ours = denoiser.schedule.s[1:].flip(0)
    torch.testing.assert_close(ours.float(), scheduler.sigmas[:-1], rtol=0, atol=2e-6)


def test_a_row_is_the_same_alone_and_in_a_batch(denoiser):
    condition = denoiser.encode_captions([PROMPT, "a fish on a wavy background", ""])
    xt = torch.randn(3, *denoiser.latent_shape)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        alone = [denoiser.predict(xt[[i]], 499, condition[[i]]) for i in range(3)]
    torch.testing.assert_close(rows, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_each_channel_has_its_own_mean_and_spread(denoiser):
    vae, pixels = denoiser.pipe.vae, torch.rand(1, 3, 16, 16) * 2 - 1
    mean, spread = (torch.tensor(each)[:, None, None, None]
                    for each in (vae.config.latents_mean, vae.config.latents_std))  # fmt: skip
    with torch.no_grad():
        exact = vae.encode(pixels[:, :, None]).latent_dist.mean
        ours = denoiser.family.to_latents(pixels)
        torch.testing.assert_close(ours, (exact - mean) / spread)
        back = denoiser.family.to_pixels(ours)
        torch.testing.assert_close(back, vae.decode(exact).sample[:, :, 0])


# --- videos ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch(denoiser):
    """Two videos of three latent frames."""
    captions = denoiser.encode_captions([PROMPT, "a fish"])
    return Batch(torch.randn(2, 4, 3, 8, 8), captions, ["a", "b"])


def test_gradients_of_videos_are_those_of_autograd(folder, batch):
    """To the network's own float32."""
    exact = Denoiser.load(folder, dtype=torch.float64, resolution=16)
    layers, condition = exact.layers("all"), batch.condition.to(dtype=torch.float64)
    errors = layer_errors(exact, layers, batch.x0.double(), 499, condition)
    assert max(errors.values()) <= 1e-6 and len(errors) == len(layers)


@pytest.mark.parametrize("path, delta", [("inversion", "dps"), ("noising", "dsm")])
def test_videos_are_asked_like_pictures(denoiser, batch, path, delta):
    """Of training videos and questions alike; a mask holds for every frame."""
    spec, mask = ProbeSpec((499, 999), 0), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    asked = list(image_objectives(denoiser, Side(path, delta), batch, spec, mask))
    assert len(asked) == 2
    for each in asked:
        assert each.delta.shape == each.out.shape == batch.x0.shape
        assert not each.delta[..., 4:].any() and each.delta[..., :4].flatten(3).any(3).all()


def test_a_prompt_is_asked_of_a_video(denoiser, batch):
    empty = denoiser.encode_captions(["", ""])
    asked = list(prompt_objectives(denoiser, batch, empty, ProbeSpec((499,), 0)))
    assert [each.delta.shape for each in asked] == [batch.x0.shape] and asked[0].delta.any()


def test_videos_are_made(denoiser, batch):
    x0 = sample(denoiser, batch.x0, batch.condition, steps=2)
    assert x0.shape == batch.x0.shape and x0.isfinite().all()


# --- two networks ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return Denoiser.load(wan_of_two(tmp_path_factory.mktemp("two") / "model"), resolution=16)


def test_each_network_is_asked_where_the_pipeline_asks_it(two):
    """At every step of its own call, with a scheduler that does not round timesteps."""
    ours = Denoiser.load(two.source, resolution=16)
    pipe, calls = ours.pipe, []
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)

    def note(part, args, given, out):
        calls.append((part is pipe.transformer, given, out[0]))

    for part in (pipe.transformer, pipe.transformer_2):
        part.register_forward_hook(note, with_kwargs=True)
    pipe(PROMPT, height=16, width=16, num_frames=1, guidance_scale=1.0, num_inference_steps=8)
    for high, given, exact in list(calls):
        ours.family.schedule().s[0] = given["timestep"].item() / 1000  # of a step of sampling
        with torch.no_grad():
            out = ours.predict(given["hidden_states"], 0, ours.encode_captions([PROMPT]))
        torch.testing.assert_close(out, exact, rtol=1e-5, atol=1e-6)
        assert calls[-1][0] == high
    assert {high for high, _, _ in calls} == {True, False}


@pytest.mark.parametrize("t, part", [(999, "high"), (9, "low")])
def test_gradients_of_each_are_those_of_autograd(two, t, part):
    """To the networks' own float32."""
    exact = Denoiser.load(two.source, dtype=torch.float64, resolution=16)
    xt = torch.randn(2, *exact.latent_shape).double()
    condition = exact.encode_captions([PROMPT, "a fish"])
    errors = layer_errors(exact, exact.layers("all"), xt, t, condition)
    assert max(errors.values()) <= 1e-6 and {name.split(".")[0] for name in errors} == {part}


def test_both_are_part_of_what_it_is(two):
    names = {name.split(".")[0] for name in two.layers()}
    assert names == {"high", "low"} and two.default_parameters() == "words"
    before = Denoiser(two.pipe, resolution=16).fingerprint()
    two.pipe.register_to_config(boundary_ratio=0.5)
    assert Denoiser(two.pipe, resolution=16).fingerprint() != before
    two.pipe.register_to_config(boundary_ratio=0.875)


def test_layers_of_one_alone_are_asked(two, tiny_images, tmp_path):
    """Probes of the other's noise bring nothing, and do no harm."""
    data = load_dataset(tiny_images).first(3)
    options = {"timesteps": 4, "dim": 64, "parameters": r"^high\..*\.attn2\."}
    options |= {"method": "concept-trak-unguided"}
    index = build_index(two, data, tmp_path / "index", **options)
    answer = index.attribute(Concept(PROMPT, "star", draws=2, context="prompt"))
    assert answer.scores.std() > 0


# --- which layers, and what is refused ------------------------------------------------------------


def test_words_are_keys_and_values_of_attention_to_them(denoiser):
    assert denoiser.default_parameters() == "words"
    assert set(denoiser.layers()) == {f"blocks.0.attn2.to_{x}" for x in "kv"}
    attention = set(denoiser.layers("attention"))
    assert {name.split(".")[2] for name in attention} == {"attn1", "attn2"}
    assert attention < set(denoiser.layers("all"))


def test_its_own_size_is_the_pipelines(folder):
    assert Denoiser.load(folder).image_size == (480, 832)


def test_what_reads_a_picture_too_is_refused(tmp_path):
    reason = "its transformer reads more than the noisy latents"
    with pytest.raises(ModelError, match=f"^WanPipeline is not supported: {reason}"):
        Denoiser.load(wan(tmp_path, in_channels=8))


def test_diffusion_without_flow_is_refused(denoiser):
    from diffusers import UniPCMultistepScheduler

    pipe = Denoiser.load(denoiser.source).pipe
    pipe.scheduler = UniPCMultistepScheduler()
    with pytest.raises(ModelError, match="its scheduler is a UniPCMultistepScheduler: give it"):
        Denoiser(pipe)
