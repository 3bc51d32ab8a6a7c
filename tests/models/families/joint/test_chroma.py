"""Chroma against the pipeline's own call, with the mask that it is given there."""

import pytest
import torch
from support.pipeline_calls import first_call
from support.tiny_joint import chroma

from headwater import Denoiser
from headwater.models.families.joint.chroma import Chroma
from headwater.scenes.pipeline import MAX_TOKENS

PROMPT = "a red star"
LONG = "a large red star beside a small blue fish on a plain background"
SIZE = {"height": 16, "width": 16, "max_sequence_length": MAX_TOKENS}


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(chroma(tmp_path_factory.mktemp("chroma") / "model"), resolution=16)


@pytest.mark.parametrize("prompt", [PROMPT, "", [PROMPT, LONG]], ids=["one", "empty", "two"])
def test_its_output_is_that_of_the_pipelines_own_call(denoiser, prompt):
    """Unconditional it reads the empty prompt."""
    assert isinstance(denoiser.family, Chroma) and denoiser.latent_shape == (4, 8, 8)
    pipe, texts = denoiser.pipe, [prompt] if isinstance(prompt, str) else prompt
    given, out = first_call(pipe, denoiser.network, prompt, guidance_scale=1.0, **SIZE)
    assert given["timestep"].tolist() == [1] * len(texts)
    xt = pipe._unpack_latents(given["hidden_states"], 16, 16, 2)
    with torch.no_grad():
        ours = denoiser.predict(xt, 999, denoiser.encode_captions(texts))
    torch.testing.assert_close(ours, pipe._unpack_latents(out, 16, 16, 2), rtol=1e-5, atol=1e-6)


def test_a_row_says_the_same_in_every_batch(denoiser):
    condition = denoiser.encode_captions([PROMPT, "", LONG])
    xt = torch.randn(1, *denoiser.latent_shape).repeat(3, 1, 1, 1)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        for i in range(3):
            alone = denoiser.predict(xt[i : i + 1], 499, condition[[i]])
            torch.testing.assert_close(rows[i : i + 1], alone, rtol=1e-5, atol=1e-5)
    assert (rows[0] - rows[1]).abs().max() > 1e-4


def test_the_mask_ends_behind_the_first_padding(denoiser):
    tokens = denoiser.pipe.tokenizer([PROMPT, LONG]).input_ids
    mask = denoiser.encode_captions([PROMPT, LONG]).tensors["mask"]
    assert mask.sum(1).tolist() == [len(ids) + 1 for ids in tokens]
    assert mask.shape == (2, MAX_TOKENS) and mask.diff(dim=1).max() == 0


def test_the_mask_is_read(denoiser):
    xt, condition = torch.randn(1, *denoiser.latent_shape), denoiser.encode_captions([PROMPT])
    tensors = dict(condition.tensors)
    with torch.no_grad():
        ours = denoiser.predict(xt, 499, condition)
        tensors["mask"] = torch.ones_like(tensors["mask"])
        other = denoiser.predict(xt, 499, type(condition)(tensors))
    assert (ours - other).abs().max() > 1e-5


def test_words_are_those_of_the_double_blocks(denoiser):
    assert set(denoiser.layers()) == {f"transformer_blocks.0.attn.add_{x}_proj" for x in "kv"}
    assert any(name.startswith("single") for name in denoiser.layers("attention"))


def test_a_new_word_is_read_in_its_place(denoiser):
    words = denoiser.family.words
    with words.reader("<new>", words.initial("star")) as read:
        ours = read(["a red <new>"])
    exact = words.encode([PROMPT])
    for name, tensor in exact.tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor)
