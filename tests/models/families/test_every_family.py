"""Every family end to end: saved, loaded, indexed, and asked all that can be asked."""

import numpy as np
import peft
import pytest
import torch
from PIL import Image as PIL_Image
from support import tiny, tiny_cross, tiny_joint, tiny_unets
from support.exact_gradients import layer_errors

from headwater import (
    Concept,
    Denoiser,
    Image,
    Local,
    Reward,
    Scorer,
    Session,
    build_index,
    load_dataset,
)
from headwater.errors import MethodError
from headwater.features.gradcheck import self_check
from headwater.gradients.layers import gradient_of
from headwater.models.sampling import seeded_noise

BUILDERS = {
    "unet": tiny.tiny_pipeline,
    "sdxl": tiny_unets.sdxl,
    "sdxl-refiner": tiny_unets.refiner,
    "sd3": tiny_joint.sd3,
    "flux": tiny_joint.flux,
    "schnell": tiny_joint.schnell,
    "z-image": tiny_joint.z_image,
    "qwen-image": tiny_joint.qwen_image,
    "klein": tiny_joint.klein,
    "chroma": tiny_joint.chroma,
    "lumina2": tiny_joint.lumina2,
    "wan": tiny_cross.wan,
    "wan-of-two": tiny_cross.wan_of_two,
    "dit": tiny_cross.dit,
    "hunyuan-dit": tiny_cross.hunyuan_dit,
    "pixart": tiny_cross.pixart,
    "sana": tiny_cross.sana,
    "pixart-sizes": tiny_cross.pixart_with_sizes,
    "aura-flow": tiny_joint.aura_flow,
}
# How near rows of a float64 model are to autograd's, where its network computes in float32 anyway.
EXACT = {
    "hunyuan-dit": 1e-6,  # norms
    "sana": 1e-6,  # linear attention
    "wan-of-two": 1e-6,
    "wan": 1e-6,  # norms and residuals of its blocks
}
# What a family cannot be asked, and why.
REFUSED = {("dit", "local"): "reads classes and no words, so none can be learned"}
SIZE = 16  # of pictures: Flux would take 256 here, by its pipeline
PROMPT, CONCEPT = "a red star", "star"


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request, tmp_path_factory):
    return BUILDERS[request.param](tmp_path_factory.mktemp("family") / request.param)


@pytest.fixture(scope="module")
def denoiser(folder):
    return Denoiser.load(folder, resolution=SIZE)


@pytest.fixture(scope="module")
def session(denoiser, tiny_images, tmp_path_factory):
    """Four pictures indexed, opened again as a later process would."""
    out = tmp_path_factory.mktemp("family") / "index"
    data = load_dataset(tiny_images).first(4)
    options = {"method": "concept-trak-unguided", "timesteps": 1, "dim": 64, "parameters": "all"}
    build_index(denoiser, data, out, **options)
    return Session.open(out)


def redness(pixels):
    return pixels[:, 0].mean((1, 2))


def questions(tiny_images, tmp_path):
    """By name."""
    file, mask = tiny_images / "train-00000.png", tmp_path / "mask.png"
    PIL_Image.fromarray(np.pad(np.full((8, 16), 255, np.uint8), ((0, 8), (0, 0)))).save(mask)
    concept = Concept(PROMPT, CONCEPT, draws=1, context="prompt")
    return {
        "concept": concept,
        "image": Image(PROMPT, file, draws=1),
        "drawn": Image(PROMPT, draws=1, steps=2),
        "part": Image(PROMPT, file, mask, draws=1),
        "local": Local(concept, file, steps=2),
        "reward": Reward(PROMPT, Scorer("red", "red", redness), draws=1),
    }


@pytest.mark.parametrize("kind", ["concept", "image", "drawn", "part", "local", "reward"])
def test_it_is_asked(folder, session, tiny_images, tmp_path, kind):
    question = questions(tiny_images, tmp_path)[kind]
    if (folder.name, kind) in REFUSED:
        with pytest.raises(MethodError, match=REFUSED[folder.name, kind]):
            session.attribute(question)
        return
    answer = session.attribute(question)
    assert np.isfinite(answer.scores).all() and answer.scores.std() > 0


def test_it_is_asked_about_a_step_of_its_making(denoiser, tiny_images, tmp_path):
    data = load_dataset(tiny_images).first(2)
    options = {"method": "trak", "timesteps": 1, "dim": 64}
    index = build_index(denoiser, data, tmp_path / "index", **options)
    assert index.attribute(Image(PROMPT, draws=1, steps=2, step=999)).scores.std() > 0


def test_a_row_is_the_gradient_by_autograd(folder):
    """Of every layer, sample by sample, in float64."""
    denoiser = Denoiser.load(folder, dtype=torch.float64, resolution=SIZE)
    layers = denoiser.layers("all")
    condition = denoiser.encode_captions([PROMPT, "a fish"])
    noise = [seeded_noise(denoiser.latent_shape, "point", i) for i in range(2)]
    errors = layer_errors(denoiser, layers, torch.stack(noise).double(), 499, condition)
    assert max(errors.values()) <= EXACT.get(folder.name, 1e-8) and len(errors) >= len(layers) / 2


def test_the_self_check_passes(denoiser):
    x0, condition = torch.randn(2, *denoiser.latent_shape), denoiser.encode_captions(["a", "b"])
    assert self_check(denoiser, denoiser.layers("all"), x0, condition).startswith("self-check: ")


def test_adapters_are_attributed(folder, tiny_images, tmp_path):
    """As peft makes them, on every linear layer."""
    denoiser = Denoiser.load(folder, resolution=SIZE)
    names = [name for name, layer in denoiser.network.named_modules()
             if type(layer) is torch.nn.Linear and gradient_of(layer)]  # fmt: skip
    wanted = peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False)
    peft.inject_adapter_in_model(wanted, denoiser.network)
    adapted, data = Denoiser(denoiser.pipe, resolution=SIZE), load_dataset(tiny_images).first(2)
    options = {
        "method": "concept-trak-unguided",
        "timesteps": 1,
        "parameters": "lora",
        "dim": 64,
    }
    index = build_index(adapted, data, tmp_path / "index", **options)
    assert all(".lora_" in name for name in index.recipe.layers)
    answer = index.attribute(Concept(PROMPT, CONCEPT, draws=1, context="prompt"))
    assert answer.scores.std() > 0
