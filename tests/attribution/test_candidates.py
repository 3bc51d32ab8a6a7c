"""Candidates: only the images that are most like what is asked for compete."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from support.tiny_clip import direct, tiny_clip

from headwater import Concept, Denoiser, Index, Session, build_index, load_dataset
from headwater.attribution import attributor
from headwater.attribution.candidates import embed_all
from headwater.errors import QueryError
from headwater.features.embeddings import latents
from headwater.models.clip import Clip
from headwater.queries.image import Image

TEXTS = ["star", "a fish on a wavy background"]


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
def test_candidates_and_no_others_compete(world, plain, kind, count):
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
    assert [entry.row for entry in answer.top(8)] == answer.order().tolist()[: len(among)]
    worst = sorted(among, key=lambda row: free.scores[row])
    assert [entry.row for entry in answer.bottom(8)] == worst
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
    rows = embed_all(Session(plain), lambda images: latents(world.denoiser, images), {"by": "new"})
    assert rows.shape == (8, 256)


@pytest.mark.parametrize("text", ["clip", "clip:", "clip:0", "clip:x", "dino:3", "pixel:-1", "3",
                                  "pixel:²"])  # fmt: skip
def test_malformed_candidates_are_refused_before_any_gradient(world, plain, monkeypatch, text):
    monkeypatch.setattr(attributor, "SCORERS", {})  # would fail
    with pytest.raises(QueryError, match="is none of clip:COUNT, pixel:COUNT, presence:COUNT"):
        plain.attribute(Image("a red star", world.file), candidates=text)


def test_candidates_by_clip_need_one(world):
    index = Index.open(world.folder / "plain", world.denoiser, world.data)
    with pytest.raises(QueryError, match="this needs a CLIP model: give its folder as --clip"):
        index.attribute(Image("a red star", world.file), candidates="clip:3")
