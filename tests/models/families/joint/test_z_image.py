"""Z-Image against the pipeline's own call: lists, time turned around, prompts of any length."""

import diffusers
import peft
import pytest
import torch
from support.pipeline_calls import first_call
from support.tiny_joint import z_image
from support.tiny_language import LIMIT

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.gradients.parameters import left_out
from headwater.index.building.notes import notes_on_parameters
from headwater.index.config import plan
from headwater.models.families.joint.z_image import ZImage

PROMPT = "a red star"
LONG = "a large red star beside a small blue fish on a plain background and a yellow triangle"


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(z_image(tmp_path_factory.mktemp("z-image") / "model"), resolution=16)


def test_its_output_is_that_of_the_pipelines_own_call(denoiser):
    """Both halves, of pure noise, where sampling begins: there its time is 0."""
    assert isinstance(denoiser.family, ZImage) and denoiser.latent_shape == (4, 8, 8)
    calls = first_call(
        denoiser.pipe, denoiser.network, PROMPT, height=16, width=16, max_sequence_length=LIMIT
    )
    given, out = calls
    assert given[1].tolist() == [0, 0]
    xt = torch.stack(given[0])[:, :, 0]
    with torch.no_grad():
        ours = denoiser.predict(xt, 999, denoiser.encode_captions([PROMPT, ""]))
    torch.testing.assert_close(ours, -torch.stack(out)[:, :, 0], rtol=1e-5, atol=1e-6)
    assert (ours[0] - ours[1]).abs().max() > 1e-4


def test_a_row_says_the_same_in_every_batch(denoiser):
    """Prompts of several lengths, one of them beyond what 32 tokens hold."""
    condition = denoiser.encode_captions([PROMPT, "", LONG])
    counts = condition.tensors["mask"].sum(1)
    assert counts[2] > 32 > counts[0] > counts[1]
    xt = torch.randn(3, *denoiser.latent_shape)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        for i in range(3):
            alone = denoiser.predict(xt[i : i + 1], 499, condition[[i]])
            torch.testing.assert_close(rows[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_time_is_turned_around(denoiser):
    """At a timestep in between: 1 - sigma."""
    xt, condition = torch.randn(1, *denoiser.latent_shape), denoiser.encode_captions([PROMPT])
    words = condition.tensors["words"][condition.tensors["mask"]]
    with torch.no_grad():
        ours = denoiser.predict(xt, 299, condition)
        time = 1 - denoiser.schedule.s[[299]].float()
        exact = denoiser.network([xt[0][:, None]], time, [words]).sample[0][:, 0]
    torch.testing.assert_close(ours[0], -exact)


def test_words_are_refined_apart(denoiser):
    assert denoiser.default_parameters() == "words"
    assert all(name.startswith("context_refiner.0.") for name in denoiser.layers())
    attention = denoiser.layers("attention")
    parts = {name.partition(".attention.")[0] for name in attention}
    assert parts == {"noise_refiner.0", "context_refiner.0", "layers.0"}


def test_what_takes_a_batch_as_one_sequence_is_left_out(denoiser):
    lost = left_out(denoiser.network, mixed=denoiser.family.mixed)
    assert {part.name for part in lost} == {
        "all_x_embedder.2-1", "cap_embedder.0", "cap_embedder.1", "x_pad_token", "cap_pad_token",
    }  # fmt: skip
    assert not {part.name for part in lost} & set(denoiser.layers("all"))


def test_adapters_of_those_are_left_out_too(tmp_path):
    """And an index says so."""
    denoiser = Denoiser.load(z_image(tmp_path), resolution=16)
    wanted = peft.LoraConfig(r=2, target_modules=["to_q", "cap_embedder.1"])
    denoiser.network.add_adapter(wanted)
    assert len(denoiser.layers("lora")) == 2 * 3
    recipe = plan(denoiser, parameters="lora")
    assert notes_on_parameters(denoiser, recipe, {"parameters": "lora"})[1:] == [
        "--parameters lora leaves out 2 layers that take a batch as one sequence, such as "
        "cap_embedder.1.lora_A.default"
    ]


def test_the_omni_pipeline_is_refused(denoiser):
    """Its call hands the network more than one picture, where this one's hands it lists."""
    siglip, own = torch.nn.Linear(2, 2), denoiser.pipe.components
    pipe = diffusers.ZImageOmniPipeline(**own, siglip=siglip, siglip_processor=None)
    with pytest.raises(ModelError, match="ZImageOmniPipeline is not supported: it has a siglip"):
        Denoiser(pipe)


def test_its_own_size_is_the_pipelines(denoiser):
    assert Denoiser(denoiser.pipe).image_size == (256, 256)  # 128 latents of two pixels


def test_what_a_long_prompt_loses_counts_the_template(denoiser):
    """`user` and its marks go before the prompt: what is said to be read is, and no word more."""
    long = "a" + " red" * LIMIT
    read, lost = denoiser.cut_prompts([long])[long]
    assert read + lost == long and denoiser.cut_prompts([read]) == {}
    prompts = [long, f"{read} fish", f"{read.removesuffix(' red')} fish"]
    rows = denoiser.encode_captions(prompts).tensors["words"]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_a_new_word_is_read_in_its_place(denoiser):
    words = denoiser.family.words
    with words.reader("<new>", words.initial(" star")) as read:
        ours = read(["a red<new>"])
    exact = words.encode([PROMPT])
    torch.testing.assert_close(ours.tensors["words"], exact.tensors["words"])
    assert torch.equal(ours.tensors["mask"], exact.tensors["mask"])
