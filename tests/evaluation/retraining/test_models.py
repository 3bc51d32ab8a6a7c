"""Small models from a configuration, trained on some rows of a data set."""

from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from support.studies import captioned, encode_tiny, unconditional
from support.studies import data as data  # a fixture
from support.tiny import PIXELS

from headwater import Denoiser, from_images, load_dataset
from headwater.errors import ModelError
from headwater.evaluation.retraining import models
from headwater.evaluation.retraining.config import (
    CONTINUE,
    ModelConfig,
    Phase,
)
from headwater.evaluation.retraining.models import (
    EncodedData,
    denoising_loss,
    draw_batch,
    encode_data,
    reader,
    train,
)
from headwater.evaluation.retraining.networks import new_pipeline
from headwater.evaluation.retraining.weights import shapes_first
from headwater.models.schedule import preserving


def weights(pipe):
    return {name: value.clone() for name, value in pipe.unet.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def words(tiny_model, tiny_images):
    return encode_tiny(tiny_model, tiny_images)


def test_weights_come_from_the_seed_and_the_configuration(tiny_model):
    one, again, other = (new_pipeline(captioned(tiny_model), seed) for seed in (0, 0, 1))
    assert same(weights(one), weights(again)) and not same(weights(one), weights(other))
    own = Denoiser.load(tiny_model).pipe
    assert not same(weights(other), weights(own))
    kept = new_pipeline(captioned(tiny_model, network=None, text_encoder=None), 0)
    assert same(weights(kept), weights(own))
    assert same(kept.text_encoder.state_dict(), own.text_encoder.state_dict())
    wider = new_pipeline(captioned(tiny_model, network={"layers_per_block": 2}), 0)
    assert len(weights(wider)) > len(weights(one))


def test_a_data_set_is_encoded_with_its_captions(tiny_model, tiny_images, words):
    denoiser, images = Denoiser.load(tiny_model), load_dataset(str(tiny_images))
    torch.testing.assert_close(words.x0[7:8], denoiser.encode_images([images.image(7)]))
    assert words.texts == [*(sample.caption for sample in images.samples), ""]
    unread = Denoiser(new_pipeline(unconditional(), 0), device="cpu")
    assert encode_data(unread, images).captions is None


def test_training_repeats_itself_and_sees_only_its_rows(data, tmp_path):
    def trained(rows, seed, name, of=data):
        pipe = new_pipeline(unconditional(), 0)
        train(pipe, of.take(rows), unconditional(), tmp_path / name, seed=seed)
        return weights(pipe)

    first = trained([1, 2, 3], 0, "first")
    assert same(first, trained([1, 2, 3], 0, "again"))
    assert not same(first, trained([1, 2, 3], 1, "seed"))
    elsewhere = data.x0.clone()
    elsewhere[[0, 4, 5, 6, 7, 8, 9]] = 9.0  # rows that it must not see
    assert same(first, trained([1, 2, 3], 0, "other", EncodedData(elsewhere, None)))


def test_the_loss_is_that_of_the_rows_drawn(tiny_model, words):
    """By hand: x_t, the prediction under the captions drawn, the squared error, the weight."""
    config = captioned(tiny_model, caption_dropout=0.5, flip=True)
    phase = Phase(1, batch=6, weight="shapes-first")
    pipe = new_pipeline(config, 0)
    alpha_bar = pipe.scheduler.alphas_cumprod
    given = draw_batch(words, 1000, config, phase.batch, torch.Generator().manual_seed(5))
    denoiser = Denoiser(pipe, device="cpu")
    losses = [
        denoising_loss(denoiser, words, reader(denoiser, words, learns), phase.weight)(*given)
        for learns in (True, False)
    ]
    tokens = pipe.tokenizer(words.texts, padding="max_length", return_tensors="pt").input_ids
    chance = torch.Generator().manual_seed(5)
    rows = torch.randint(20, (6,), generator=chance)
    t = torch.randint(1000, (6,), generator=chance)
    eps = torch.randn(6, *words.x0.shape[1:], generator=chance)
    dropped, mirrored = (torch.rand(6, generator=chance) < 0.5 for _ in range(2))
    assert 0 < dropped.sum() < 6 and 0 < mirrored.sum() < 6
    total = 0.0
    for i in range(6):
        a = alpha_bar[t[i]]
        x0 = words.x0[rows[i]]
        xt = a.sqrt() * (x0.flip(-1) if mirrored[i] else x0) + (1 - a).sqrt() * eps[i]
        said = tokens[-1 if dropped[i] else int(rows[i])]
        caption = pipe.text_encoder(said[None])[0]
        error = (pipe.unet(xt[None], t[i], caption).sample[0] - eps[i]).square().mean()
        snr = a / (1 - a)
        total += min(1 / a, 5) * min(5 / snr, 1) * error / 6
    for ours in losses:  # by an encoder that learns, and by one that does not
        torch.testing.assert_close(ours, total, rtol=1e-4, atol=1e-6)
    assert losses[0].requires_grad
    assert shapes_first(preserving(torch.tensor([0.5]), "epsilon")).item() == pytest.approx(2.0)


def test_a_flow_transformer_is_made_around_a_base_and_learns_the_flow(tiny_model, words, tmp_path):
    """By hand: a straight path, the prompt as the pipeline encodes it, noise minus picture."""
    config = ModelConfig(
        (Phase(3, batch=4, weight="logit-normal"),),
        base=str(tiny_model),
        family="sd3",
        network={"num_layers": 1, "num_attention_heads": 2, "caption_projection_dim": 64},
        text_encoder=None,
    )
    pipe = new_pipeline(config, 0)
    own = Denoiser.load(tiny_model).pipe.text_encoder
    tokens = pipe.tokenizer([words.texts[0]], padding="max_length", return_tensors="pt").input_ids
    torch.testing.assert_close(pipe.text_encoder(tokens)[0], own(tokens).pooler_output)
    denoiser = Denoiser(pipe, device="cpu")
    given = draw_batch(words, 1000, config, 4, torch.Generator().manual_seed(5))
    ours = denoising_loss(denoiser, words, reader(denoiser, words, learns=False), "even")(*given)
    total = 0.0
    for row, t, eps, caption in zip(*given[:4], strict=True):
        sigma = (t + 1) / 1000
        encoded, _, pooled, _ = pipe.encode_prompt(
            words.texts[caption], None, None, do_classifier_free_guidance=False
        )
        xt = (1 - sigma) * words.x0[row] + sigma * eps
        flow = pipe.transformer(xt[None], encoded, pooled, 1000 * sigma[None]).sample[0]
        error = (flow - (eps - words.x0[row])).square().mean()
        total += error / 4
    torch.testing.assert_close(ours, total, rtol=1e-4, atol=1e-6)
    before = pipe.transformer.pos_embed.proj.weight.clone()
    train(pipe, words, config, tmp_path)
    assert not torch.equal(pipe.transformer.pos_embed.proj.weight, before)


def test_what_cannot_be_made_around_a_base(tiny_model, words):
    with pytest.raises(ValueError, match="text_encoder null"):
        captioned(tiny_model, family="sd3")
    with pytest.raises(ModelError, match="family 'sd4' is not one of sd3"):
        new_pipeline(captioned(tiny_model, family="sd4", text_encoder=None), 0)
    with pytest.raises(ModelError, match="text encoder of a StableDiffusion3Pipeline"):
        made = captioned(tiny_model, family="sd3", text_encoder=None)
        pipe = new_pipeline(made, 0)
        reader(Denoiser(pipe, device="cpu"), words, learns=True)


def test_of_several_captions_a_step_of_training_draws_one(tiny_model, data):
    """Each caption of its picture as often as the others, and no other picture's."""
    several = [["a star"], ["a fish", "a ring", "a blue fish"], ["a ring", "a house"]]
    images = [Image.new("RGB", (16, 16), name) for name in ("red", "green", "blue")]
    encoded = encode_data(Denoiser.load(tiny_model), from_images(images, several))
    config = captioned(tiny_model, caption_dropout=0.25)
    flat = [text for own in several for text in own] + [""]
    given = draw_batch(encoded, 1000, config, 4000, torch.Generator().manual_seed(0))
    drawn = Counter(zip(given.rows.tolist(), given.captions.tolist(), strict=True))
    for row, own in enumerate(several):
        for text in own:  # 1/3 of the rows, 3/4 of captions kept; six standard deviations
            share = 1000 / len(own)
            assert abs(drawn.pop((row, flat.index(text, sum(map(len, several[:row]))))) - share) < (
                6 * share**0.5
            )
    assert sum(drawn.values()) == (given.captions == 6).sum() and len(drawn) == 3
    taken = encoded.take([2, 0])
    assert taken.counts.tolist() == [2, 1]
    assert taken.texts == ["a ring", "a house", "a star", ""]


# What a network that is right says, of x0, noise and alpha_bar.
RIGHT = {
    "epsilon": lambda x0, eps, a: eps,
    "v_prediction": lambda x0, eps, a: a.sqrt() * eps - (1 - a).sqrt() * x0,
    "sample": lambda x0, eps, a: x0,
}


@pytest.mark.parametrize("kind", RIGHT)
def test_a_model_learns_what_its_scheduler_takes_it_to_say(data, kind, monkeypatch):
    """The target of training, read as a denoiser reads predictions, is the noise."""
    pipe = new_pipeline(unconditional(), 0)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    given = draw_batch(data, 1000, unconditional(), 4, torch.Generator().manual_seed(5))
    rows, t, eps, *_ = given
    alpha_bar = pipe.scheduler.alphas_cumprod
    a = alpha_bar[t].view(-1, 1, 1, 1)
    said = RIGHT[kind](data.x0[rows], eps, a)

    def network(xt, t, sample=said):
        return SimpleNamespace(sample=sample)

    monkeypatch.setattr(pipe.unet, "forward", network)
    denoiser = Denoiser(pipe, "", "cpu")
    assert denoising_loss(denoiser, data, lambda rows: None)(*given) < 1e-12
    xt = a.sqrt() * data.x0[rows] + (1 - a).sqrt() * eps
    for i, step in enumerate(t.tolist()):
        monkeypatch.setattr(pipe.unet, "forward", partial(network, sample=said[[i]]))
        implied = denoiser.schedule.noise(denoiser.predict(xt[[i]], step, None), xt[[i]], step)
        torch.testing.assert_close(implied, eps[[i]], rtol=1e-3, atol=1e-4)


def test_no_phase_sees_the_draws_of_another(data, tmp_path, monkeypatch):
    seen = []

    def noted(*given):
        seen.append(draw_batch(*given))
        return seen[-1]

    monkeypatch.setattr(models, "draw_batch", noted)
    config = ModelConfig((Phase(5, batch=4, stop=3), Phase(3, batch=4)), base="", network=PIXELS)
    train(new_pipeline(config, 0), data, config, tmp_path)
    assert len({tuple(eps.flatten().tolist()) for _, _, eps, *_ in seen}) == 6
    again = draw_batch(data, 1000, config, 4, torch.Generator().manual_seed(3))
    assert torch.equal(seen[3][2], again[2])  # the fourth step of all


def test_the_text_encoder_learns_only_if_it_is_to(tiny_model, words, tmp_path):
    own = Denoiser.load(tiny_model).pipe.text_encoder.state_dict()
    for text_encoder, begins, learns in (
        ({}, False, True),
        (CONTINUE, True, True),
        (None, True, False),
    ):
        config = captioned(tiny_model, text_encoder=text_encoder)
        pipe = new_pipeline(config, 0)
        before = {k: v.clone() for k, v in pipe.text_encoder.state_dict().items()}
        assert same(before, own) is begins
        train(pipe, words.take(range(20)), config, tmp_path / str(text_encoder))
        assert same(before, pipe.text_encoder.state_dict()) is not learns


def test_a_configuration_of_no_model():
    with pytest.raises(ModelError, match="no model can be made of the configuration's network"):
        new_pipeline(ModelConfig((Phase(1),), base="", network={"foo": 1}), 0)


def test_phases_follow_each_other(tmp_path, data):
    """Two of one name are two."""
    pipes = []
    for phases in ((Phase(3, batch=4),), (Phase(3, batch=4), Phase(3, batch=4))):
        config = ModelConfig(phases, base="", network=PIXELS)
        pipes.append(new_pipeline(config, 0))
        train(pipes[-1], data, config, tmp_path / str(len(phases)))
    assert not same(weights(pipes[0]), weights(pipes[1]))
