"""The same prompts and seeds, by another model: which, in which windows, made once."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from support.tiny import tiny_pipeline

from headwater import Denoiser
from headwater.errors import ParameterError, StoreError
from headwater.evaluation.counterfactual import regenerate
from headwater.evaluation.counterfactual.regenerate import (
    ConceptPrompts,
    Swap,
    Window,
    cached_pictures,
    make_pictures,
    picture_file,
    prompts_for,
    read_windows,
    require_step,
    sample_swapped,
)
from headwater.evaluation.retraining.outputs import SamplerOptions, samples
from headwater.models.sampling import seeded_noise

CAPTIONS = ["a red star", "a star", "a fish", "a red fish", "", "starlit", "a star"]


def test_prompts_name_the_concept_or_do_not():
    found = prompts_for("star", "one star", CAPTIONS, 5)
    assert set(found.prompts[:5]) == {"a red star", "a star"} and found.naming == 5
    assert (
        set(found.prompts[5:]) == {"a fish", "a red fish", "starlit"} and len(found.prompts) == 10
    )
    assert set(found.prompts[:2]) == {"a red star", "a star"}  # none twice before all came once
    assert len(set(found.seeds)) == 10
    fewer, other = (
        prompts_for("star", "one star", CAPTIONS, 2),
        prompts_for("star", "one star", CAPTIONS, 5, 1),
    )
    assert fewer.prompts == found.prompts[:2] + found.prompts[5:7]
    assert fewer.seeds == found.seeds[:2] + found.seeds[5:7]
    assert not set(other.seeds) & set(found.seeds)
    bare = prompts_for("moon", "one moon", ["a star"], 2)
    assert bare.prompts == ("one moon", "one moon", "a star", "a star")
    assert prompts_for("star", "", ["a star"], 2).prompts == ("a star", "a star")


def test_windows():
    (window,) = read_windows("400:300")
    assert [t for t in range(0, 1000, 50) if t in window] == [350, 400]
    assert str(window) == "400:300"
    assert read_windows("400:300, 300:0,400:300") == [window, Window(300, 0)]
    for text in ("400", "a:b", ":", "-1:3", "", ",", "400:300,"):
        with pytest.raises(ParameterError, match="must be two timesteps, as in 400:300"):
            read_windows(text)
    for text in ("300:400", "340:320"):
        with pytest.raises(ParameterError, match="holds no step: pictures are made at 999, 949, "):
            require_step(*read_windows(text), 1000)
    with pytest.raises(ParameterError, match="pictures are made at 99, 94, "):
        require_step(window, 100)
    require_step(window, 1000)


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_model):
    """Two models with the same encoders."""
    other = tiny_pipeline(tmp_path_factory.mktemp("other") / "model", seed=1)
    return Denoiser.load(tiny_model), Denoiser.load(other)


def test_a_model_is_swapped_in_for_a_window_of_steps(two):
    """By diffusers' own sampler, step by step."""
    prompts, shape = ["a red star", "a fish"], (2, *two[0].latent_shape)
    noise = torch.stack([seeded_noise(shape[1:], "evaluation", seed) for seed in (0, 1)])

    def mixed(window):
        return sample_swapped(Swap(*two, window), noise, prompts, SamplerOptions(4, 3.0))

    same = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(
        mixed(Window(0, 0)), samples(two[0], prompts, sampler=SamplerOptions(4)), **same
    )
    torch.testing.assert_close(
        mixed(Window(999, 0)), samples(two[1], prompts, sampler=SamplerOptions(4)), **same
    )

    settings = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    scheduler = DDIMScheduler.from_config(two[0].pipe.scheduler.config, **settings)
    scheduler.set_timesteps(4)
    xt = noise
    for t in scheduler.timesteps.tolist():
        network = two[1 if t in (749, 499) else 0]
        c, empty = (network.encode_captions(texts) for texts in (prompts, ["", ""]))
        with torch.no_grad():
            free, own = (network.predict(xt, t, each) for each in (empty, c))
        xt = scheduler.step(free + 3 * (own - free), t, xt, eta=0.0).prev_sample
    found = mixed(Window(749, 249))
    torch.testing.assert_close(found, xt, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, mixed(Window(499, 249)), atol=1e-3)


def test_pictures_are_made_once(two, tmp_path, monkeypatch):
    prompts = ConceptPrompts("star", ("a red star", "a fish"), 1, (3, 4))
    first = cached_pictures(tmp_path, prompts, two[0])
    assert torch.equal(first.read(), make_pictures(two[0], prompts))
    swap = Swap(*two, Window(999, 400))
    mixed = cached_pictures(tmp_path, prompts, swap)
    assert not torch.equal(mixed.read(), first.read())
    other_seed = cached_pictures(tmp_path, replace(prompts, seeds=(3, 5)), two[0])
    other_model = cached_pictures(tmp_path, prompts, two[1])
    files = (first, mixed, other_seed, other_model)
    assert len({file.name for file in files}) == len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(regenerate, "make_pictures", None)
    assert cached_pictures(tmp_path, prompts, two[0]) == first
    assert cached_pictures(tmp_path, prompts, swap) == mixed


def test_pictures_that_are_gone(two, tmp_path):
    prompts = ConceptPrompts("star", ("a red star",), 1, (3,))
    file = picture_file(tmp_path, prompts, two[0])
    with pytest.raises(StoreError, match="the full model's pictures of 'star' are not in "):
        file.read()
