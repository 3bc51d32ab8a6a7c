"""Adapters of text encoders: their gradients, in rows of pictures and of every kind of question."""

import pytest
import torch
from PIL import Image as PIL_Image
from support.tiny import tiny_pipeline
from support.tiny_unets import sdxl

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
from headwater.features import extractor as extractor_module
from headwater.features import gradcheck
from headwater.features.gradcheck import self_check
from headwater.gradients.layers import parameters_of
from headwater.gradients.vjp import Tape
from headwater.index.config import plan
from headwater.index.machines import gradient_extractor
from headwater.models.encodings import encode
from headwater.models.patches import for_gradients

peft = pytest.importorskip("peft")

TEXTS = ["a red star", "a fish", "a fish"]  # one of them twice: each has a gradient of its own
BUILDERS = {"unet": tiny_pipeline, "sdxl": sdxl}


def adapted(model, dtype=torch.float32):
    """A pipeline with adapters of its network and of each text encoder."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(model)
    torch.manual_seed(0)
    of_words = dict(target_modules=["q_proj", "fc1"], r=2, init_lora_weights=False)
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(pipe, name, None) is not None:
            getattr(pipe, name).add_adapter(peft.LoraConfig(**of_words))
    of_unet = dict(target_modules=["to_k"], r=2, init_lora_weights=False)
    pipe.unet.add_adapter(peft.LoraConfig(**of_unet))
    return Denoiser(pipe, dtype=dtype, lora=["mine"])


@pytest.fixture(scope="module", params=BUILDERS)
def exact(request, tmp_path_factory):
    model = BUILDERS[request.param](tmp_path_factory.mktemp("adapters") / request.param)
    return adapted(model, torch.float64)


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return adapted(tiny_model)


def test_they_are_chosen_with_those_of_the_network(exact):
    encoders = [name for name in ("text_encoder", "text_encoder_2") if hasattr(exact.pipe, name)]
    layers = exact.layers()
    assert exact.default_parameters() == "lora" and len(exact.adapters) >= 2 * 2 * len(encoders)
    assert exact.adapters.items() <= layers.items()
    assert {name.partition(".")[0] for name in exact.adapters} == set(encoders)
    assert set(exact.layers(r"^text_encoder\.")) < layers.keys()
    assert plan(exact).layers == tuple(layers)
    assert not exact.layers("attn2-kv").keys() & exact.adapters.keys()


def test_rows_are_those_of_autograd_through_encoder_and_network(exact):
    shown = [PIL_Image.new("RGB", size) for size in ((16, 16), (24, 16), (16, 32))]
    layers, taped = exact.layers(), exact.with_graph_of_words()
    xt = torch.randn(3, *exact.latent_shape).double()
    delta = torch.randn_like(xt)
    condition = taped.placed(taped.encode_captions(TEXTS), shown)
    with for_gradients(taped, list(layers.values())), Tape(layers) as tape:
        assert not any(p.requires_grad for p in exact.pipe.text_encoder.parameters())
        ours = dict(tape.gradients(taped.predict(xt.clone(), 499, condition), delta))
    weights = [p for layer in layers.values() for p in parameters_of(layer)]
    assert all(any(name.startswith(part) for name in ours) for part in exact.word_encoders())
    for i, text in enumerate(TEXTS):
        read = exact.placed(exact.family.words.encode([text]), shown[i : i + 1])
        out = exact.predict(xt[[i]], 499, read)
        found = torch.autograd.grad(out, weights, delta[[i]], allow_unused=True)
        parts = iter(found)
        for name, layer in layers.items():
            own = [next(parts) for _ in parameters_of(layer)]
            if name in ours:
                truth = torch.cat([part.flatten() for part in own])
                assert (ours[name][i] - truth).norm() <= 1e-8 * truth.norm(), name
            else:  # of the last layer, which Stable Diffusion XL does not read
                assert own == [None] and ".layers.1." in name


def test_the_self_check_sees_them_and_leaves_the_encoders_as_they_were(denoiser, monkeypatch):
    own = denoiser.with_graph_of_words()
    x0, before = torch.randn(2, *own.latent_shape), own.fingerprint()
    said = self_check(own, own.layers(), x0, own.encode_captions(TEXTS[:2]))
    assert said.startswith(f"self-check: {len(own.layers())} layers exact")
    assert next(own.pipe.text_encoder.parameters()).dtype == torch.float32
    own._fingerprint = None
    assert own.fingerprint() == before
    monkeypatch.setattr(gradcheck, "LARGE", 0)
    said = self_check(own, own.layers(), x0, own.encode_captions(TEXTS[:2]))
    assert said.endswith(f"; {len(own.adapters)} layers of large text encoders are not checked")


def test_conditions_remember_their_texts_where_a_graph_is_wanted(denoiser, tmp_path):
    assert denoiser.encode_captions(TEXTS).texts == ()
    own, picture = denoiser.with_graph_of_words(), PIL_Image.new("RGB", (16, 16))
    for condition in (
        own.encode_captions(TEXTS),
        *(encode(own, [picture] * 3, TEXTS, tmp_path)[1] for _ in range(2)),  # the second is kept
    ):
        assert condition is not None and condition.texts == tuple(TEXTS)
        assert condition[[2, 0]].texts == ("a fish", "a red star")
        assert condition[1:].to(dtype=torch.float64).texts == ("a fish", "a fish")
        assert condition[:1].repeated(2).texts == ("a red star", "a red star")


OPTIONS = dict(method="concept-trak-unguided", timesteps=2, dim=64)


@pytest.fixture(scope="module")
def index(denoiser, tiny_images, tmp_path_factory):
    data = load_dataset(tiny_images).first(4)
    out = tmp_path_factory.mktemp("adapters") / "index"
    return build_index(denoiser, data, out, **OPTIONS)


def redness(pixels):
    return pixels[:, 0].mean((1, 2))


def questions(tiny_images):
    file, concept = tiny_images / "train-00000.png", Concept("a red star", "star", draws=2)
    return {
        "concept": concept,
        "image": Image("a red star", file, draws=2),
        "local": Local(concept, file, steps=2),
        "reward": Reward("a red star", Scorer("red", "red", redness), draws=2),
    }


@pytest.mark.parametrize("kind", ["concept", "image", "local", "reward"])
def test_every_question_has_gradients_of_them(index, denoiser, tiny_images, kind, monkeypatch):
    seen, made = [], extractor_module.probe_rows

    def listened(*given):
        for row in made(*given):
            seen.append(row.norms)
            yield row

    monkeypatch.setattr(extractor_module, "probe_rows", listened)
    answer = Session(index).attribute(questions(tiny_images)[kind])
    assert answer.scores.std() > 0 and len(seen) >= 2
    for norms in seen:
        assert all((norms[name] > 0).all() for name in denoiser.adapters)


def test_rows_of_pictures_hold_them_with_and_without_kept_encodings(
    index, denoiser, tiny_images, tmp_path
):
    data = load_dataset(tiny_images).first(4)
    rows = torch.cat(list(index.blocks()))
    for _ in range(2):
        kept = build_index(
            denoiser, data, tmp_path / "index", overwrite=True,
            encodings=tmp_path / "encodings", **OPTIONS,
        )  # fmt: skip
        torch.testing.assert_close(torch.cat(list(kept.blocks())), rows)
    machine = gradient_extractor(denoiser, index.recipe)
    without = gradient_extractor(denoiser, plan(denoiser, parameters=r"to_k\.lora", dim=64))
    assert machine.denoiser.words_have_graph and not without.denoiser.words_have_graph
    assert without.denoiser is denoiser
