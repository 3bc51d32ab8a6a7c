"""UNets that read a class: captions are numbers, and nothing stands for no class."""

import json

import pytest
import torch
from support.exact_gradients import layer_errors
from support.tiny_unets import class_unet

from headwater import Concept, Denoiser, Image, Session, build_index, load_dataset
from headwater.errors import ModelError, QueryError
from headwater.models.families.unets.classes import ClassUnet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return class_unet(tmp_path_factory.mktemp("classes") / "model")


@pytest.fixture(scope="module")
def session(folder, tiny_images, tmp_path_factory):
    """Four pictures, whose captions are classes, indexed."""
    images, out = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("index") / "index"
    with (images / "metadata.jsonl").open("w") as metadata:
        for number in range(4):
            name = f"train-0000{number}.png"
            (images / name).write_bytes((tiny_images / name).read_bytes())
            metadata.write(json.dumps({"file_name": name, "text": str(number)}) + "\n")
    options = {"method": "concept-trak-unguided", "timesteps": 2, "dim": 64}
    build_index(Denoiser.load(folder), load_dataset(images), out, **options)
    return Session.open(out)


@pytest.mark.parametrize("kind", [None, "timestep"])
def test_its_output_is_that_of_the_network_for_the_class(tmp_path, kind):
    settings = {} if kind is None else {"class_embed_type": kind, "num_class_embeds": None}
    denoiser = Denoiser.load(class_unet(tmp_path, **settings))
    assert isinstance(denoiser.family, ClassUnet) and denoiser.latent_shape == (3, 16, 16)
    xt = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        ours = denoiser.predict(xt, 499, denoiser.encode_captions(["3", "1"]))
        exact = denoiser.network(xt, 499, class_labels=torch.tensor([3, 1])).sample
    torch.testing.assert_close(ours, exact)
    assert denoiser.default_parameters() == "attn"


def test_a_row_is_the_gradient_by_autograd(folder):
    denoiser = Denoiser.load(folder, dtype=torch.float64)
    layers, xt = denoiser.layers("all"), torch.randn(2, 3, 16, 16).double()
    assert "class_embedding" in layers
    errors = layer_errors(denoiser, layers, xt, 499, denoiser.encode_captions(["3", "1"]))
    assert max(errors.values()) <= 1e-8 and len(errors) == len(layers)


@pytest.mark.parametrize(
    "question",
    [
        Concept("2", "2", minus="1", draws=2),
        Image("2", draws=2, steps=2, guidance=1.0),
    ],
    ids=["concept", "drawn"],
)
def test_it_is_asked(session, question):
    assert session.attribute(question).scores.std() > 0


def test_there_is_no_class_for_an_empty_prompt(session):
    with pytest.raises(QueryError, match="has no class for an empty prompt: give a prompt that"):
        session.attribute(Concept("2", "2", draws=2, context="prompt"))


@pytest.mark.parametrize("text", ["4", "a red star"])
def test_what_is_no_class_is_refused(folder, text):
    with pytest.raises(
        QueryError, match=rf"^'{text}' is no class of .*: give a number from 0 to 3"
    ):
        Denoiser.load(folder).encode_captions([text])


def test_a_class_that_is_an_embedding_is_refused(tmp_path):
    folder = class_unet(tmp_path, class_embed_type="identity", num_class_embeds=None)
    with pytest.raises(ModelError, match="wants an embedding for a class: class_embed_type is 'id"):
        Denoiser.load(folder)
