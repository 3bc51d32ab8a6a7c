"""The recipe of an index: parameters that suit the model, and options that there are not."""

import json

import pytest
import torch
from support.command_line import headwater
from support.tiny import tiny_unconditional
from torch.nn import Parameter

from headwater import Denoiser, build_index, load_dataset
from headwater.errors import MethodError, ParameterError
from headwater.gradients.layers import size
from headwater.index.building.notes import notes_on_parameters
from headwater.index.config import IndexOptions, plan
from headwater.methods.table import METHODS


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """Folder of a model that reads no prompts, and so has no cross-attention."""
    return tiny_unconditional(tmp_path_factory.mktemp("free") / "model")


def test_cross_attention_where_there_is_some(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    recipe = plan(denoiser)
    assert recipe.parameters == "attn2" and recipe == plan(denoiser, parameters="attn2")
    assert notes_on_parameters(denoiser, recipe, {}) == [taken(denoiser, recipe)]


@pytest.mark.parametrize("parameters", ["attn2", "all"])
def test_influence_by_a_curvature_where_no_method_is_named(tiny_model, parameters):
    """With as many features as such methods have, or all numbers if they are fewer."""
    denoiser = Denoiser.load(tiny_model)
    recipe = plan(denoiser, parameters=parameters)
    made = (recipe.method, recipe.train_path, recipe.train_delta, recipe.curvature)
    assert made == ("ekfac-presence", "noising", "dsm", "ekfac")
    total = sum(size(layer) for layer in denoiser.layers(parameters).values())
    assert recipe.dim == min(32_768, total)
    assert plan(denoiser, parameters=parameters, method="trak").dim == min(8192, total)


def test_a_projection_that_no_curvature_can_be_fitted_to(tiny_model):
    denoiser, given = Denoiser.load(tiny_model), {"projection": "factored"}
    with pytest.raises(ParameterError, match=r"of ekfac-presence needs: .*--method concept-trak"):
        plan(denoiser, **given)
    assert plan(denoiser, method="concept-trak", **given).projection == "factored"


def taken(denoiser, recipe):
    """What is always said."""
    count = sum(
        p.numel()
        for layer in denoiser.layers(recipe.parameters).values()
        for p in layer.parameters()
    )
    return (
        f"--parameters {recipe.parameters} is taken, {count:,} numbers in "
        f"{len(recipe.layers)} layers"
    )


def test_another_set_where_there_is_none(free):
    denoiser = Denoiser.load(free)
    recipe = plan(denoiser, method="trak", timesteps=2)
    assert recipe.parameters == "attn" and all("attentions" in layer for layer in recipe.layers)
    assert notes_on_parameters(denoiser, recipe, {"parameters": None}) == [
        f"the model has no attn2 layers: {taken(denoiser, recipe)}"
    ]
    assert notes_on_parameters(denoiser, recipe, {"parameters": "attn"}) == [
        taken(denoiser, recipe)
    ]
    with pytest.raises(ParameterError, match="'attn2' matches no layer"):
        plan(denoiser, parameters="attn2")


def test_all_parameters_but_those_of_no_known_kind(tiny_model):
    denoiser, given = Denoiser.load(tiny_model), {"parameters": "all"}
    recipe = plan(denoiser, parameters="all")
    assert notes_on_parameters(denoiser, recipe, given) == [taken(denoiser, recipe)]
    denoiser.network.register_parameter("prompt_table", Parameter(torch.zeros(6, 8)))
    whole = sum(parameter.numel() for parameter in denoiser.network.parameters())
    assert notes_on_parameters(denoiser, recipe, given)[1:] == [
        f"--parameters all leaves out 48 of {whole:,} numbers, which stand in no layer with "
        "gradients of each sample, such as prompt_table (UNet2DConditionModel)"
    ]


def test_the_command_says_what_it_took(free, tiny_images, tmp_path):
    """Without any option, on a model that reads no prompts; and what it would take likewise."""
    command = ("index", free, tiny_images, tmp_path / "index", "--limit", 4, "--timesteps", 2)
    planned = headwater(*command, "--dry-run")
    built = headwater(*command)
    for result in (planned, built):
        assert result.code == 0, result.err
        assert "the model has no attn2 layers: --parameters attn is taken, " in result.err
    recipe = json.loads((tmp_path / "index" / "index.json").read_text())["recipe"]
    assert recipe["parameters"] == "attn" and recipe["layers"]


def test_pixels_have_no_parameters(free, tiny_images, tmp_path):
    notes = []
    data = load_dataset(tiny_images).first(3)
    index = build_index(
        Denoiser.load(free), data, tmp_path / "index", method="pixel-dot", note=notes.append
    )
    assert index.recipe.parameters == "" and not any("parameters" in note for note in notes)


def test_options_that_there_are_not(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    with pytest.raises(
        ParameterError, match="an index has no option 'timestep': it is 'timesteps'"
    ):
        plan(denoiser, timestep=2)
    with pytest.raises(ParameterError, match="no option 'x': there are method, parameters, times"):
        plan(denoiser, x=2)


@pytest.mark.parametrize("given", [{"parameters": "attn2"}, {"timesteps": 3}, {"dim": 8}])
def test_options_of_gradients_for_methods_without(tiny_model, given):
    (name,) = given
    with pytest.raises(MethodError, match=f"--{name} is of how gradients are made, and pixel-dot"):
        plan(Denoiser.load(tiny_model), method="pixel-dot", **given)
    usual = {name: getattr(IndexOptions(), name)}
    assert plan(Denoiser.load(tiny_model), method="pixel-dot", **usual).layers == ()


# --- guidance of an inversion ---------------------------------------------------------------------


def test_the_guidance_is_the_method_s_unless_given(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    assert plan(denoiser, method="concept-trak").train == METHODS["concept-trak"].train
    guidances = {
        name: plan(denoiser, method=name).inversion_guidance
        for name in ("concept-trak", "concept-trak-c", "concept-trak-unguided", "trak")
    }
    assert list(guidances.values()) == [7.5, 7.5, 1.0, 1.0]  # as published, and none
    weak = plan(denoiser, method="concept-trak", inversion_guidance=3)
    assert weak.inversion_guidance == 3.0 and weak.train.guidance == 3.0


@pytest.mark.parametrize(
    "method, guidance, other",
    [
        ("concept-trak", 1, "concept-trak-unguided"),
        ("concept-trak-c", 1.0, "concept-trak-c-unguided"),
        ("concept-trak-unguided", 7.5, "concept-trak"),
        ("concept-trak-c-unguided", 0, "concept-trak-c"),
    ],
)
def test_another_method_s_guidance_is_refused(tiny_model, method, guidance, other):
    denoiser = Denoiser.load(tiny_model)
    with pytest.raises(MethodError, match=f"is of {other}, and {method} is .*--method {other}$"):
        plan(denoiser, method=method, inversion_guidance=guidance)


def test_nothing_guides_without_prompts(free):
    denoiser, options = Denoiser.load(free), {"parameters": "attn", "timesteps": 2}
    with pytest.raises(MethodError, match=r"reads none: give --method concept-trak-unguided$"):
        plan(denoiser, method="concept-trak", **options)
    assert plan(denoiser, method="concept-trak-unguided", **options).inversion_guidance == 1.0
