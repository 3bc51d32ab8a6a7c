"""Scores of pictures' and words' embeddings: dots and cosines, of one CLIP."""

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from support.brute_force import exact_scores, relative_error
from support.tiny_clip import direct, tiny_clip

from headwater import Concept, Denoiser, Index, Session, build_index, load_dataset
from headwater.errors import MethodError, MismatchError
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
    assert Session(again).clip().source == str(world.source)


@pytest.mark.parametrize("query", [Image("a star", steps=2), Concept("a star", "star")])
def test_another_clip_is_refused(world, tmp_path, query):
    other = Clip(tiny_clip(tmp_path / "other", seed=1))
    assert other.fingerprint() != world.clip.fingerprint()
    index = Index.open(world.folder / "index", world.denoiser, world.data, clip=other)
    with pytest.raises(MismatchError, match="was built with another CLIP model: give it as --cl"):
        index.attribute(query)


def test_a_method_of_clip_needs_one(world, tmp_path):
    with pytest.raises(MethodError, match="clip-dot needs a CLIP model: give its folder as --clip"):
        build_index(world.denoiser, world.data, tmp_path / "index", method="clip-dot")
