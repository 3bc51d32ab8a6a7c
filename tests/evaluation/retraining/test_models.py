"""Small models from a configuration, trained on some rows; what each leaves."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from support.studies import captioned, mean_weight, study, unconditional
from support.tiny import PIXELS, tiny_pipeline

from headwater import Denoiser, load_dataset
from headwater.errors import MismatchError, ModelError
from headwater.evaluation.retraining import models
from headwater.evaluation.retraining.config import (
    CONTINUE,
    ModelConfig,
    Phase,
    read_config,
    shapes_first,
)
from headwater.evaluation.retraining.models import (
    TARGETS,
    Encoded,
    denoising_loss,
    drawn,
    encoded,
    new_pipeline,
    tokens_of,
    train,
)
from headwater.evaluation.retraining.outputs import denoising_losses, samples
from headwater.evaluation.retraining.retrain import (
    Task,
    all_retrained,
    kept_encoding,
    retrained,
    study_of,
)
from headwater.models.sampling import seeded_noise


def weights(pipe):
    return {name: value.clone() for name, value in pipe.unet.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def words(tiny_model, tiny_images):
    return encoded(Denoiser.load(tiny_model), load_dataset(str(tiny_images)))


def test_weights_come_from_the_seed_and_the_configuration(tiny_model):
    one, again, other = (new_pipeline(captioned(tiny_model), seed) for seed in (0, 0, 1))
    assert same(weights(one), weights(again)) and not same(weights(one), weights(other))
    own = Denoiser.load(tiny_model).pipe
    assert not same(weights(other), weights(own))
    kept = new_pipeline(captioned(tiny_model, unet=None, text_encoder=None), 0)
    assert same(weights(kept), weights(own))
    assert same(kept.text_encoder.state_dict(), own.text_encoder.state_dict())
    wider = new_pipeline(captioned(tiny_model, unet={"layers_per_block": 2}), 0)
    assert len(weights(wider)) > len(weights(one))


def test_a_data_set_is_encoded_with_the_empty_caption_last(tiny_model, tiny_images, words):
    denoiser, images = Denoiser.load(tiny_model), load_dataset(str(tiny_images))
    torch.testing.assert_close(words.x0[7:8], denoiser.encode_images([images.image(7)]))
    assert len(words.tokens) == len(images) + 1
    assert words.tokens[-1].tolist() == denoiser.pipe.tokenizer("", padding="max_length").input_ids
    assert tokens_of(new_pipeline(unconditional(), 0), ["a"]) is None


def test_training_repeats_itself_and_sees_only_its_rows(data, tmp_path):
    def trained(rows, seed, name, of=data):
        pipe = new_pipeline(unconditional(), 0)
        train(pipe, of, rows, unconditional(), tmp_path / name, seed=seed)
        return weights(pipe)

    first = trained([1, 2, 3], 0, "first")
    assert same(first, trained([1, 2, 3], 0, "again"))
    assert not same(first, trained([1, 2, 3], 1, "seed"))
    elsewhere = data.x0.clone()
    elsewhere[[0, 4, 5, 6, 7, 8, 9]] = 9.0  # rows that it must not see
    assert same(first, trained([1, 2, 3], 0, "other", Encoded(elsewhere, None)))


def test_the_loss_is_that_of_the_rows_drawn(tiny_model, words):
    """By hand: x_t, the prediction under the captions drawn, the squared error, the weight."""
    config = captioned(tiny_model, caption_dropout=0.5, flip=True)
    phase = Phase(1, batch=6, weight="shapes-first")
    pipe = new_pipeline(config, 0)
    alpha_bar = pipe.scheduler.alphas_cumprod
    given = drawn(words, 1000, config, phase.batch, torch.Generator().manual_seed(5))
    ours = denoising_loss(pipe, words, alpha_bar, phase.weight, *given)
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
        tokens = words.tokens[-1 if dropped[i] else int(rows[i])]
        caption = pipe.text_encoder(tokens[None])[0]
        error = (pipe.unet(xt[None], t[i], caption).sample[0] - eps[i]).square().mean()
        snr = a / (1 - a)
        total += min(1 / a, 5) * min(5 / snr, 1) * error / 6
    torch.testing.assert_close(ours, total, rtol=1e-4, atol=1e-6)
    assert shapes_first(torch.tensor([0.5])).item() == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_model_learns_what_its_scheduler_takes_it_to_say(data, kind, monkeypatch):
    """The target of training, read as a denoiser reads predictions, is the noise."""
    pipe = new_pipeline(unconditional(), 0)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    given = drawn(data, 1000, unconditional(), 4, torch.Generator().manual_seed(5))
    rows, t, eps, *_ = given
    alpha_bar = pipe.scheduler.alphas_cumprod
    a = alpha_bar[t].view(-1, 1, 1, 1)
    said = TARGETS[kind](data.x0[rows], eps, a)

    def network(xt, t, sample=said):
        return SimpleNamespace(sample=sample)

    monkeypatch.setattr(pipe.unet, "forward", network)
    assert denoising_loss(pipe, data, alpha_bar, "even", *given) == 0
    denoiser = Denoiser(pipe, "", "cpu")
    xt = a.sqrt() * data.x0[rows] + (1 - a).sqrt() * eps
    for i, step in enumerate(t.tolist()):
        monkeypatch.setattr(pipe.unet, "forward", partial(network, sample=said[[i]]))
        torch.testing.assert_close(
            denoiser.predict(xt[[i]], step, None), eps[[i]], rtol=1e-3, atol=1e-4
        )


def test_no_phase_sees_the_draws_of_another(data, tmp_path, monkeypatch):
    seen = []

    def noted(*given):
        seen.append(drawn(*given))
        return seen[-1]

    monkeypatch.setattr(models, "drawn", noted)
    config = ModelConfig((Phase(5, batch=4, stop=3), Phase(3, batch=4)), base="", unet=PIXELS)
    train(new_pipeline(config, 0), data, range(10), config, tmp_path)
    assert len({tuple(eps.flatten().tolist()) for _, _, eps, *_ in seen}) == 6
    again = drawn(data, 1000, config, 4, torch.Generator().manual_seed(3))
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
        train(pipe, words, range(20), config, tmp_path / str(text_encoder))
        assert same(before, pipe.text_encoder.state_dict()) is not learns


def test_configurations_are_files(tmp_path):
    path = tmp_path / "model.json"
    config = unconditional(flip=True)
    path.write_text(json.dumps(config.facts()))
    assert json.dumps(read_config(path).facts()) == path.read_text()
    for text, said in {
        "{": "Expecting property name",
        "{}": "it lacks 'phases'",
        "[]": "list indices must be integers",
        '{"phases": []}': "phases is empty",
        '{"phases": [{"steps": 1}], "colour": 1}': "colour",
        '{"phases": [{"step": 1}]}': "step",
        '{"phases": [{"steps": 1}], "text_encoder": "new"}': "text_encoder is 'new'",
        '{"phases": [{"steps": 1}], "base": "", "text_encoder": "continue"}': "there is no text",
        '{"phases": [{"steps": 1, "weight": "shape-first"}]}': "weight is 'shape-first'",
        '{"phases": [{"steps": 0}]}': "steps is 0, and not a whole number from 1 up",
        '{"phases": [{"steps": 2, "batch": true, "stop": 9}]}': "stop is 9, after the last of 2",
    }.items():
        path.write_text(text)
        with pytest.raises(ModelError, match=f"is no configuration of a model: .*{said}"):
            read_config(path)


def test_a_configuration_of_no_model():
    with pytest.raises(ModelError, match="no model can be made of the configuration's unet"):
        new_pipeline(ModelConfig((Phase(1),), base="", unet={"foo": 1}), 0)


# --- outputs --------------------------------------------------------------------------------------


def test_losses_are_means_of_squared_errors(tiny_model, words):
    """The mean over timesteps and draws, each picture with its own caption and noise."""
    denoiser = Denoiser.load(tiny_model, dtype=torch.float64)
    captions = ["a red star", "", "a fish"]
    x0 = words.x0[:3].double()
    ours = denoising_losses(denoiser, x0, captions, timesteps=2, draws=2)
    alone = [
        denoising_losses(denoiser, x0[:1], captions[:1], timesteps=2, draws=1, seed=seed)
        for seed in (0, 1)
    ]
    assert ours.shape == (3,) and alone[0] != alone[1]
    some = denoising_losses(
        denoiser, x0[[2, 0]], [captions[2], captions[0]], timesteps=2, draws=2, rows=[2, 0]
    )
    torch.testing.assert_close(some, ours[[2, 0]])
    these = denoising_losses(denoiser, x0, captions, timesteps=(499, 999), draws=2)
    assert torch.equal(these, ours)
    one = denoising_losses(denoiser, x0, captions, timesteps=(999,), draws=2)
    other = denoising_losses(denoiser, x0, captions, timesteps=(499,), draws=2)
    torch.testing.assert_close((one + other) / 2, ours)

    total = 0.0
    for t in (499, 999):
        for draw in (0, 1):
            noise = seeded_noise(x0.shape[1:], f"0|2|{t}|{draw}").double()[None]
            a = denoiser.alpha_bar[t].double()
            xt = a.sqrt() * x0[2:3] + (1 - a).sqrt() * noise
            c = denoiser.encode_captions(["a fish"])
            error = denoiser.network(xt, t, encoder_hidden_states=c).sample - noise
            total += error.square().mean().item() / 4
    assert ours[2].item() == pytest.approx(total, rel=1e-5)


def test_samples_belong_to_their_seeds(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    three = samples(denoiser, ["a red star", "a fish", "a red star"], steps=2)
    again = samples(denoiser, ["a fish"], seeds=[1], steps=2)
    # Guidance triples what batches of another size differ by, on some processors to 1e-5.
    torch.testing.assert_close(three[1:2], again, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(three[0], three[2])


def test_models_are_trained_once_and_kept_where_wanted(tmp_path, data, monkeypatch):
    tasks = [Task("full", tuple(range(10)), kept=True), Task("half", (1, 3, 5))]
    mine = study(tmp_path, data)
    found = retrained(mine, tasks)
    assert found[0] != found[1] and len(found) == 2
    loaded = Denoiser.load(mine.model(tasks[0]))
    assert mean_weight(loaded) == found[0]
    assert not mine.model(tasks[1]).exists() and not list((tmp_path / "training").iterdir())
    monkeypatch.setattr(
        "headwater.evaluation.retraining.retrain.train", None
    )  # nothing is trained again
    assert retrained(mine, tasks[::-1]) == found[::-1]
    for other, name in (
        (study(tmp_path, data, steps=3), "config"),
        (study(tmp_path, data, factor=2.0), "measured"),
        (study(tmp_path, data, source="others"), "data"),
    ):
        with pytest.raises(MismatchError, match=f"'{name}' differs: give another folder"):
            retrained(other, tasks)
    with pytest.raises(MismatchError, match="'rows' differs"):
        retrained(mine, [Task("half", (1, 3))])


def test_models_of_several_studies_are_trained_as_those_of_one(tmp_path, data):
    """Each is measured by its own study's measure."""
    one, double = study(tmp_path, data), study(tmp_path, data, factor=2.0)
    first, others = [Task("a", (0, 1, 2)), Task("b", (3, 4))], [Task("c", (3, 4))]
    found = all_retrained([(one, first), (double, others)])
    assert found[0] == retrained(study(tmp_path / "alone", data), first)
    assert found[1] == [{"mean": [2 * found[0][1]["mean"][0]]}]
    assert all_retrained([(double, others), (one, first)]) == found[::-1]


