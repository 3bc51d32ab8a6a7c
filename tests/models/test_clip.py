"""CLIP's embeddings against transformers itself, and scores and candidates made of them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from support.brute_force import exact_scores, relative_error
from support.tiny_clip import tiny_clip

from headwater import Concept, Denoiser, Index, build_index, load_dataset
from headwater.attribution.candidates import embedded
from headwater.errors import MethodError, MismatchError, ModelError, QueryError
from headwater.features.embeddings import latents
from headwater.models.clip import Clip
from headwater.queries.image import Image

TEXTS = ["star", "a fish on a wavy background"]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model, tiny_images):
    """A CLIP folder, eight images, and an index for clip-cosine."""
    folder = tmp_path_factory.mktemp("similarity")
    source = tiny_clip(folder / "clip")
    clip, denoiser = Clip(source), Denoiser.load(tiny_model)
    data = load_dataset(tiny_images).first(8)
    index = build_index(denoiser, data, folder / "index", method="clip-cosine", clip=clip)
    pictures = [data.image(row) for row in range(8)]
    return SimpleNamespace(
        folder=folder, source=source, clip=clip, denoiser=denoiser, data=data, index=index,
        pictures=pictures, file=tiny_images / "train-00011.png",
    )  # fmt: skip


def loaded(source):
    from transformers import CLIPModel, CLIPTokenizer

    return CLIPModel.from_pretrained(source).eval(), CLIPTokenizer.from_pretrained(source)


def direct(source, pictures, texts, mean=None, std=None):
    """(image, text embeddings) by the layers of transformers' model, one after the other."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    model, tokenizer = loaded(source)
    pixels = np.stack(
        [np.asarray(picture.convert("RGB"), np.float64) / 255 for picture in pictures]
    )
    pixels = (pixels - (mean or OPENAI_CLIP_MEAN)) / (std or OPENAI_CLIP_STD)
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        images = model.visual_projection(model.vision_model(pixels).pooler_output)
        rows = []
        for text in texts:  # alone, so that nothing is padded
            states = model.text_model(**tokenizer(text, return_tensors="pt")).last_hidden_state
            rows.append(model.text_projection(states[:, -1]))  # of the end of the text
    return images, torch.cat(rows)


