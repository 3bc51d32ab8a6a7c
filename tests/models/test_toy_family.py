"""One class and one line in the table are all that a new family of models takes."""

import pytest
import torch
from PIL import Image
from support.toy_family import Toy, toy_pipeline

from headwater import Denoiser, build_index, from_images
from headwater.errors import ModelError
from headwater.index.config import plan
from headwater.index.machines import extractor
from headwater.models.families import FAMILIES
from headwater.models.families.family import Family
from headwater.models.sampling import seeded_noise

PICTURES = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]


@pytest.fixture
def denoiser(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", "support.toy_family:Toy")
    return Denoiser(toy_pipeline())


def test_it_keeps_the_contract(denoiser):
    assert isinstance(denoiser.family, Family) and isinstance(denoiser.family, Toy)
    assert not denoiser.conditional and denoiser.encode_captions(["a star"]) is None


def test_a_picture_is_encoded_and_its_noise_predicted(denoiser):
    x0 = denoiser.encode_images(PICTURES)
    assert x0.shape == (3, 3, 8, 8) and denoiser.decode(x0)[1].getpixel((0, 0)) == (0, 128, 0)
    with torch.no_grad():
        out = denoiser.predict(x0, 9, None)
        torch.testing.assert_close(out, denoiser.network(x0) / 10)


def test_a_row_is_the_gradient_of_its_loss(denoiser):
    """Its last layer alone, by autograd through the layer's own weights."""
    recipe = plan(denoiser, method="trak", timesteps=1, projection="identity")
    assert recipe.parameters == "last" and recipe.layers == ("3",) and recipe.timesteps == (49,)
    machine = extractor(denoiser, recipe)
    rows = machine.image_rows(PICTURES, [[""]] * 3, ["a", "b", "c"]).features
    last, loss = denoiser.network[3], torch.nn.MSELoss(reduction="sum")
    for i, id in enumerate("abc"):
        noise = seeded_noise((3, 8, 8), f"0|{id}|49|0")[None]
        xt = denoiser.schedule.noised(denoiser.encode_images(PICTURES[i : i + 1]), noise, 49)
        error = loss(denoiser.network(xt) / 50, noise) / 2
        exact = torch.cat([g.flatten() for g in torch.autograd.grad(error, last.parameters())])
        torch.testing.assert_close(rows[i], exact, rtol=1e-4, atol=1e-5)


def test_an_index_is_built_of_it(denoiser, tmp_path):
    notes = []
    data = from_images(PICTURES, ["red", "green", "blue"])
    options = {"method": "trak", "timesteps": 2, "note": notes.append}
    index = build_index(denoiser, data, tmp_path / "index", **options)
    assert len(index) == 3 and index.recipe.parameters == "last" and index.recipe.dim == 15
    assert any(note.startswith("--parameters last is taken, ") for note in notes)


def test_without_its_line_in_the_table_it_is_refused():
    with pytest.raises(ModelError, match=r"SimpleNamespace is not supported: .* families .*unet "):
        Denoiser(toy_pipeline())
