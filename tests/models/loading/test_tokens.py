"""Tokens that textual inversion has learned, from files of several programs."""

import pytest
import torch
from safetensors.torch import save_file
from support.conditions import words_of
from support.tiny import tiny_unconditional
from support.tiny_parts import WIDTH
from support.tiny_unets import sdxl

from headwater import Denoiser
from headwater.errors import ModelError


def embedding(encoder, tokenizer, word):
    """Of a word of one token."""
    (number,) = tokenizer(word, add_special_tokens=False).input_ids
    return encoder.get_input_embeddings().weight[number].detach().clone()


def encoded(denoiser, prompt):
    return words_of(denoiser.encode_captions([prompt]))


def refused(model, token, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        Denoiser.load(model, token=token)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("cannot load --token")


@pytest.fixture
def star(tiny_model):
    pipe = Denoiser.load(tiny_model).pipe
    return embedding(pipe.text_encoder, pipe.tokenizer, "star")


@pytest.mark.parametrize("layout", ["diffusers", "A1111", "named", "folder"])
def test_a_token_of_one_vector(tiny_model, tmp_path, star, layout):
    """With the vector of a word it says what the word says."""
    own = {"<thing>": star} if layout in ("diffusers", "folder") else {"emb_params": star[None]}
    save_file(own, tmp_path / "thing.safetensors")
    source, name = {
        "diffusers": (tmp_path / "thing.safetensors", "<thing>"),
        "A1111": (tmp_path / "thing.safetensors", "thing"),
        "named": (f"<mine>={tmp_path}/thing.safetensors", "<mine>"),
        "folder": (tmp_path, "<thing>"),
    }[layout]
    plain, taught = Denoiser.load(tiny_model), Denoiser.load(tiny_model, token=source)
    assert taught.options == {"token": [str(source)]}
    torch.testing.assert_close(encoded(taught, f"a red {name}"), encoded(plain, "a red star"))
    assert taught.encoders_fingerprint() != plain.encoders_fingerprint()


def test_a_token_of_several_vectors_is_one_word(tiny_model, tmp_path, star):
    pipe = Denoiser.load(tiny_model).pipe
    red = embedding(pipe.text_encoder, pipe.tokenizer, "red")
    save_file({"<thing>": torch.stack([red, star])}, tmp_path / "thing.safetensors")
    taught = Denoiser.load(tiny_model, token=tmp_path)
    plain = Denoiser.load(tiny_model)
    torch.testing.assert_close(encoded(taught, "a <thing>"), encoded(plain, "a red star"))


def test_tokens_of_two_encoders(tmp_path):
    """In one file, as trainers of Stable Diffusion XL write it, or in a file for each."""
    model = sdxl(tmp_path / "sdxl")
    pipe = Denoiser.load(model).pipe
    first = embedding(pipe.text_encoder, pipe.tokenizer, "star")
    second = embedding(pipe.text_encoder_2, pipe.tokenizer_2, "star")
    save_file({"clip_l": first[None], "clip_g": second[None]}, tmp_path / "thing.safetensors")
    save_file({"thing": first}, tmp_path / "one.safetensors")
    save_file({"thing": second}, tmp_path / "two.safetensors")
    exact = Denoiser.load(model).encode_captions(["a red star"])
    each = [tmp_path / f"{name}.safetensors" for name in ("one", "two")]
    for token in (tmp_path / "thing.safetensors", each):
        ours = Denoiser.load(model, token=token).encode_captions(["a red thing"])
        for name, tensor in exact.tensors.items():
            torch.testing.assert_close(ours.tensors[name], tensor)


def test_what_are_no_tokens(tiny_model, tmp_path, star):
    file = tmp_path / "thing.safetensors"
    save_file({"star": star}, file)
    refused(tiny_model, file, r"knows 'star' already: .* as --token NAME=thing\.safetensors")
    save_file({"<thing>": torch.ones(WIDTH + 1)}, file)
    refused(tiny_model, file, f"have {WIDTH + 1} numbers, and .* take {WIDTH}: it is of another")
    save_file({"one": star, "two": star.clone()}, file)
    refused(tiny_model, file, "it holds 2 tensors, and a token's file holds one")
    save_file({"one": star}, tmp_path / "other.safetensors")
    refused(tiny_model, tmp_path, "it holds 2 safetensors files: give one")
    (tmp_path / "learned_embeds.bin").write_bytes(b"x")
    refused(tiny_model, tmp_path / "learned_embeds.bin", "no safetensors file, and other formats")
    refused(tiny_model, tmp_path / "none", "there is no such file or folder")
    pixels = tiny_unconditional(tmp_path / "pixels")
    refused(pixels, file, "DDPMPipeline takes no learned tokens: leave --token out")