def test_an_encoding_is_kept_for_its_encoder(tiny_model, tiny_images, tmp_path, words, monkeypatch):
    denoiser, data = Denoiser.load(tiny_model), load_dataset(str(tiny_images))
    assert torch.equal(kept_encoding(tmp_path, denoiser, data).x0, words.x0)
    monkeypatch.setattr(
        "headwater.evaluation.retraining.retrain.encoded", None
    )  # nothing is encoded again
    kept = kept_encoding(tmp_path, denoiser, data)
    assert torch.equal(kept.x0, words.x0) and torch.equal(kept.tokens, words.tokens)
    other = Denoiser(new_pipeline(captioned(tiny_model), 1), "", "cpu")
    with pytest.raises(TypeError):  # by another encoder it is
        kept_encoding(tmp_path, other, data)


def test_a_network_that_training_begins_with_is_part_of_what_it_is_of(
    tiny_model, tiny_images, tmp_path
):
    data, other = load_dataset(str(tiny_images)), tiny_pipeline(tmp_path / "other", seed=1)
    found = {}
    for unet in (None, {}):
        for base in (tiny_model, other):  # of the same encoders
            config = ModelConfig((Phase(1),), base=str(base), unet=unet, text_encoder=None)
            encoder = Denoiser(new_pipeline(config, 0), "", "cpu")
            made = study_of(tmp_path, config, data, encoder, mean_weight, {})
            found.setdefault(unet is None, set()).add(made.source)
    assert len(found[True]) == 2 and len(found[False]) == 1