def test_embeddings_are_those_of_transformers(world):
    images, texts = direct(world.source, world.pictures, TEXTS)
    torch.testing.assert_close(world.clip.images(world.pictures), images, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(world.clip.texts(TEXTS), texts, rtol=1e-4, atol=1e-4)
    assert world.clip.dim == 12 == images.shape[1]
    distances = torch.cdist(images, images) + torch.eye(8)
    assert distances.min() > 1e-2 and (texts[0] - texts[1]).norm() > 1e-2


def test_similarity_is_the_logits_of_the_model(world):
    """Its whole forward pass, but for the temperature."""
    model, tokenizer = loaded(world.source)
    tokens = tokenizer(TEXTS, return_tensors="pt", padding=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in _openai())
    stack = np.stack([np.asarray(p, np.float32) / 255 for p in world.pictures])
    pixels = (torch.from_numpy(stack).permute(0, 3, 1, 2) - mean) / std
    with torch.no_grad():
        out = model(**tokens, pixel_values=pixels)
    cosine = torch.nn.functional.cosine_similarity(
        world.clip.images(world.pictures)[:, None], world.clip.texts(TEXTS), dim=2
    )
    exact = out.logits_per_image / model.logit_scale.exp()
    torch.testing.assert_close(cosine, exact.detach(), rtol=1e-4, atol=1e-4)


def _openai():
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


def test_pictures_are_normalised_as_the_folder_says(world, tmp_path):
    source = tiny_clip(tmp_path / "clip")
    said = {"image_mean": MEAN, "image_std": STD}
    (source / "preprocessor_config.json").write_text(json.dumps(said))
    images, _ = direct(source, world.pictures, TEXTS, MEAN, STD)
    clip = Clip(source)
    torch.testing.assert_close(clip.images(world.pictures), images, rtol=1e-4, atol=1e-4)
    assert clip.fingerprint() != world.clip.fingerprint()  # though the weights are the same
    assert relative_error(images, world.clip.images(world.pictures)) > 0.01


def test_pixels_carry_a_gradient_at_any_size(world):
    pixels = torch.rand(2, 3, 20, 24, requires_grad=True)
    out = world.clip.pixels(pixels)
    assert out.shape == (2, 12)
    (found,) = torch.autograd.grad(out.sum(), pixels)
    assert found.abs().sum((1, 2, 3)).min() > 0
    same = torch.stack([torch.from_numpy(np.array(p)) for p in world.pictures]).permute(0, 3, 1, 2)
    own = world.clip.pixels(same / 255)
    torch.testing.assert_close(own, world.clip.images(world.pictures))


def test_long_texts_are_cut(world):
    long = " ".join(["red"] * 100)
    assert torch.equal(world.clip.texts([long]), world.clip.texts([long + " star"]))


# --- methods ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["clip-dot", "clip-cosine"])
@pytest.mark.parametrize("kind", ["image", "concept"])
def test_scores_are_dots_and_cosines_of_embeddings(world, method, kind):
    with PIL.Image.open(world.file) as picture:
        phi, _ = direct(world.source, world.pictures, TEXTS)
        image, text = direct(world.source, [picture], ["star"])
    if kind == "image":
        query, psi = Image(file=world.file), image
    else:
        query, psi = Concept("a red star", "star"), text
    answer = world.index.attribute(query, method=method)
    exact = exact_scores(method.removeprefix("clip-"), phi, psi)
    assert relative_error(torch.from_numpy(answer.scores), exact) < 2e-3
    assert answer.certainty is None and answer.provenance["query"]["draws"] == 1


def test_there_is_no_lack_of_similarity(world):
    query = Concept("a red star", "star", swap=True)
    with pytest.raises(MethodError, match=r"--swap exchanges .* and clip-cosine has none: leave"):
        world.index.attribute(query)


def test_a_similarity_has_no_draws_and_no_damping(world):
    said = []
    answer = world.index.attribute(Image(file=world.file, draws=8), note=said.append, damping=3.0)
    assert answer.unsure == "a similarity draws nothing at random"
    assert answer.provenance["damping"] is None
    assert said == [
        "clip-cosine has no kernel, so --damping has no effect",
        "the picture: a similarity draws nothing at random, so --draws has no effect",
    ]


def test_the_index_knows_its_clip(world):
    recipe = world.index.manifest.recipe
    assert recipe["clip"] == world.clip.fingerprint() and recipe["dim"] == 12
    again = Index.open(world.folder / "index", world.denoiser, world.data)
    query = Concept("a red star", "star")
    np.testing.assert_array_equal(
        again.attribute(query).scores, world.index.attribute(query).scores
    )
    assert again.clip().source == str(world.source)


@pytest.mark.parametrize("query", [Image("a star", steps=2), Concept("a star", "star")])
def test_another_clip_is_refused(world, tmp_path, query):
    other = Clip(tiny_clip(tmp_path / "other", seed=1))
    assert other.fingerprint() != world.clip.fingerprint()
    index = Index.open(world.folder / "index", world.denoiser, world.data, clip=other)
    with pytest.raises(MismatchError, match="was built with another CLIP model: give it as --cl"):
        index.attribute(query)


def test_a_folder_is_known_from_elsewhere(world, monkeypatch):
    monkeypatch.chdir(world.folder)
    assert Clip("clip").source == str(world.source.resolve())


def test_what_is_no_clip(world, tiny_model, tmp_path):
    with pytest.raises(ModelError, match=r"cannot load the CLIP model '.*none': give a folder"):
        Clip(tmp_path / "none")
    with pytest.raises(ModelError, match="cannot load the CLIP model"):
        Clip(tiny_model)
    with pytest.raises(MethodError, match="clip-dot needs a CLIP model: give its folder as --clip"):
        build_index(world.denoiser, world.data, tmp_path / "index", method="clip-dot")


# --- candidates ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(world):
    """An index without CLIP rows, opened with a CLIP."""
    options = dict(method="trak", parameters="attn2-kv", timesteps=1, dim=32)
    out = world.folder / "plain"
    build_index(world.denoiser, world.data, out, **options)
    return Index.open(out, world.denoiser, world.data, clip=world.clip)


def nearest(world, kind, count):
    with PIL.Image.open(world.file) as picture:
        if kind == "clip":
            rows, _ = direct(world.source, [*world.pictures, picture], TEXTS)
        else:
            rows = world.denoiser.encode_images([*world.pictures, picture]).flatten(1)
    cosine = torch.nn.functional.cosine_similarity(rows[:-1], rows[-1:])
    return set(cosine.argsort(descending=True)[:count].tolist())


@pytest.mark.parametrize("kind", ["clip", "pixel"])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_candidates_and_no_others_come_first(world, plain, kind, count):
    query = Image("a red star", world.file, draws=2)
    free = plain.attribute(query, damping=[0.1, 10.0])
    answer = plain.attribute(query, candidates=f"{kind}:{count}", damping=[0.1, 10.0])
    among = nearest(world, kind, count)
    assert {entry.row for entry in answer.top(count)} == among
    others = [row for row in range(8) if row not in among]
    for ratio, scores in answer.sweep.items():  # the scores are what they are
        np.testing.assert_array_equal(scores, free.sweep[ratio])
        best = sorted(range(8), key=lambda row: (row in others, -scores[row]))
        assert answer.order(scores).tolist() == best
    assert [entry.row for entry in answer.top(8)] == answer.order().tolist()
    worst = sorted(among, key=lambda row: free.scores[row])
    assert [entry.row for entry in answer.bottom(8)] == worst
    assert {entry.row for entry in answer.top(8) if entry.candidate} == among
    assert [entry.candidate for entry in free.top(8)] == [None] * 8
    assert answer.provenance["candidates"] == f"{kind}:{count}"
    assert set(answer.certainty.stays) == among or count > 10
    by = answer.provenance.get("candidates by", {})
    assert by.get("fingerprint") == (world.clip.fingerprint() if kind == "clip" else None)


def test_as_many_candidates_as_images_change_nothing(world, plain):
    query = Image("a red star", world.file, draws=2)
    free = plain.attribute(query).scores
    for count in (8, 99):
        answer = plain.attribute(query, candidates=f"pixel:{count}")
        np.testing.assert_array_equal(answer.scores, free)
        assert answer.among is None


def test_candidates_of_a_concept_are_near_its_words(world, tmp_path):
    """Any index will do, here one for concepts."""
    options = dict(method="concept-trak", parameters="attn2-kv", timesteps=1, dim=32)
    build_index(world.denoiser, world.data, tmp_path / "index", **options)
    index = Index.open(tmp_path / "index", world.denoiser, world.data, clip=world.clip)
    query = Concept("a red star", "star", draws=2, context="prompt")
    images, texts = direct(world.source, world.pictures, ["star"])
    cosine = torch.nn.functional.cosine_similarity(images, texts)
    for asked in (query, replace(query, swap=True)):  # near the words, not to "the lack of star"
        top = index.attribute(asked, candidates="clip:3").top(3)
        assert {entry.row for entry in top} == set(cosine.argsort(descending=True)[:3].tolist())
    with pytest.raises(QueryError, match="pixel:COUNT needs a picture: give clip:COUNT"):
        index.attribute(query, candidates="pixel:3")


def test_images_are_embedded_once(world, plain, monkeypatch):
    query = Image("a red star", world.file, draws=2)
    first = plain.attribute(query, candidates="clip:3").scores
    calls = []
    images = Clip.images

    def counted(self, pictures):
        calls.append(len(pictures))
        return images(self, pictures)

    monkeypatch.setattr(Clip, "images", counted)
    np.testing.assert_array_equal(plain.attribute(query, candidates="clip:3").scores, first)
    assert calls == [1]  # the query
    rows = embedded(plain, lambda pictures: latents(world.denoiser, pictures), "new")
    assert rows.shape == (8, 256)


@pytest.mark.parametrize("text", ["clip", "clip:", "clip:0", "clip:x", "dino:3", "pixel:-1", "3",
                                  "pixel:²"])  # fmt: skip
def test_malformed_candidates_are_refused_before_any_gradient(world, plain, monkeypatch, text):
    from headwater.attribution import attributor

    monkeypatch.setattr(attributor, "_answer", None)  # would fail
    with pytest.raises(QueryError, match="is neither clip:COUNT nor pixel:COUNT"):
        plain.attribute(Image("a red star", world.file), candidates=text)


def test_candidates_by_clip_need_one(world):
    index = Index.open(world.folder / "plain", world.denoiser, world.data)
    with pytest.raises(QueryError, match="this needs a CLIP model: give its folder as --clip"):
        index.attribute(Image("a red star", world.file), candidates="clip:3")
