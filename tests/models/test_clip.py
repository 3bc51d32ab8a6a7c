"""CLIP's embeddings against transformers itself."""

import json

import numpy as np
import pytest
import torch
from support.brute_force import relative_error
from support.tiny_clip import direct, loaded, tiny_clip

from headwater.errors import ModelError
from headwater.models.clip import Clip
from headwater.scenes.dataset import pictures

TEXTS = ["star", "a fish on a wavy background"]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
PICTURES = [picture.draw().resize((16, 16)) for picture in pictures("train")[:8]]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="module")
def clip(source):
    return Clip(source)


def test_embeddings_are_those_of_transformers(clip, source):
    images, texts = direct(source, PICTURES, TEXTS)
    torch.testing.assert_close(clip.images(PICTURES), images, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(clip.texts(TEXTS), texts, rtol=1e-4, atol=1e-4)
    assert clip.dim == 12 == images.shape[1]
    distances = torch.cdist(images, images) + torch.eye(8)
    assert distances.min() > 1e-2 and (texts[0] - texts[1]).norm() > 1e-2


def test_similarity_is_the_logits_of_the_model(clip, source):
    """Its whole forward pass."""
    model, tokenizer = loaded(source)
    tokens = tokenizer(TEXTS, return_tensors="pt", padding=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in _openai())
    stack = np.stack([np.asarray(p, np.float32) / 255 for p in PICTURES])
    pixels = (torch.from_numpy(stack).permute(0, 3, 1, 2) - mean) / std
    with torch.no_grad():
        out = model(**tokens, pixel_values=pixels)
    cosine = torch.nn.functional.cosine_similarity(
        clip.images(PICTURES)[:, None], clip.texts(TEXTS), dim=2
    )
    exact = out.logits_per_image
    torch.testing.assert_close(cosine * clip.logit_scale, exact, rtol=1e-4, atol=1e-3)


def _openai():
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


def test_pictures_are_normalised_as_the_folder_says(clip, tmp_path):
    other = tiny_clip(tmp_path / "clip")
    said = {"image_mean": MEAN, "image_std": STD}
    (other / "preprocessor_config.json").write_text(json.dumps(said))
    images, _ = direct(other, PICTURES, TEXTS, MEAN, STD)
    changed = Clip(other)
    torch.testing.assert_close(changed.images(PICTURES), images, rtol=1e-4, atol=1e-4)
    assert changed.fingerprint() != clip.fingerprint()  # though the weights are the same
    assert relative_error(images, clip.images(PICTURES)) > 0.01


def test_pixels_carry_a_gradient_at_any_size(clip, source):
    pixels = torch.rand(2, 3, 20, 24, requires_grad=True)
    out = clip.pixels(pixels)
    assert out.shape == (2, 12)
    (found,) = torch.autograd.grad(out.sum(), pixels)
    assert found.abs().sum((1, 2, 3)).min() > 0
    same = torch.stack([torch.from_numpy(np.array(p)) for p in PICTURES]).permute(0, 3, 1, 2)
    own = clip.pixels(same / 255)
    torch.testing.assert_close(own, clip.images(PICTURES))


def test_long_texts_are_cut(clip, source):
    long = " ".join(["red"] * 100)
    assert torch.equal(clip.texts([long]), clip.texts([long + " star"]))


def test_a_folder_is_known_from_elsewhere(source, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert Clip("clip").source == str(source.resolve())


def test_what_is_no_clip(tiny_model, tmp_path):
    with pytest.raises(ModelError, match=r"cannot load the CLIP model '.*none': give a folder"):
        Clip(tmp_path / "none")
    with pytest.raises(ModelError, match=r"it has no config\.json: give a folder saved with"):
        Clip(tiny_model)
    with pytest.raises(ModelError, match="it is of the type 'clip_text_model': give a CLIPModel"):
        Clip(tiny_model / "text_encoder")


CONFIG = [
    ("text_config", {"num_attention_heads": 4}), ("text_config", {"layer_norm_eps": 1e-2}),
    ("vision_config", {"hidden_act": "gelu"}), ("vision_config", {"num_attention_heads": 1}),
]  # fmt: skip


@pytest.mark.parametrize("part, changes", CONFIG, ids=str)
def test_the_fingerprint_sees_what_the_weights_do_not_say(clip, tmp_path, part, changes):
    """And not where the folder lies."""
    other = tiny_clip(tmp_path / "clip")
    assert Clip(other).fingerprint() == clip.fingerprint()
    file = other / "config.json"
    config = json.loads(file.read_text())
    config[part] |= changes
    file.write_text(json.dumps(config))
    assert Clip(other).fingerprint() != clip.fingerprint()