def test_what_was_begun_goes_on_for_the_same_task_alone(tmp_path, data, monkeypatch):
    """A checkpoint of other rows is not taken up."""
    alone = retrained(study(tmp_path / "alone", data, steps=4), [Task("half", (3, 4, 5))])

    def stopped(*args, **more):
        train(*args, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("headwater.evaluation.retraining.retrain.train", stopped)
        with pytest.raises(KeyboardInterrupt):
            retrained(study(tmp_path, data, steps=4), [Task("half", (0, 1, 2))])
    assert list((tmp_path / "training").rglob("*.safetensors"))
    assert retrained(study(tmp_path, data, steps=4), [Task("half", (3, 4, 5))]) == alone


def test_a_kept_model_without_its_numbers_is_made_again(tmp_path, data):
    mine, tasks = study(tmp_path, data), [Task("full", (0, 1, 2), kept=True)]
    found = retrained(mine, tasks)
    (tmp_path / "outputs" / "full.json").unlink()
    assert retrained(mine, tasks) == found


def test_phases_follow_each_other(tmp_path, data):
    """Two of one name are two."""
    pipes = []
    for phases in ((Phase(3, batch=4),), (Phase(3, batch=4), Phase(3, batch=4))):
        config = ModelConfig(phases, base="", unet=PIXELS)
        pipes.append(new_pipeline(config, 0))
        train(pipes[-1], data, range(10), config, tmp_path / str(len(phases)))
    assert not same(weights(pipes[0]), weights(pipes[1]))
