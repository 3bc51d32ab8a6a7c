"""Which layer of CLIP prompts are read from: counted as kohya's trainer does, made as diffusers."""

import json

import pytest
import torch
from support.tiny_cross import dit
from support.tiny_parts import clip_encoder
from support.tiny_unets import refiner, sdxl

from headwater import Denoiser, Session, build_index, load_dataset
from headwater.errors import MismatchError, ModelError

PROMPTS = ["a red star", ""]


@pytest.fixture(scope="module")
def pipe(tiny_model):
    """A pipeline whose text encoder has three layers."""
    pipe = Denoiser.load(tiny_model).pipe
    pipe.text_encoder = clip_encoder(pipe.tokenizer, layers=3).eval()
    return pipe


def words(pipe, **options):
    return Denoiser(pipe, **options).encode_captions(PROMPTS).tensors["encoder_hidden_states"]


def states(encoder, tokenizer):
    ids = tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder(ids, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_layers_are_counted_from_the_last_and_normed(pipe, layer):
    """Of kohya: `hidden_states[-clip_skip]`, then the final norm."""
    kohya = states(pipe.text_encoder, pipe.tokenizer)[-layer]
    norm = dict(pipe.text_encoder.named_modules())
    norm = next(m for name, m in norm.items() if name.endswith("final_layer_norm"))
    with torch.no_grad():
        torch.testing.assert_close(words(pipe, clip_skip=layer), norm(kohya))


def test_the_last_is_what_is_read_anyway(pipe):
    plain, second = Denoiser(pipe), Denoiser(pipe, clip_skip=2)
    assert Denoiser(pipe, clip_skip=1).fingerprint() == plain.fingerprint()
    assert second.fingerprint() != plain.fingerprint()
    assert second.encoders_fingerprint() != plain.encoders_fingerprint()


@pytest.mark.parametrize("build", [sdxl, refiner])
def test_sdxl_reads_the_second_last_anyway(tmp_path, build):
    pipe = Denoiser.load(build(tmp_path)).pipe
    pipe.text_encoder_2 = clip_encoder(pipe.tokenizer_2, layers=3, projected=True).eval()
    if pipe.text_encoder is not None:
        pipe.text_encoder = clip_encoder(pipe.tokenizer, layers=3).eval()
    plain = Denoiser(pipe)
    assert Denoiser(pipe, clip_skip=2).fingerprint() == plain.fingerprint()
    third = words(pipe, clip_skip=3)[:1]
    last = states(pipe.text_encoder_2, pipe.tokenizer_2)[-3][:1]
    torch.testing.assert_close(third[..., -last.shape[-1] :], last)
    assert (third - words(pipe)[:1]).abs().max() > 1e-3
    with pytest.raises(ModelError, match=r"^--clip-skip 1: .* takes 2, as it is read anyway"):
        Denoiser(pipe, clip_skip=1)


def test_who_has_no_such_layer(pipe, tmp_path):
    for layer in (0, 4):
        with pytest.raises(ModelError, match=rf"^--clip-skip {layer}: .* up to 3$"):
            Denoiser(pipe, clip_skip=layer)
    with pytest.raises(ModelError, match=r"^--clip-skip 2 is for .*\(Stable Diffusion 1, 2, XL\)"):
        Denoiser.load(dit(tmp_path), clip_skip=2)


def test_an_index_is_asked_as_it_was_made(pipe, tiny_images, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    denoiser = Denoiser.load(tmp_path / "model", clip_skip=2)
    data = load_dataset(tiny_images).first(3)
    options = {"method": "trak", "timesteps": 1, "dim": 8}
    build_index(denoiser, data, tmp_path / "index", **options)
    assert json.loads((tmp_path / "index/index.json").read_text())["model"]["options"] == {
        "clip_skip": 2
    }
    assert Session.open(tmp_path / "index").denoiser.fingerprint() == denoiser.fingerprint()
    with pytest.raises(MismatchError):
        build_index(Denoiser(pipe), data, tmp_path / "index", **options)
