"""The bundled model is an ordinary pipeline, small, and as good as its card says (in small)."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from headwater import Denoiser
from headwater.evaluation.retraining.bundled import draw_pictures, stack_images
from headwater.models.loading.hub import BUNDLED_MODEL
from headwater.models.sampling import sample, seeded_noise
from headwater.scenes.classifier import load_classifier
from headwater.scenes.dataset import describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES


def accuracy(read, shown):
    return {
        a: sum(v == p.scene.attributes[a] for v, p in zip(read[a], shown, strict=True)) / len(shown)
        for a in ATTRIBUTES
    }


def test_it_is_small_and_safe():
    files = [path for path in BUNDLED_MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}


def test_it_loads_like_any_other():
    pipe = DiffusionPipeline.from_pretrained(str(BUNDLED_MODEL))
    assert isinstance(pipe, StableDiffusionPipeline)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red star", num_inference_steps=3).images[0]
    assert image.size == (64, 64)


def test_the_judge_reads_held_out_pictures():
    shown = pictures("validation")[:300]
    for attribute, rate in accuracy(load_classifier().read(draw_pictures(shown)), shown).items():
        assert rate >= 0.99, attribute


@pytest.mark.parametrize("split, bound", [("train", 0.85), ("unseen", 0.8)])
def test_samples_show_what_the_prompt_says(split, bound):
    """In six steps already: more of them bring nothing that the classifier sees."""
    denoiser = Denoiser.load("scenes")
    shown = pictures(split)[:40]
    captions = [describe(**p.scene.attributes) for p in shown]
    shape = denoiser.latent_shape
    noise = torch.stack([seeded_noise(shape, 0, "test", i) for i in range(40)])
    condition = denoiser.encode_captions(captions)
    free = denoiser.encode_captions([""] * 40)
    drawn = denoiser.decode(sample(denoiser, noise, condition, free, steps=6, guidance=3.0))
    for attribute, rate in accuracy(load_classifier().read(stack_images(drawn)), shown).items():
        assert rate >= bound, attribute


def test_the_card_is_there():
    assert (
        "python -m headwater.evaluation.retraining.bundled"
        in (Path(BUNDLED_MODEL) / "README.md").read_text()
    )
