"""What is bundled of Stable Diffusion 1.5 and XL, by what is known of them."""

import pytest
import torch
from transformers import CLIPTokenizer

from headwater import Denoiser
from headwater.models.families.unets.sdxl import Sdxl
from headwater.models.loading.folders import pipeline_of_folder
from headwater.models.loading.outlines import _empty
from headwater.models.loading.single_files import description_of
from headwater.models.loading.weights import Unreadable

LAYER = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
LARGE = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"


def file_of(block, width):
    """The shapes that files are told by."""
    keys = {LAYER.format(block): torch.empty(320, width, device="meta")}
    return keys | ({LARGE: torch.empty(1280, device="meta")} if width == 2048 else {})


@pytest.fixture(scope="module")
def small():
    return description_of(file_of(1, 768), None)


@pytest.fixture(scope="module")
def large():
    return description_of(file_of(4, 2048), None)


def numbers(part):
    return sum(parameter.numel() for parameter in part.parameters())


def test_the_networks_have_the_published_sizes(small, large):
    """Numbers of their weights, as everyone who has loaded them counts them."""
    pipe, larger = (pipeline_of_folder(folder, _empty) for folder in (small, large))
    assert numbers(pipe.unet) == 859_520_964 and numbers(larger.unet) == 2_567_463_684
    assert numbers(pipe.vae) == numbers(larger.vae) == 83_653_863
    assert numbers(pipe.text_encoder) == numbers(larger.text_encoder) == 123_060_480
    assert numbers(larger.text_encoder_2) == 694_659_840
    one, two = Denoiser(pipe, device="meta"), Denoiser(larger, device="meta")
    assert one.image_size == (512, 512) and two.image_size == (1024, 1024)
    assert one.schedule.prediction == two.schedule.prediction == "epsilon"
    assert isinstance(two.family, Sdxl) and pipe.vae.config.scaling_factor == 0.18215
    # sqrt of 1 minus the product of 1 - beta: 0.0292 of the first step, 0.9977 of the last
    assert one.schedule.rates(0)[1] == pytest.approx(0.00085**0.5, rel=1e-4)
    assert one.schedule.rates(999)[0] == pytest.approx(0.00466**0.5, rel=1e-2)


def test_words_have_clips_numbers(small, large):
    """Those of "a photo of a cat"."""
    known = [49406, 320, 1125, 539, 320, 2368, 49407]
    for folder, part, padding in (
        (small, "tokenizer", 49407), (large, "tokenizer", 49407), (large, "tokenizer_2", 0),
    ):  # fmt: skip
        tokenizer = CLIPTokenizer.from_pretrained(folder / part)
        assert tokenizer("a photo of a cat").input_ids == known
        padded = tokenizer("A  photo of a cat", padding="max_length").input_ids
        assert padded == known + [padding] * 70 and tokenizer.model_max_length == 77


def test_other_models_are_not_taken_for_these():
    """Of other widths, or trained to predict something else."""
    for tensors in (file_of(1, 16), file_of(4, 2048) | {"v_pred": torch.empty(0)}):
        with pytest.raises(Unreadable, match="it has no configurations and tokenizers"):
            description_of(tensors, None)
