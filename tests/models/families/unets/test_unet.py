"""What pipelines around a UNet are refused and why, and what its patches say and leave behind."""

import diffusers
import jaxtyping
import pytest
import torch
from support.conditions import words_of
from support.tiny import tiny_pipeline, tiny_unconditional
from support.tiny_cross import compressing_autoencoder
from support.tiny_parts import quantising_autoencoder, unet
from support.tiny_unets import sdxl
from torch import nn

from headwater import Denoiser
from headwater.errors import ModelError, ParameterError
from headwater.models.families.gates import gates_apart
from headwater.models.patches import swapped_forwards
from headwater.scenes.dataset import pictures

CAPTIONS = ["a red star", "a fish on a wavy background"]


@pytest.fixture
def pipe(tiny_model):
    return Denoiser.load(tiny_model).pipe


def parts(pipe, *names):
    return {name: getattr(pipe, name) for name in names}


def wanting(tmp_path, **changes):
    return Denoiser.load(tiny_pipeline(tmp_path / "model", **changes)).pipe


# --- refused --------------------------------------------------------------------------------------

# Settings of a UNet that ask for one more input, as the model of that name has them.
MORE_INPUTS = {
    "Kolors": (
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 4,
         "projection_class_embeddings_input_dim": 40},
        "wants more than the prompt's encoding .*: addition_embed_type is 'text_time'",
    ),
    "DeepFloyd IF": (
        {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 16},
        "wants an encoding that is projected first .*: encoder_hid_dim_type is 'text_proj'",
    ),
    "upscaler": ({"num_class_embeds": 4}, "wants a class label: num_class_embeds is 4"),
    "GLIGEN": ({"attention_type": "gated"}, "wants boxes: attention_type is 'gated'"),
    "no size": ({"sample_size": None}, "configuration has no sample_size: write the size"),
    "inpainting": ({"in_channels": 9}, "reads more than the noisy latents"),
    "other variances": ({"out_channels": 5}, "reads 4 channels and predicts 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE_INPUTS)
def test_networks_that_want_more_than_latents_and_a_prompt(tmp_path, name):
    changes, reason = MORE_INPUTS[name]
    with pytest.raises(ModelError, match=f"^StableDiffusionPipeline is not supported: .*{reason}"):
        wanting(tmp_path, **changes)


def refused(pipe, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        Denoiser(pipe)
    assert "\n" not in str(caught.value)


def test_control_networks(pipe):
    own = parts(pipe, "vae", "text_encoder", "tokenizer", "unet", "scheduler")
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    control = diffusers.ControlNetModel.from_unet(
        pipe.unet, conditioning_embedding_out_channels=(4, 4)
    )
    controlled = diffusers.StableDiffusionControlNetPipeline(**own, controlnet=control, **none)
    refused(controlled, "StableDiffusionControlNetPipeline is not supported: it has a controlnet")
    adapter = diffusers.T2IAdapter(channels=[8, 8], num_res_blocks=1, downscale_factor=2)
    adapted = diffusers.StableDiffusionAdapterPipeline(**own, adapter=adapter, **none)
    refused(adapted, "StableDiffusionAdapterPipeline is not supported: it has a adapter")


def test_kandinsky(pipe):
    """Its network was trained on encodings of the pictures themselves."""
    wants = {"addition_embed_type": "image", "encoder_hid_dim_type": "image_proj"}
    network = unet(**wants, encoder_hid_dim=16)
    rest = {"scheduler": pipe.scheduler, "movq": quantising_autoencoder()}
    refused(
        diffusers.KandinskyV22Pipeline(unet=network, **rest),
        r"its network wants more than the prompt's encoding \(.* images\): .* is 'image'",
    )


def test_an_autoencoder_of_another_kind(pipe):
    pipe.vae = compressing_autoencoder()
    refused(pipe, "its autoencoder is a AutoencoderDC, not one of AutoencoderKL, AutoencoderTiny")


def test_pictures_in_the_place_of_prompts(pipe):
    own = parts(pipe, "vae", "unet", "scheduler")
    none = {"image_encoder": None, "safety_checker": None, "feature_extractor": None}
    varied = diffusers.StableDiffusionImageVariationPipeline(
        **own, **none, requires_safety_checker=False
    )
    refused(varied, "reads an encoding that no text encoder and tokenizer of it make")


def test_pixels_of_six_channels(tmp_path):
    unet = Denoiser.load(tiny_unconditional(tmp_path)).pipe.unet
    six = type(unet).from_config({**unet.config, "in_channels": 6})
    refused(
        diffusers.DDPMPipeline(six, diffusers.DDPMScheduler()),
        "DDPMPipeline is not supported: its network reads 6 channels and there is no autoencoder",
    )


def test_what_is_no_pipeline(pipe):
    refused("models/mine", r"'models/mine' is a name, .*: give Denoiser\.load\('models/mine'\)")
    refused(pipe.unet, "UNet2DConditionModel is a network, not a pipeline: give the pipeline")
    refused(None, "NoneType is not supported: headwater takes diffusers pipelines of the families")


@pytest.fixture
def unchecked():
    """Types are checked during tests; whoever calls us has nothing of that."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_pipelines_and_types_in_the_wrong_place(unchecked, pipe, tiny_model):
    with pytest.raises(ModelError, match=r"StableDiffusionPipeline is no name .* Denoiser\(pipe\)"):
        Denoiser.load(pipe)
    for call in (lambda dtype: Denoiser.load(tiny_model, dtype=dtype),
                 lambda dtype: Denoiser(pipe, dtype=dtype)):  # fmt: skip
        with pytest.raises(ParameterError, match=r"dtype 'float16' is a str: give torch\.float16"):
            call("float16")
        with pytest.raises(ParameterError, match=r"dtype torch\.int8 is no floating-point type"):
            call(torch.int8)


def test_flow_matching_has_no_alpha_bar(pipe):
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    refused(pipe, "FlowMatchEulerDiscreteScheduler has no alphas_cumprod: give the pipeline a")


# --- taken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Img2Img", "Inpaint"])
@pytest.mark.parametrize("family", ["StableDiffusion", "StableDiffusionXL"])
def test_pipelines_that_begin_with_a_picture(tiny_model, tmp_path, family, kind):
    """Around a network of four channels they hold the model that draws from nothing."""
    larger = family == "StableDiffusionXL"
    plain = Denoiser.load(sdxl(tmp_path) if larger else tiny_model)
    parts = {name: part for name, part in plain.pipe.components.items() if name != "image_encoder"}
    none = {"add_watermarker": False} if larger else {"requires_safety_checker": False}
    changing = Denoiser(getattr(diffusers, f"{family}{kind}Pipeline")(**parts, **none))
    assert changing.fingerprint() == plain.fingerprint()
    xt = torch.randn(2, *plain.latent_shape)
    ours, exact = (
        each.predict(xt, 499, each.encode_captions(["", CAPTIONS[0]])) for each in (changing, plain)
    )
    assert torch.equal(ours, exact)


def test_a_small_autoencoder_is_the_pipelines_own(pipe):
    """Both ways, against what the class itself computes."""
    pipe.vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip
    denoiser = Denoiser(pipe)
    picture = pictures("validation")[0].draw()
    x0 = denoiser.encode_images([picture])
    assert denoiser.image_size == (16, 16) and x0.shape == (1, 4, 8, 8)
    processor = diffusers.image_processor.VaeImageProcessor(vae_scale_factor=2)
    with torch.no_grad():
        small = picture.resize((16, 16), resample=3)
        exact = pipe.vae.encode(processor.preprocess(small)).latents
        pixels = pipe.vae.decode(x0).sample
    torch.testing.assert_close(x0, exact, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(denoiser.pixels(x0), (pixels / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("limit", [10**30, 512])
def test_a_tokenizer_without_a_limit_takes_the_text_encoders(tiny_model, pipe, limit):
    pipe.tokenizer.model_max_length = limit
    limited, own = Denoiser(pipe), Denoiser.load(tiny_model)
    long = ["a red star " * 30]
    assert torch.equal(*(words_of(each.encode_captions(long)) for each in (limited, own)))
    assert limited.cut_prompts(long) == own.cut_prompts(long) != {}
    assert pipe.tokenizer.model_max_length == limit  # the user's own stays as it was
    assert limited.fingerprint() == own.fingerprint()


def test_the_default_parameters_are_what_the_model_has(tiny_model, tmp_path):
    assert Denoiser.load(tiny_model).default_parameters() == "attn2"
    free = Denoiser.load(tiny_unconditional(tmp_path / "free"))
    assert free.default_parameters() == "attn"
    kinds = {name.partition(".attentions.")[2].partition(".")[2] for name in free.layers()}
    assert kinds == {"group_norm", "to_q", "to_k", "to_v", "to_out.0"}
    plain = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    without = Denoiser(diffusers.DDPMPipeline(plain, diffusers.DDPMScheduler()))
    assert without.default_parameters() == "all"


# --- patches --------------------------------------------------------------------------------------


def test_value_and_gate_apart_say_the_same_and_leave_nothing_behind(tiny_model):
    denoiser = Denoiser.load(tiny_model, dtype=torch.float64)
    network, t = denoiser.network, 499
    xt, condition = torch.randn(2, 4, 8, 8).double(), denoiser.encode_captions(CAPTIONS)
    gates = [module for module in network.modules() if type(module).__name__ == "GEGLU"]
    with torch.no_grad():
        whole = denoiser.predict(xt, t, condition)
        with swapped_forwards(gates_apart(network, [gates[0].proj])):
            assert ["forward" in vars(gate) for gate in gates] == [False] + [True] * len(gates[1:])
            apart = denoiser.predict(xt, t, condition)
    torch.testing.assert_close(apart, whole, rtol=1e-10, atol=1e-12)
    assert len(gates) > 1 and not any("forward" in vars(gate) for gate in gates)


def test_keys_and_values_of_captions_are_what_is_kept(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    kept = list(denoiser.family.kept_projections(denoiser.network))
    assert kept == list(denoiser.layers("attn2-kv").values())
    assert all(type(layer) is nn.Linear for layer in kept)


def test_sets_are_named_by_meaning_too(tiny_model, tmp_path):
    """And a network that reads no words has none."""
    denoiser = Denoiser.load(tiny_model)
    assert denoiser.layers("words") == denoiser.layers("attn2-kv")
    assert denoiser.layers("attention") == denoiser.layers("attn")
    assert denoiser.default_parameters() == "attn2"
    with pytest.raises(ParameterError, match="'words' matches no layer"):
        Denoiser.load(tiny_unconditional(tmp_path)).layers("words")
